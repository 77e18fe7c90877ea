"""Runs in MLflow: found again, never doubled, with the same names for every method."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from beft.errors import BeftError
from beft.files import read_json, write_json
from tasks.engine.fingerprint import contents
from tasks.project_files import PROJECT
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect
from tasks.tracking.runs import close_run, log_step, nested_run, open_run, page_of
from tests.support.finished_run import FINGERPRINT, FinishedRun

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


def log_all(run: FinishedRun, root: Path) -> str:
    """Log a whole run."""
    parent = open_run(FINGERPRINT, run.settings, root=root, facts=run.facts)
    for record in run.records:
        log_step(parent, record, run.folder(record), run.settings, root=root)
    return parent


def rows(database: Path) -> dict[str, int]:
    """How many rows every table of the database has."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608


@pytest.fixture(scope="module")
def logged(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project's folder (its path is an unkind one) in which the run was logged, and the parent run."""
    before = os.environ.pop("MLFLOW_TRACKING_URI", None)
    root = tmp_path_factory.mktemp("pröject with spaces")
    try:
        return root, log_all(finished_run, root)
    finally:
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def test_everything_is_in_the_project(logged: tuple[Path, str]) -> None:
    root, _ = logged
    assert {path.name for path in root.iterdir()} == {"mlflow"}
    assert {path.name for path in (root / "mlflow").iterdir()} == {"mlflow.db", "artifacts"}
    assert not (Path.cwd() / "mlruns").exists()
    assert not (Path.cwd() / "mlflow.db").exists()


def test_one_parent_with_a_nested_run_a_method(finished_run: FinishedRun, logged: tuple[Path, str]) -> None:
    root, parent = logged
    connection = connect(finished_run.settings, root)
    runs = connection.client.search_runs([connection.experiment])
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert len(runs) == 1 + len(nested)
    assert {run.data.tags["beft.nested"] for run in nested} == {
        f"{dataset}/{method}"
        for dataset in ("films", "plays")
        for method in ("all_biases", "target", "head_only", "logistic_regression")
    }
    assert {run.info.status for run in nested} == {"FINISHED"}


def test_every_method_has_the_same_metrics_with_the_numbers_of_the_evaluation(
    finished_run: FinishedRun, logged: tuple[Path, str]
) -> None:
    root, parent = logged
    connection = connect(finished_run.settings, root)
    evaluation = read_json(finished_run.inputs["evaluate/films"] / "evaluation.json")
    names = {"all_biases": "all_biases", evaluation["target"]: "target"}
    for method, scores in evaluation["splits"]["test"]["scores"].items():
        run = nested_run(connection, parent, "films", names.get(method, method))
        assert run is not None
        assert run.data.metrics["test/accuracy"] == scores["accuracy"]["value"]
        assert run.data.metrics["test/accuracy_low"] == scores["accuracy"]["low"]
        assert run.data.metrics["usage/trainable_parameters"] == evaluation["costs"][method]["trainable_parameters"]
        assert {"base", "dataset", "method", "regime", "seed"} <= set(run.data.tags)
        assert run.data.tags["method"] == run.data.params["method"] == method
        assert run.data.params["dataset.max_length"] == "16"
        headline = connection.client.get_run(parent).data.metrics
        suffix = "" if method == evaluation["target"] else f"_{method}"
        assert headline[f"films/test_accuracy{suffix}"] == scores["accuracy"]["value"]


def test_curves_have_a_point_an_epoch_under_the_same_names(finished_run: FinishedRun, logged: tuple[Path, str]) -> None:
    root, parent = logged
    connection = connect(finished_run.settings, root)
    for step, method, rate in (("probe", "all_biases", "0.006"), ("train", "target", "0.005")):
        history = read_json(finished_run.inputs[f"{step}/plays"] / "history.json")
        run = nested_run(connection, parent, "plays", method)
        assert run is not None
        for metric, key in (("train/loss", "train_loss"), ("dev/loss", "dev_loss"), ("dev/accuracy", "dev_metric")):
            points = connection.client.get_metric_history(run.info.run_id, metric)
            assert [(point.step, point.value) for point in points] == [(of["epoch"], of[key]) for of in history]
        assert run.data.params["train.learning_rate"] == rate
        assert run.data.params["train.epochs"] == "3"


def test_baselines_are_drawn_in_the_same_charts(finished_run: FinishedRun, logged: tuple[Path, str]) -> None:
    """The head alone by its epochs; logistic regression, which has none, by a single value."""
    root, parent = logged
    connection = connect(finished_run.settings, root)
    tuning = read_json(finished_run.inputs["evaluate/plays"] / "evaluation.json")["tuning"]
    head = nested_run(connection, parent, "plays", "head_only")
    logistic = nested_run(connection, parent, "plays", "logistic_regression")
    assert head is not None and logistic is not None
    for metric, key in (("dev/loss", "dev_loss"), ("dev/accuracy", "dev_metric")):
        points = connection.client.get_metric_history(head.info.run_id, metric)
        history, best = tuning["head_only"]["history"], tuning["head_only"]["best_epoch"]
        expected = [(of["epoch"], of[key]) for of in history[: max(1, best)]]
        assert [(point.step, point.value) for point in points] == expected
    assert len(history) == tuning["head_only"]["epochs"]
    assert best == 0 or history[best - 1]["dev_metric"] == tuning["head_only"]["dev"]
    assert head.data.metrics["usage/best_epoch"] == best
    assert logistic.data.metrics["dev/accuracy"] == tuning["logistic_regression"]["dev"]


def test_what_methods_differ_in_comes_first_on_the_page_that_compares(
    finished_run: FinishedRun, logged: tuple[Path, str]
) -> None:
    """The page begins with the first three, in the order of the alphabet."""
    root, parent = logged
    connection = connect(finished_run.settings, root)
    params: list[dict[str, str]] = []
    for dataset in ("films", "plays"):
        for method in ("all_biases", "target", "head_only", "logistic_regression"):
            run = nested_run(connection, parent, dataset, method)
            assert run is not None
            params.append(run.data.params)
    names = {name for of in params for name in of}

    def differing(runs: list[dict[str, str]]) -> list[str]:
        return sorted(name for name in names if len({of.get(name) for of in runs}) > 1)[:3]

    assert differing(params) == ["dataset", "method", "train.epochs"]
    assert differing(params[:4]) == ["method", "train.epochs", "train.learning_rate"]


def test_settings_are_flat_parameters(finished_run: FinishedRun, logged: tuple[Path, str]) -> None:
    root, parent = logged
    run = connect(finished_run.settings, root).client.get_run(parent)
    assert run.data.params["datasets.films.size"] == "60"
    assert run.data.params["train.learning_rate"] == "0.005"
    assert run.data.params["score.candidates"] == "query, key, value"
    assert run.data.tags["commit"] == "c" * 40


def test_pictures_are_among_the_files(finished_run: FinishedRun, logged: tuple[Path, str]) -> None:
    root, parent = logged
    connection = connect(finished_run.settings, root)
    files = {file.path for file in connection.client.list_artifacts(parent, "importance/films")}
    assert "importance/films/importance.png" in files
    target = nested_run(connection, parent, "films", "target")
    assert target is not None
    assert "history.json" in {file.path for file in connection.client.list_artifacts(target.info.run_id)}


def test_logging_again_writes_nothing(finished_run: FinishedRun, logged: tuple[Path, str]) -> None:
    root, parent = logged
    before = rows(root / "mlflow" / "mlflow.db")
    assert log_all(finished_run, root) == parent
    assert rows(root / "mlflow" / "mlflow.db") == before


def test_an_interrupted_logging_is_finished_not_doubled(
    finished_run: FinishedRun, logged: tuple[Path, str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in every write of one step in turn, and continued: the database is that of a run left alone."""
    from mlflow.tracking import MlflowClient

    root, _ = logged
    parent = open_run(FINGERPRINT, finished_run.settings, root=project, facts=finished_run.facts)
    writes = ("create_run", "log_inputs", "log_batch", "log_artifact", "set_terminated", "set_tag")
    step = next(record for record in finished_run.records if record.key == "train/films")
    for record in finished_run.records:
        for write in writes if record is step else ():
            with monkeypatch.context() as patch:
                original = getattr(MlflowClient, write)

                def dies(self: Any, *args: Any, _of: Any = original, **keywords: Any) -> None:
                    _of(self, *args, **keywords)
                    raise KeyboardInterrupt

                patch.setattr(MlflowClient, write, dies)
                with pytest.raises(KeyboardInterrupt):
                    log_step(parent, record, finished_run.folder(record), finished_run.settings, root=project)
            assert open_run(FINGERPRINT, finished_run.settings, root=project, facts=finished_run.facts) == parent
        log_step(parent, record, finished_run.folder(record), finished_run.settings, root=project)
    assert rows(project / "mlflow" / "mlflow.db") == rows(root / "mlflow" / "mlflow.db")


def test_what_was_made_again_with_other_bytes_is_shown(
    finished_run: FinishedRun, project: Path, tmp_path: Path
) -> None:
    """Training and evaluation were deleted and made again; their inputs are the same, their numbers are not."""
    records = {record.key: record for record in finished_run.records}
    parent = log_all(finished_run, project)
    connection = connect(finished_run.settings, project)
    before = nested_run(connection, parent, "films", "target")
    assert before is not None

    folders = {key: tmp_path / key for key in ("train/films", "evaluate/films")}
    for key, folder in folders.items():
        shutil.copytree(finished_run.inputs[key], folder)
    history = read_json(folders["train/films"] / "history.json")
    write_json(
        folders["train/films"] / "history.json", [one | {"dev_loss": one["dev_loss"] / 2} for one in history[:2]]
    )
    value = read_json(folders["evaluate/films"] / "evaluation.json")
    value["splits"]["test"]["scores"][value["target"]]["accuracy"]["value"] = 0.125
    value["tuning"]["logistic_regression"]["C"] = 123.0
    write_json(folders["evaluate/films"] / "evaluation.json", value)
    earlier = "2025-01-02T03:04:05+00:00"  # by the clock of the machine that made them again
    again = [
        records[key].model_copy(update={"outputs": contents(folder), "finished": earlier})
        for key, folder in folders.items()
    ]

    log = partial(log_step, parent, settings=finished_run.settings, root=project)
    assert [log(record, folders[record.key]) for record in again] == [True, True]
    for record in finished_run.records:  # as the flow does then
        log(
            record if record.key not in folders else again[list(folders).index(record.key)],
            folders.get(record.key, finished_run.inputs[record.key]),
        )
    target = nested_run(connection, parent, "films", "target")
    assert target is not None and target.info.run_id != before.info.run_id
    losses = connection.client.get_metric_history(target.info.run_id, "dev/loss")
    assert [point.value for point in losses] == [one["dev_loss"] / 2 for one in history[:2]]
    assert target.data.metrics["test/accuracy"] == 0.125
    logistic = nested_run(connection, parent, "films", "logistic_regression")
    assert logistic is not None and logistic.data.params["train.logistic_C"] == "123.0"
    probe = nested_run(connection, parent, "films", "all_biases")
    assert probe is not None and {"dev/loss", "test/accuracy"} <= set(probe.data.metrics)
    assert connection.client.get_run(parent).data.metrics["films/test_accuracy"] == 0.125
    # What was shown before is kept, but no more among the runs of this one.
    kept = connection.client.get_run(before.info.run_id)
    assert kept.data.metrics == before.data.metrics
    assert "mlflow.parentRunId" not in kept.data.tags and kept.info.run_name == "replaced: films/target"
    counted = rows(project / "mlflow" / "mlflow.db")
    assert not any(log(record, folders[record.key]) for record in again)
    assert rows(project / "mlflow" / "mlflow.db") == counted


def test_what_was_made_again_with_the_same_bytes_is_the_same(
    finished_run: FinishedRun, project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A training was deleted and made again; it took longer."""
    parent = open_run(FINGERPRINT, finished_run.settings, root=project, facts=finished_run.facts)
    record, folder = next(one for one in finished_run.records if one.key == "train/films"), tmp_path / "train"
    shutil.copytree(finished_run.inputs["train/films"], folder)
    counted = []
    for seconds in (2.0, 1234.5):
        write_json(folder / "cost.json", read_json(folder / "cost.json") | {"seconds": seconds})
        made = record.model_copy(update={"outputs": contents(folder)})
        assert not log_step(parent, made, folder, finished_run.settings, root=project)
        counted.append(rows(project / "mlflow" / "mlflow.db"))
    assert counted[0] == counted[1]
    assert "made again" not in caplog.text


def test_a_failed_run_says_why_and_is_continued(finished_run: FinishedRun, project: Path) -> None:
    settings = finished_run.settings
    parent = open_run(FINGERPRINT, settings, root=project, facts=finished_run.facts)
    close_run(parent, "FAILED", settings, root=project, error="column 'label' is missing")
    client = connect(settings, project).client
    assert client.get_run(parent).info.status == "FAILED"
    assert client.get_run(parent).data.tags["error"] == "column 'label' is missing"

    assert open_run(FINGERPRINT, settings, root=project, facts=finished_run.facts) == parent
    assert client.get_run(parent).info.status == "RUNNING"
    assert "error" not in client.get_run(parent).data.tags

    close_run(parent, "FINISHED", settings, root=project)
    ended = client.get_run(parent).info.end_time
    assert open_run(FINGERPRINT, settings, root=project, facts=finished_run.facts) == parent
    close_run(parent, "FAILED", settings, root=project, error="too late")
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(parent).info.end_time == ended
    assert page_of(parent, settings, root=project).endswith(f"/runs/{parent}")

    assert open_run("cd" * 32, settings, root=project, facts=finished_run.facts) != parent


def test_a_moved_project_finds_its_files(finished_run: FinishedRun, logged: tuple[Path, str], tmp_path: Path) -> None:
    root, parent = logged
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    shutil.rmtree(moved / "mlflow" / "artifacts" / parent / "artifacts" / "data")  # now the two differ
    client = connect(finished_run.settings, moved).client
    assert {file.path for file in client.list_artifacts(parent)} == {"importance", "evaluation", "merge"}
    original = connect(finished_run.settings, root).client
    assert "data" in {file.path for file in original.list_artifacts(parent)}


WRITE_UNDER_ANOTHER_PATH = """
import sys
from pathlib import Path
from tasks.tracking.connection import connect
from tasks.settings import PipelineSettings
client = connect(PipelineSettings(), Path(sys.argv[1])).client
sys.stdout.write(Path(client.download_artifacts(sys.argv[2], "note.txt")).read_text())
client.log_text(sys.argv[2], "from elsewhere", "answer.txt")
made = connect(PipelineSettings.from_mapping({"tracking": {"experiment": "another"}}), Path(sys.argv[1]))
client.log_text(client.create_run(made.experiment).info.run_id, "in an experiment made there", "note.txt")
"""


def test_a_folder_seen_under_another_path_keeps_its_addresses(project: Path, tmp_path: Path) -> None:
    """As a container sees it: in a view of the file system in which the folder's own path is empty."""
    other = tmp_path / "as the container has it"
    other.mkdir()
    view = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.getuid() else [])]
    if shutil.which("unshare") is None or subprocess.run([*view, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine gives no process a view of the file system of its own")
    connection = connect(PipelineSettings(), project)
    run = connection.client.create_run(connection.experiment).info.run_id
    connection.client.log_text(run, "from here", "note.txt")
    mounts = 'mount --bind "$1" "$2" && mount -t tmpfs none "$1" && exec "$3" -c "$4" "$2" "$5"'
    done = subprocess.run(
        [*view, "sh", "-c", mounts, "sh", str(project), str(other), sys.executable, WRITE_UNDER_ANOTHER_PATH, run],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "from here"), done.stderr
    assert "was moved" not in done.stderr
    connection = connect(PipelineSettings(), project)
    assert Path(connection.client.download_artifacts(run, "answer.txt")).read_text() == "from elsewhere"
    stored = (project / "mlflow" / "artifacts").as_uri()
    for experiment in connection.client.search_experiments(filter_string="name != 'Default'"):
        assert experiment.artifact_location == stored
        for found in connection.client.search_runs([experiment.experiment_id]):
            assert found.info.artifact_uri == f"{stored}/{found.info.run_id}/artifacts"
            assert (project / "mlflow" / "artifacts" / found.info.run_id / "artifacts" / "note.txt").is_file()


def test_a_folder_that_was_renamed_is_followed(project: Path, tmp_path: Path) -> None:
    connection = connect(PipelineSettings(), project)
    run = connection.client.create_run(connection.experiment).info.run_id
    connection.client.log_text(run, "from here", "note.txt")
    for name in ("renamed", "once more"):
        project = project.rename(tmp_path / name)
        client = connect(PipelineSettings(), project).client
        assert client.get_run(run).info.artifact_uri.startswith((project / "mlflow").as_uri())
        assert Path(client.download_artifacts(run, "note.txt")).read_text() == "from here"


def test_no_server_is_one_line_at_once(finished_run: FinishedRun, tmp_path: Path) -> None:
    values = finished_run.settings.model_dump(mode="json") | {"tracking": {"uri": "http://127.0.0.1:9"}}
    with pytest.raises(BeftError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"):
        open_run(FINGERPRINT, PipelineSettings.from_mapping(values), root=tmp_path, facts=finished_run.facts)


def test_a_locked_database_is_one_line(
    finished_run: FinishedRun, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = sqlite3.connect(project / "mlflow" / "mlflow.db", isolation_level=None)
    with closing(database):
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BeftError, match=r"^MLflow .* locked: another process .* start the run again.*$"):
            open_run(FINGERPRINT, finished_run.settings, root=project, facts=finished_run.facts)
    assert not any(record.exc_info for record in caplog.records)  # nor a traceback in the log
    assert open_run(FINGERPRINT, finished_run.settings, root=project, facts=finished_run.facts)


def test_files_that_cannot_be_written_are_one_line(finished_run: FinishedRun, project: Path) -> None:
    shutil.rmtree(project / "mlflow" / "artifacts")
    (project / "mlflow" / "artifacts").write_text("no folder")
    with pytest.raises(BeftError, match=r"^the files of MLflow: .*artifacts.*; start the run again"):
        open_run(FINGERPRINT, finished_run.settings, root=project, facts=finished_run.facts)


def test_a_deleted_experiment_is_explained(finished_run: FinishedRun, project: Path) -> None:
    connection = connect(finished_run.settings, project)
    connection.client.delete_experiment(connection.experiment)
    with pytest.raises(BeftError, match="mlflow experiments restore"):
        connect(finished_run.settings, project)
