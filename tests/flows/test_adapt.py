"""The main flow on a small dataset and a tiny base, on a real temporary Prefect server."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from beft.errors import BeftError, InputError, SettingsError
from beft.files import read_json, sha256_tree
from flows.deployments.deployment import deploy
from flows.runs.artifacts import artifact_key
from flows.servers.prefect_server import server_address
from tasks.engine.execution import run_step
from tasks.engine.store import StepRun
from tasks.engine.workspace import Workspace, WorkspaceBusyError
from tasks.pipeline import find_step
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect
from tests.conftest import build_tiny
from tests.support.deployments import release_slots
from tests.support.small_data import reviews, small_workspace, write_reviews
from tests.support.tiny_bases import save_base
from tests.support.waiting import wait_until

PROJECT = Path(__file__).resolve().parent.parent.parent
EPOCHS = 200
SECRET = "never-in-a-file-5e"
QUICK = {
    "probe": {"epochs": 2, "learning_rate": 0.01},
    "train": {"loss": "cross_entropy", "epochs": 2, "learning_rate": 0.01},
    "evaluate": {"resamples": 100},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small dataset, a tiny base, and nothing else; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"):
        monkeypatch.setenv(name, SECRET)
    base = save_base(tmp_path / "base", build_tiny("bert"), pooling="mean")
    compute = {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1}
    return small_workspace(tmp_path, {**QUICK, "base": compute})


def settings_of(root: Path, **changes: Any) -> PipelineSettings:
    return PipelineSettings.read(
        root / "params.yaml", {name.replace("__", "."): value for name, value in changes.items()}
    )


def tracking_client(root: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")


def all_runs(root: Path) -> list[Any]:
    client = tracking_client(root)
    flows = [found for found in client.search_experiments() if not found.name.endswith("-decisions")]
    return [run for found in flows for run in client.search_runs([found.experiment_id])]


def parents(root: Path) -> list[Any]:
    """The runs of the flow in the workspace's MLflow database that are below no other."""
    return [run for run in all_runs(root) if "mlflow.parentRunId" not in run.data.tags]


def nested(root: Path) -> dict[str, Any]:
    """The runs that are below another, by what they are of it."""
    return {run.data.tags["beft.nested"]: run for run in all_runs(root) if "mlflow.parentRunId" in run.data.tags}


def epochs_shown(root: Path, run: Any) -> list[int]:
    return sorted(point.step for point in tracking_client(root).get_metric_history(run.info.run_id, "dev/accuracy"))


def test_its_parameter_is_the_form_of_all_settings() -> None:
    from flows.adapt import adapt

    schema = adapt.parameters.model_dump()
    text = str(schema)
    assert schema["required"] == ["settings"]
    for name in PipelineSettings.model_fields:
        assert name in text
    assert "CPU threads of a step, stored with the adapter" in text


class TestBeforeAnythingStarts:
    """What is wrong is said at once: no server, no file."""

    @pytest.fixture(autouse=True)
    def no_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import flows.adapt

        def never(*_arguments: object) -> None:
            raise AssertionError("the flow was started")

        monkeypatch.setattr(flows.adapt, "adapt", never)

    def test_every_problem_of_the_settings_is_named(self, root: Path) -> None:
        from flows.main_job import run_main_job

        wrong = settings_of(root, datasets={"mien": {}, "mine": {"size": "low"}}, base__source="./bass")
        with pytest.raises(SettingsError) as error:
            run_main_job(wrong)
        message = str(error.value)
        assert message.startswith("3 problems")
        assert "Did you mean 'mine'" in message and "bass" in message and "no size 'low'" in message
        assert not (root / "runs").exists()

    def test_a_second_run_is_refused(self, root: Path) -> None:
        from flows.main_job import run_main_job

        holder = (
            "import sys\nfrom pathlib import Path\nfrom tasks.engine.workspace import Workspace\n"
            "with Workspace(Path.cwd()).locked():\n"
            "    sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()\n"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", holder],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with other:
            assert other.stdout and other.stdout.readline() == b"held\n"
            with pytest.raises(WorkspaceBusyError, match=f"process {other.pid}"):
                run_main_job(settings_of(root))
            other.kill()


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_data_that_fails_its_validation_stops_it_before_training(root: Path) -> None:
    from flows.main_job import run_main_job

    write_reviews(root, [*reviews(), ("a warm film with a twist", "superb")])
    with pytest.raises(InputError, match="superb"):
        run_main_job(settings_of(root))
    steps = {path.name.split("-")[0] for path in (root / "runs" / "steps").iterdir()}
    assert steps == {"fetch"}
    is_recorded_as_failed(root, "superb")
    failed = nested(root)["failed/validate_raw/mine"]
    assert failed.info.status == "FAILED" and "superb" in failed.data.tags["error"]
    with Workspace(root).locked():
        pass


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_deleted_experiment_of_decisions_stops_it_before_training(root: Path) -> None:
    from flows.main_job import run_main_job

    client = connect(settings_of(root), root).client
    client.delete_experiment(client.create_experiment("beft-decisions"))
    with pytest.raises(BeftError, match="'beft-decisions' was deleted"):
        run_main_job(settings_of(root))
    assert not (root / "runs" / "steps").exists()
    is_recorded_as_failed(root, "was deleted")


def is_recorded_as_failed(root: Path, reason: str) -> None:
    """The one run of the workspace, in its folder and in MLflow."""
    [path] = (root / "runs").glob("*/run.json")
    record = read_json(path)
    assert record["status"] == "FAILED" and reason in record["error"] and record["finished"]
    assert not (root / "runs" / "latest").exists()
    assert PipelineSettings.read(path.with_name("params.yaml")).datasets
    [run] = parents(root)
    assert run.info.run_id == record["mlflow_run"]
    assert run.info.status == "FAILED" and reason in run.data.tags["error"]
    assert run.data.tags["run_folder"] == f"runs/{path.parent.name}"
    assert run.data.tags["dataset"] == "mine"


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("wrong", "reason"), [("base", "bass"), ("source", "mine.csv")])
def test_a_run_that_ends_before_its_data_is_there_is_in_its_folder_and_in_mlflow_with_the_reason(
    root: Path, wrong: str, reason: str
) -> None:
    """Started as a deployment starts it, whose flow run is there before anything can be refused."""
    from flows.adapt import adapt

    settings = settings_of(root, base__source="./bass") if wrong == "base" else settings_of(root)
    if wrong == "source":
        raw = root / "data" / "files" / "mine.csv"
        raw.unlink()
        raw.mkdir()  # where a file should be
    for _ in range(2):  # the same once more is the same run
        with pytest.raises(BeftError, match=reason):
            adapt(settings)
        is_recorded_as_failed(root, reason)


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_it_is_in_its_folder_also_where_mlflow_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.adapt import adapt

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match="bass"):
        adapt(settings_of(root, base__source="./bass"))
    [path] = (root / "runs").glob("*/run.json")
    assert read_json(path)["status"] == "FAILED" and "bass" in read_json(path)["error"]


@contextmanager
def working(root: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker of the pool gpu, for the server of the tests; what is left of it at the end is killed."""
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "worker", "--pool", "gpu"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(PROJECT), "PREFECT_API_URL": server_address()},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    family = psutil.Process(worker.pid)
    try:
        yield worker
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in family.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        worker.kill()
        worker.wait()


def started(root: Path, **changes: Any) -> Any:
    """A run of the deployment with changed settings, as the form in the Prefect page starts it."""
    from prefect.deployments import run_deployment

    settings = settings_of(root, **changes).model_dump(mode="json")
    return run_deployment("adapt/nightly", parameters={"settings": settings}, timeout=0)


def state_of(run: Any) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(run.id).state


def artifacts_of(run: Any) -> dict[str, Any]:
    """The artifacts that a flow run and its tasks left, by their keys."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        return {str(artifact.key): artifact for artifact in client.read_artifacts(artifact_filter=mine)}


@pytest.fixture
def killed(root: Path, prefect_server: None) -> Iterator[Path]:
    """The workspace after a deployed run whose worker was killed with it, between two epochs of the training."""
    shutil.copy(PROJECT / "prefect.yaml", root)
    deploy(root)
    log = root / "log.txt"
    with working(root, log) as worker:
        run = started(root, train__epochs=EPOCHS)
        wait_until(lambda: f"value: epoch 2/{EPOCHS}" in log.read_text(), 300, log=log)
        wait_until(lambda: 1 in epochs_shown(root, nested(root)["mine/target"]), 60, log=log)  # it follows the log
        for process in reversed([*psutil.Process(worker.pid).children(recursive=True), worker]):
            process.send_signal(signal.SIGKILL)
    assert state_of(run).is_running()  # nobody has told the server
    release_slots()
    yield root


@pytest.mark.end_to_end
def test_a_killed_run_is_continued_and_a_second_one_does_nothing(
    killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Law 8, over the whole flow."""
    from flows.main_job import run_main_job

    root, settings = killed, settings_of(killed, train__epochs=EPOCHS)
    (parent,) = parents(root)
    assert parent.info.status == "RUNNING"
    live = nested(root)["mine/target"]
    assert live.info.status == "RUNNING" and 1 in epochs_shown(root, live)

    log = root / "log2.txt"
    with working(root, log) as worker:
        run = started(root, train__epochs=EPOCHS)
        wait_until(lambda: bool(state_of(run).is_final()), 300, log=log)
        assert state_of(run).is_completed(), log.read_text()
        assert "probe/mine: reused" in log.read_text()
        worker.terminate()
        assert worker.wait(60) == 0
    first = read_json(root / "runs" / "latest" / "run.json")
    assert first["prefect_flow_run"] == str(run.id)
    assert first["status"] == "FINISHED"
    before_the_kill = {f"{step}/mine" for step in ("fetch", "validate_raw", "prepare", "validate", "probe", "score")}
    after_it = {"train/mine", "evaluate/mine", "merge", "report", "register"}
    assert {name for name, step in first["steps"].items() if step["reused"]} == before_the_kill
    assert {name for name, step in first["steps"].items() if not step["reused"]} == after_it

    # The training went on from its checkpoint, and ends as one that nobody interrupted.
    train = find_step("train")
    folder = root / first["steps"]["train/mine"]["folder"]
    summary = read_json(folder / "step.json")["summary"]
    assert 0 < summary["steps_here"] < summary["steps"]
    inputs = {name: root / first["steps"][f"{name}/mine"]["folder"] for name in train.reads}
    alone = run_step(StepRun(train, settings, inputs, root / "alone", "mine"))
    assert alone.record.summary["steps_here"] == alone.record.summary["steps"]
    assert sha256_tree(alone.folder / "adapter") == sha256_tree(folder / "adapter")

    # The same MLflow run was continued.
    assert first["mlflow_run"] == parent.info.run_id
    assert [run.info.status for run in parents(root)] == ["FINISHED"]
    target = nested(root)["mine/target"]
    assert target.info.run_id == live.info.run_id and target.info.status == "FINISHED"
    assert set(epochs_shown(root, target)) >= set(range(1, EPOCHS + 1))
    assert target.info.run_name.endswith(" · mine") and target.info.run_name != "target · mine"

    # Each page leads to the other, and every step shows what it found.
    (parent,) = parents(root)
    assert parent.data.tags["prefect.flow_run"] == str(run.id)
    assert str(run.id) in parent.data.tags["mlflow.note.content"]
    left = artifacts_of(run)
    assert f"/runs/{parent.info.run_id}" in left["mlflow-run"].data
    assert left["train-mine-progress"].data == 100
    assert "data:image/png;base64," in left["score-mine-2"].data
    assert {artifact_key(key) for key in after_it | before_the_kill} <= set(left)

    # What a run leaves.
    latest = root / "runs" / "latest"
    assert (latest / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert (latest / "train" / "mine" / "adapter" / "beft.json").is_file()
    assert PipelineSettings.read(latest / "params.yaml") == settings
    assert first["models"][0]["version"] == "1"

    # A second run.
    steps = sha256_tree(root / "runs" / "steps")
    capsys.readouterr()
    second = run_main_job(settings)
    assert all(step["reused"] for step in second["steps"].values())
    assert "11 of 11 steps were finished already and reused." in capsys.readouterr().out
    assert sha256_tree(root / "runs" / "steps") == steps
    assert second["models"] == first["models"]
    assert [run.info.run_id for run in parents(root)] == [parent.info.run_id]

    # Passwords stay in the environment: not in run.json, a log, MLflow's database, the journal or Prefect's own files.
    files = [
        path for folder in (root, Path(os.environ["PREFECT_HOME"])) for path in folder.rglob("*") if path.is_file()
    ]
    assert any(path.name == "run.json" for path in files) and any(path.name == "mlflow.db" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
