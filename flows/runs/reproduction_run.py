"""One reproduction that is going on: its data, its price, its measurements, its report, its MLflow run."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from prefect.runtime import flow_run

from beft.errors import BeftError
from beft.files import read_json, sha256_json, whole_folder, write_json, write_text
from beft.training.cost import readable_seconds
from flows.runs.fan_out import width, windowed
from flows.runs.links import link_runs
from flows.runs.run_status import closing, ending, now
from flows.runs.steps import Submitted, run_through_prefect, submit
from tasks.engine.fingerprint import circumstances, contents_sha256
from tasks.engine.provenance import code_version, source_sha256
from tasks.engine.store import RECORD, Call, StepRecord
from tasks.engine.workspace import Workspace
from tasks.environment import stay_offline
from tasks.reproduction import tracking as tracking
from tasks.reproduction.catalogue import ReproductionRequest
from tasks.reproduction.cells import Outline
from tasks.reproduction.forecast import forecast_step
from tasks.reproduction.measured import Measurement, as_trained
from tasks.reproduction.plan import Missing, Plan, Planned, make_plan, reasons
from tasks.reproduction.price import Price, price_table
from tasks.reproduction.reproduce_report import PLAN, reproduce_report_step
from tasks.run_metadata import is_local, request_fingerprint
from tasks.settings import PipelineSettings
from tasks.steps.fetch import fetch_step
from tasks.steps.measure import measure_step
from tasks.steps.merge import merge_step
from tasks.steps.prepare import prepare_step
from tasks.tracking.flat_settings import ELSEWHERE
from tasks.tracking.runs import page_of

logger = logging.getLogger(__name__)


class Reproducing:
    """Each method does the next part of it.

    Attributes:
        record: What ``run.json`` holds.
        folders: Key of a measurement (or of another step) to the folder of its result.
    """

    def __init__(self, request: ReproductionRequest, settings: PipelineSettings, workspace: Workspace) -> None:
        self.request, self.settings, self.workspace, self.root = request, settings, workspace, workspace.root
        self.folders: dict[str, Path] = {}
        self.missing: list[Missing] = []
        self.record: dict[str, Any] = {
            "status": "RUNNING",
            "started": now(),
            "prefect_flow_run": str(flow_run.id) if flow_run.id else None,
            "request": request.model_dump(mode="json"),
            "steps": {},
        }
        self._plan: Plan | None = None
        self._todo: list[Planned] = []
        self._prepared: dict[str, Path] = {}
        self._prices: dict[str, Price] = {}
        self._merges: list[str] = []
        self._failed: list[str] = []
        self._parent: str | None = None

    @property
    def plan(self) -> Plan:
        """What it takes; there is none before ``make_plan``."""
        assert self._plan is not None
        return self._plan

    def make_plan(self) -> None:
        """Plan it.

        Raises:
            InputError: A name is unknown, a setting is wrong, or nothing at all can be measured.
        """
        self._plan = make_plan(self.request, self.settings, self.root)
        self.missing, self._todo = list(self._plan.missing), list(self._plan.measurements)

    def prepare(self) -> None:
        """Get and prepare the data of every measurement; what is not available says why."""
        if all(is_local(planned.settings, self.root) for planned in self._todo):
            stay_offline()
        raw: dict[str, Path | BeftError] = {}
        prepared: dict[str, Path | BeftError] = {}
        for planned in self._todo:
            name, settings = planned.dataset, planned.settings
            if name not in raw:
                raw[name] = self._data(
                    lambda s=settings, n=name: run_through_prefect(fetch_step, s, {}, self.root, n).folder
                )
            asked = sha256_json([name, settings.datasets[name].size, settings.split.model_dump(mode="json")])
            if asked not in prepared:
                prepared[asked] = self._prepare(raw[name], planned)
            folder = prepared[asked]
            if isinstance(folder, BeftError):
                self._miss(planned, str(folder))
            else:
                self._prepared[planned.key] = folder
        self._todo = [planned for planned in self._todo if planned.key in self._prepared]

    def _prepare(self, raw: Path | BeftError, planned: Planned) -> Path | BeftError:
        if isinstance(raw, BeftError):
            return raw
        inputs = {"fetch": raw}
        return self._data(
            lambda: run_through_prefect(prepare_step, planned.settings, inputs, self.root, planned.dataset).folder
        )

    @staticmethod
    def _data(make: Any) -> Path | BeftError:
        try:
            folder: Path = make()
        except BeftError as error:
            return error
        return folder

    def price(self) -> None:
        """Say what every measurement will take, and what is finished already.

        Raises:
            BeftError: Nothing can be measured.
        """
        for base in self.plan.bases:
            of_base = [planned for planned in self._todo if planned.base == base]
            try:
                self._price(of_base)
            except BeftError:  # perhaps one of the datasets alone is the reason
                self._price_each(of_base)
        self._todo = [planned for planned in self._todo if planned.key in self._prices]
        if not self._todo:
            raise BeftError("nothing of this can be measured here:\n" + "\n".join(reasons(self.missing)))
        table = price_table(self.plan.reproduction.title, self._todo, self._prices)
        self.record |= {"plan": table.to_markdown(), "missing": reasons(self.missing)}
        logger.info("%s", self.record["plan"])
        for line in reasons(self.missing):
            logger.warning("not measured: %s", line)

    def _price_each(self, of_base: list[Planned]) -> None:
        """The price of each measurement by itself; one that has none is missing, and stops no other."""
        for planned in of_base:
            try:
                self._price([planned])
            except BeftError as error:
                self._miss(planned, str(error))

    def _price(self, of_base: list[Planned]) -> None:
        """Measure one batch of each dataset and regime, unless everything is finished."""
        calls = {planned.key: self._call(planned) for planned in of_base}
        finished = {key for key, call in calls.items() if call.finished(call.fingerprint())}
        first = {f"{planned.dataset}/{planned.regime}": planned for planned in reversed(of_base)}
        if not first:
            return
        datasets = {planned.dataset: planned.settings.datasets[planned.dataset] for planned in first.values()}
        settings = of_base[0].settings.model_copy(update={"datasets": datasets})
        inputs = {key: self._prepared[planned.key] for key, planned in first.items()}
        folder = None
        if len(finished) < len(of_base):
            folder = run_through_prefect(forecast_step, settings, inputs, self.root).folder
        for planned in of_base:
            rows = read_json(self._prepared[planned.key] / "data.json")["rows"]
            self._prices[planned.key] = Price.of(planned, rows, folder, finished=planned.key in finished)

    def _call(self, planned: Planned) -> Call:
        inputs = {"prepare": self._prepared[planned.key]}
        return Call(measure_step, planned.settings, inputs, self.root, planned.dataset)

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Write the end of the reproduction into its folder and into MLflow, whatever that is.

        One that ends before ``identify`` is named by what was asked and the source alone.
        """
        with ending(self._close):
            yield

    def identify(self) -> None:
        """Name the reproduction by its fingerprint, now that its data is there; keep it in MLflow and in its folder."""
        facts = {"compute": circumstances(self._todo[0].settings.base).compute}
        self._name(self._fingerprint(), facts)
        parent = self._open(self.plan)
        own = tracking.tracked_in(self.settings)
        page = page_of(parent, own, root=self.root)
        link_runs(self.record["prefect_flow_run"], parent, page, own, self.root)

    def _name(self, fingerprint: str, facts: dict[str, Any]) -> None:
        folder = self.workspace.run_folder(fingerprint)
        code = code_version()
        facts |= {
            "commit": code.commit,
            "dirty": code.dirty,
            "source_sha256": source_sha256(),
            "run_folder": folder.relative_to(self.root).as_posix(),
        }
        self.record |= {"fingerprint": fingerprint, "run_folder": facts["run_folder"], "facts": facts}
        values = self.settings.model_dump(mode="json")
        write_text(folder / "params.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        self._write()

    def _open(self, plan: Plan | None = None) -> str:
        """The id of the MLflow run, which is found or made; no plan: it ends before ``identify``."""
        if self._parent is None:
            own, facts = self.record["fingerprint"], self.record["facts"]
            self._parent = tracking.open_reproduction(
                own, self.request, plan, self.settings, root=self.root, facts=facts
            )
            self.record["mlflow_run"] = self._parent
            self._write()
        return self._parent

    def _fingerprint(self) -> str:
        return sha256_json(
            {
                "request": self.plan.request.model_dump(mode="json"),
                "settings": self.settings.model_dump(mode="json", exclude=set(ELSEWHERE)),
                "data": {key: contents_sha256(folder) for key, folder in self._prepared.items()},
                "source": source_sha256(),
                "circumstances": [vars(circumstances(planned.settings.base)) for planned in self._todo],
                "bases": self.plan.bases,
            }
        )

    def measure(self) -> None:
        """Make every measurement, as many at once as the machine has places, and log it; one that fails stops no other.

        Raises:
            BeftError: All of them failed.
        """
        expected = spent = 0.0
        left = sum(price.seconds for price in self._prices.values() if not price.finished)
        starts = [partial(self._measure, planned) for planned in self._todo]
        # Where times are compared, nothing else computes.
        at_once = 1 if self.plan.reproduction.alone else width(self._todo[0].settings.base)
        for planned, submitted in zip(self._todo, windowed(starts, at_once), strict=True):
            price = self._prices[planned.key]
            try:
                done = submitted.done()
            except BeftError as error:
                logger.warning("%s: not measured: %s", planned.key, error)
                self._miss(planned, str(error))
                continue
            self.folders[planned.key] = done.folder
            self.record["facts"]["compute"] = done.record.compute  # of the machine that measured
            self.record["steps"][planned.key] = {
                "fingerprint": done.record.fingerprint,
                "folder": done.folder.relative_to(self.root).as_posix(),
                "seconds": done.record.seconds,
                "reused": done.reused,
            }
            for lost in Measurement.load(done.folder).failed:
                self._failed.append(f"{planned.dataset} {planned.regime} on {planned.base}: {lost.key}: {lost.reason}")
                logger.warning("not measured: %s", self._failed[-1])
            self._write()
            self._log(planned, done.record)
            if not done.reused:
                expected, spent, left = expected + price.seconds, spent + done.record.seconds, left - price.seconds
                if left > 0:
                    logger.info("about %s left", readable_seconds(left * spent / max(expected, 1e-9) / at_once))
        if not self.folders:
            raise BeftError("every measurement failed:\n" + "\n".join(reasons(self.missing)))

    def _measure(self, planned: Planned) -> Submitted:
        inputs = {"prepare": self._prepared[planned.key]}
        return submit(measure_step, planned.settings, inputs, self.root, planned.dataset)

    def _log(self, planned: Planned, made: StepRecord) -> None:
        assert self._parent is not None
        tracking.log_measurement(
            self._parent,
            planned,
            Measurement.load(self.folders[planned.key]),
            made=made,
            settings=self.settings,
            root=self.root,
        )

    def merge(self) -> None:
        """Merge the adapters of the datasets, seed by seed, where the reproduction is about merging."""
        if not self.plan.reproduction.merged:
            return
        term = self.plan.methods[0]
        by_seed: dict[tuple[str, str, int], dict[str, Planned]] = {}
        for planned in self._todo:
            for seed in planned.seeds if planned.key in self.folders and term in planned.methods else ():
                by_seed.setdefault((planned.base, planned.regime, seed), {})[planned.dataset] = planned
        for (base, regime, seed), of_seed in by_seed.items():
            if len(of_seed) < 2:
                continue
            first = next(iter(of_seed.values())).settings
            datasets = {name: planned.settings.datasets[name] for name, planned in of_seed.items()}
            settings = first.model_copy(update={"datasets": datasets, "seed": seed})
            key = f"merge/{base}/{regime}-seed{seed}"
            try:
                inputs = self._merge_inputs(of_seed, term, seed, f"{base}-{regime}-{seed}")
                done = run_through_prefect(merge_step, settings, inputs, self.root)
            except BeftError as error:  # perhaps the training of one dataset failed under this seed
                logger.warning("%s: %s", key, error)
                self.missing.append(Missing(base, " + ".join(of_seed), regime, ("merge",), str(error)))
                continue
            self.folders[key] = done.folder
            self._merges.append(key)

    def _merge_inputs(self, of_seed: dict[str, Planned], term: str, seed: int, name: str) -> dict[str, Path]:
        """What the step ``merge`` reads of each dataset.

        Raises:
            BeftError: A measurement holds no adapter of that seed.
        """
        inputs: dict[str, Path] = {}
        for dataset, planned in of_seed.items():
            trained = self.root / self.record["run_folder"] / "trained" / name / dataset
            as_trained(self.folders[planned.key], term, seed, trained)
            inputs |= {
                f"prepare/{dataset}": self._prepared[planned.key],
                f"train/{dataset}": trained,
                f"evaluate/{dataset}": trained,
            }
        return inputs

    def report(self) -> None:
        """Write the report, copy it to ``reports/NAME``, and show its table on the flow run's page."""
        run_folder = self.root / self.record["run_folder"]
        with whole_folder(run_folder / "plan") as out:
            write_json(out / PLAN, self._outline().model_dump(mode="json"))
        inputs = {"plan": run_folder / "plan", **self.folders}
        done = run_through_prefect(reproduce_report_step, self.settings, inputs, self.root)
        target = self.root / "reports" / self.plan.request.name
        with whole_folder(target) as out:
            shutil.copytree(done.folder, out, ignore=shutil.ignore_patterns(RECORD), dirs_exist_ok=True)
        self.folders["reproduce_report"] = done.folder
        self.record["report"] = target.relative_to(self.root).as_posix()
        self.record["headline"] = done.record.summary["headline"]
        leave_table(self.plan.request.name, (target / "table.md").read_text(encoding="utf-8"))

    def _outline(self) -> Outline:
        plan = self.plan
        return Outline(
            name=plan.request.name,
            title=plan.reproduction.title,
            protocol=plan.request.protocol,
            seeds=plan.request.seeds,
            bases=plan.bases,
            datasets=plan.datasets,
            regimes=plan.regimes,
            methods=plan.methods,
            measurements={
                planned.key: (planned.base, planned.dataset, planned.regime)
                for planned in plan.measurements
                if planned.key in self.folders
            },
            merges=tuple(self._merges),
            missing=tuple(self.missing),
            facts={"compute": self.record["facts"]["compute"], "commit": self.record["facts"]["commit"]},
        )

    def _miss(self, planned: Planned, reason: str) -> None:
        self.missing.append(Missing(planned.base, planned.dataset, planned.regime, planned.methods, reason))

    def _close(self, status: Any, error: str | None = None) -> None:
        self.record |= {
            "status": status,
            "finished": now(),
            "error": error,
            "missing": [*reasons(self.missing), *self._failed],
        }
        report = self.record.get("report")
        with closing(status):
            if "fingerprint" not in self.record:
                asked = self.settings.model_dump(mode="json", exclude=set(ELSEWHERE))
                self._name(request_fingerprint([self.request.model_dump(mode="json"), asked]), {})
            self._write()
            tracking.finish_reproduction(
                self._open(),
                status,
                self.settings,
                root=self.root,
                metrics=self.record.get("headline"),
                report=self.root / report if report else None,
                error=error,
            )

    def _write(self) -> None:
        self.workspace.record_run(self.record["fingerprint"], self.record, self.folders)


def leave_table(name: str, markdown: str) -> None:
    """Show the table on the flow run's page in Prefect."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(key=f"reproduce-{name}", markdown=markdown, description=f"The table of {name}")
