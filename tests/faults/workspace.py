"""A small workspace that faults strike, and what is left in it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beft.files import read_json, sha256_tree
from flows.servers.prefect_server import server_address
from tasks.engine.declaration import step_key
from tests.conftest import build_tiny
from tests.faults.driver import GO, PAUSED
from tests.support.small_data import small_workspace
from tests.support.tiny_bases import save_base

PROJECT = Path(__file__).resolve().parent.parent.parent
STEPS = ("probe/mine", "score/mine", "train/mine", "evaluate/mine", "merge", "report", "register")
SETTINGS = {
    "probe": {"epochs": 3, "learning_rate": 0.01},  # no other test has these: Prefect would show its result as cached
    "train": {"loss": "cross_entropy", "epochs": 4, "learning_rate": 0.01},
    "evaluate": {"resamples": 100},
}


@dataclass
class Faulty:
    """A folder in which ``beft run`` is started, struck, and started again.

    Attributes:
        said: What the runs wrote, one text a run, the newest last.
        options: Further options of ``beft run``.
        tracked_in: The folder with MLflow's database; none: its own.
    """

    root: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    tracked_in: Path | None = None
    _process: "subprocess.Popen[bytes] | None" = None

    def goes_on_as(self, undisturbed: "Faulty") -> None:
        """Start it again, and make sure that it ends with the adapter and the registry of a run that nothing struck."""
        assert self.run() == 0, self.said[-1]
        assert self.adapter() == undisturbed.adapter()
        assert self.registry() == undisturbed.registry()

    def let_go(self, within: float = 240) -> None:
        """Have a run that stands at a step go on, and wait for its end, so many seconds at most."""
        assert self._process is not None
        (self.root / GO).touch()
        self._process.wait(within)

    @contextmanager
    def running(self, stop: str = "nowhere") -> Iterator["subprocess.Popen[bytes]"]:
        """A run as a process; in the block it stands at a step, after it the run has ended."""
        for name in (PAUSED, GO):
            (self.root / name).unlink(missing_ok=True)
        log = self.root / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.driver", stop, *self.options],
                cwd=self.root,
                env={
                    **os.environ,
                    "PYTHONPATH": str(PROJECT),
                    "PREFECT_API_URL": server_address(),
                    "COLUMNS": "400",
                    **self.environment,
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                # what runs in the background of a shell, as these tests may, ignores it
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        self._process = process
        try:
            deadline = time.monotonic() + 240
            while process.poll() is None and not (self.root / PAUSED).exists() and stop != "nowhere":
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            if stop != "nowhere":
                assert process.poll() is None, log.read_text()
            yield process
            self.let_go()
        finally:
            process.kill()
            process.wait()
            self.said.append(log.read_text())

    def run(self) -> int:
        """One run to its end; the exit status."""
        with self.running() as process:
            process.wait(240)
        return process.returncode

    def message(self) -> str:
        """What the last run said at its end; there is no traceback in all that it wrote."""
        text = self.said[-1]
        assert "Traceback" not in text, text
        lines = [line for line in text.splitlines() if line.startswith("beft: ")]
        assert lines, text
        return lines[-1].removeprefix("beft: ")

    def record(self) -> dict[str, Any]:
        """The ``run.json`` of the run that finished last."""
        found: dict[str, Any] = read_json(self.root / "runs" / "latest" / "run.json")
        return found

    def adapter(self) -> str:
        """The sha256 of the trained adapter's files."""
        return sha256_tree(self.root / "runs" / "latest" / "train" / "mine" / "adapter")

    def times(self) -> dict[str, str]:
        """When each step whose folder stands below ``runs/steps``, whole, was finished."""
        folder = self.root / "runs" / "steps"
        records = [read_json(path) for path in folder.glob("*/step.json") if not path.parent.name.startswith(".")]
        return {step_key(one["step"], one["dataset"]): one["finished"] for one in records}

    def finished(self) -> set[str]:
        """These steps, without the data's."""
        return set(self.times()) & set(STEPS)

    def half_written(self) -> list[str]:
        """Folders under a temporary name."""
        return sorted(path.name for path in (self.root / "runs" / "steps").glob(".*"))

    def registry(self) -> dict[str, Any]:
        """Versions, their aliases and the unfinished among them; statuses of the flow's runs; logged models."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{(self.tracked_in or self.root) / 'mlflow' / 'mlflow.db'}")
        flows = [one for one in client.search_experiments() if not one.name.endswith("-decisions")]
        experiments = [one.experiment_id for one in flows]
        runs = client.search_runs(experiments)
        models = client.search_registered_models()
        return {
            "parents": sorted(run.info.status for run in runs if "mlflow.parentRunId" not in run.data.tags),
            "nested": len([run for run in runs if "mlflow.parentRunId" in run.data.tags]),
            "aliases": [dict(model.aliases) for model in models],
            "versions": [
                (str(version.version), version.tags.get("registration")) for version in client.search_model_versions()
            ],
            "models": len(client.search_logged_models(experiments)),
        }


def small_faulty(root: Path, **environment: str) -> Faulty:
    """A workspace with a tiny base and 240 made-up reviews, in which nothing has run yet."""
    root.mkdir(parents=True, exist_ok=True)
    base = save_base(root / "base", build_tiny("bert"), pooling="mean")
    compute = {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1}
    small_workspace(root, {**SETTINGS, "base": compute})
    return Faulty(root, environment=environment)
