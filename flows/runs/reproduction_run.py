"""One reproduction that is going on: its data, its price, its measurements, its report, its MLflow run."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from beft.errors import BeftError
from beft.files import atomic_directory, read_json, sha256_json, write_json
from beft.training.engine.cost import readable_seconds
from flows.runs.chains import width
from flows.runs.flow_run_name import flow_run_id
from flows.runs.steps import run_through_prefect
from flows.runs.tracked_run import Done, TrackedRun
from tasks.engine.fingerprint import compute_environment
from tasks.engine.store import RECORD, StepRecord, StepRun
from tasks.engine.workspace import Workspace
from tasks.environment import stay_offline
from tasks.reproduction import tracking
from tasks.reproduction.catalogue import ReproductionRequest
from tasks.reproduction.cells import ReportPlan, merge_key
from tasks.reproduction.forecast import forecast_step
from tasks.reproduction.measured import Measurement, as_trained
from tasks.reproduction.plan import Plan, PlannedMeasurement, Unavailable, make_plan, reasons
from tasks.reproduction.price import PlanCost, price_table
from tasks.reproduction.reproduce_report import PLAN, reproduce_report_step
from tasks.run_metadata import is_local, run_fingerprint
from tasks.settings import PipelineSettings
from tasks.steps.fetch import fetch_step
from tasks.steps.measure import measure_step
from tasks.steps.merge import merge_step
from tasks.steps.prepare import prepare_step

logger = logging.getLogger(__name__)


class ReproductionRun(TrackedRun):
    """A reproduction that is going on: each method does the next part of it.

    Its folders are those of the measurements by their keys, and of the merges and the report.
    """

    def __init__(self, request: ReproductionRequest, settings: PipelineSettings, workspace: Workspace) -> None:
        super().__init__(settings, workspace, flow_run_id(), request=request.model_dump(mode="json"))
        self.request = request
        self.missing: list[Unavailable] = []
        self._plan: Plan | None = None
        self._todo: list[PlannedMeasurement] = []
        self._prepared: dict[str, Path] = {}
        self._prices: dict[str, PlanCost] = {}
        self._merges: list[str] = []
        self._failed: list[str] = []
        self._seconds: dict[str, float] = {}  # what the measurements of this run took

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
            requested = sha256_json([name, settings.datasets[name].size, settings.split.model_dump(mode="json")])
            if requested not in prepared:
                prepared[requested] = self._prepare(raw[name], planned)
            folder = prepared[requested]
            if isinstance(folder, BeftError):
                self._miss(planned, str(folder))
            else:
                self._prepared[planned.key] = folder
        self._todo = [planned for planned in self._todo if planned.key in self._prepared]

    def _prepare(self, raw: Path | BeftError, planned: PlannedMeasurement) -> Path | BeftError:
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
        self.record["plan"] = table.to_markdown()
        self.write()
        logger.info("%s", self.record["plan"])
        for line in reasons(self.missing):
            logger.warning("not measured: %s", line)

    def _price_each(self, of_base: list[PlannedMeasurement]) -> None:
        """The price of each measurement by itself; one that has none is missing, and stops no other."""
        for planned in of_base:
            try:
                self._price([planned])
            except BeftError as error:
                self._miss(planned, str(error))

    def _price(self, of_base: list[PlannedMeasurement]) -> None:
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
            self._prices[planned.key] = PlanCost.of(planned, rows, folder, finished=planned.key in finished)

    def _call(self, planned: PlannedMeasurement) -> StepRun:
        inputs = {"prepare": self._prepared[planned.key]}
        return StepRun(measure_step, planned.settings, inputs, self.root, planned.dataset)

    def start(self) -> None:
        """Open its folder and its MLflow run; one that was interrupted is continued in both.

        Raises:
            BeftError: MLflow cannot be reached.
        """
        self.name()
        self.record["facts"]["compute"] = compute_environment(self._todo[0].settings.base).compute
        self.open()

    def fingerprint(self) -> str:
        """Over the request, the settings, the sources of code and data, and what is computed with."""
        of_each = {planned.key: run_fingerprint(planned.settings, self.root) for planned in self._todo}
        return run_fingerprint(self.settings, self.root, [self.request.model_dump(mode="json"), of_each])

    @property
    def tracked_settings(self) -> PipelineSettings:
        """Those of the experiment that holds all reproductions."""
        return tracking.tracked_in(self.settings)

    def open_tracking(self) -> str:
        """The run that has this fingerprint, or a new one."""
        own, facts = self.record["fingerprint"], self.record["facts"]
        return tracking.open_reproduction(own, self.request, self._plan, self.settings, root=self.root, facts=facts)

    def close_tracking(self, status: Any, error: str | None) -> None:
        """End it, with the headline metrics and the report."""
        assert self.parent is not None
        report, metrics = self.record.get("report"), self.record.get("headline")
        folder = self.root / report if report else None
        tracking.finish_reproduction(
            self.parent, status, self.settings, root=self.root, metrics=metrics, report=folder, error=error
        )

    def measure(self) -> None:
        """Make every measurement, as many at once as the machine has places, and log it; one that fails stops no other.

        Raises:
            BeftError: All of them failed.
        """
        # Where times are compared, nothing else computes.
        at_once = 1 if self.plan.reproduction.alone else width(self._todo[0].settings.base)
        chains = {planned.key: partial(self._measure, planned, at_once) for planned in self._todo}
        _, errors = self.run_chains(chains, at_once)
        self.record["failed"] = len(errors)
        if not self.folders:
            raise BeftError("every measurement failed:\n" + "\n".join(reasons(self.missing)))

    def _measure(self, planned: PlannedMeasurement, at_once: int) -> None:
        inputs = {"prepare": self._prepared[planned.key]}
        try:
            done = run_through_prefect(measure_step, planned.settings, inputs, self.root, planned.dataset)
        except BeftError as error:
            self.post(partial(self._miss, planned, str(error)))
            raise
        self.post(partial(self._keep, planned, done, at_once))

    def _keep(self, planned: PlannedMeasurement, done: Done, at_once: int) -> None:
        self.record["facts"]["compute"] = done.record.compute  # of the machine that measured
        self.note(planned.key, done)
        for lost in Measurement.load(done.folder).failed:
            self._failed.append(f"{planned.dataset} {planned.regime} on {planned.base}: {lost.key}: {lost.reason}")
            logger.warning("not measured: %s", self._failed[-1])
        self._log(planned, done.record)
        if not done.reused:
            self._seconds[planned.key] = done.record.seconds
            self._say_time_left(at_once)

    def _say_time_left(self, at_once: int) -> None:
        """Log how long the rest takes, by how long what was measured here took."""
        open_prices = {key: price.seconds for key, price in self._prices.items() if not price.finished}
        left = sum(seconds for key, seconds in open_prices.items() if key not in self._seconds)
        expected = sum(open_prices.get(key, 0.0) for key in self._seconds)
        if left > 0:
            spent = sum(self._seconds.values())
            logger.info("about %s left", readable_seconds(left * spent / max(expected, 1e-9) / at_once))

    def _log(self, planned: PlannedMeasurement, made: StepRecord) -> None:
        assert self.parent is not None
        tracking.log_measurement(
            self.parent,
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
        by_seed: dict[tuple[str, str, int], dict[str, PlannedMeasurement]] = {}
        for planned in self._todo:
            for seed in planned.seeds if planned.key in self.folders and term in planned.methods else ():
                by_seed.setdefault((planned.base, planned.regime, seed), {})[planned.dataset] = planned
        for (base, regime, seed), of_seed in by_seed.items():
            if len(of_seed) < 2:
                continue
            first = next(iter(of_seed.values())).settings
            datasets = {name: planned.settings.datasets[name] for name, planned in of_seed.items()}
            settings = first.model_copy(update={"datasets": datasets, "seed": seed})
            key = merge_key(base, regime, seed)
            try:
                inputs = self._merge_inputs(of_seed, term, seed, f"{base}-{regime}-{seed}")
                done = run_through_prefect(merge_step, settings, inputs, self.root)
            except BeftError as error:  # perhaps the training of one dataset failed under this seed
                logger.warning("%s: %s", key, error)
                self.missing.append(Unavailable(base, " + ".join(of_seed), regime, ("merge",), str(error)))
                continue
            self.folders[key] = done.folder
            self._merges.append(key)

    def _merge_inputs(self, of_seed: dict[str, PlannedMeasurement], term: str, seed: int, name: str) -> dict[str, Path]:
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
        with atomic_directory(run_folder / "plan") as out:
            write_json(out / PLAN, self._outline().model_dump(mode="json"))
        inputs = {"plan": run_folder / "plan", **self.folders}
        done = run_through_prefect(reproduce_report_step, self.settings, inputs, self.root)
        target = self.root / "reports" / self.plan.request.name
        with atomic_directory(target) as out:
            shutil.copytree(done.folder, out, ignore=shutil.ignore_patterns(RECORD), dirs_exist_ok=True)
        self.folders["reproduce_report"] = done.folder
        self.record["report"] = target.relative_to(self.root).as_posix()
        self.record["headline"] = done.record.summary["headline"]
        leave_table(self.plan.request.name, (target / "table.md").read_text(encoding="utf-8"))

    def _outline(self) -> ReportPlan:
        plan = self.plan
        return ReportPlan(
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

    def _miss(self, planned: PlannedMeasurement, reason: str) -> None:
        self.missing.append(Unavailable(planned.base, planned.dataset, planned.regime, planned.methods, reason))

    def write(self) -> None:
        """Write ``run.json``, with what could not be measured."""
        self.record["missing"] = [*reasons(self.missing), *self._failed]
        super().write()


def leave_table(name: str, markdown: str) -> None:
    """Show the table on the flow run's page in Prefect."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(key=f"reproduce-{name}", markdown=markdown, description=f"The table of {name}")
