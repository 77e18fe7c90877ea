"""Texts without a limit of their own, in the columns of MLflow's databases: SQLite and PostgreSQL."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from beft.adapters.adapter import Adapter
from beft.errors import SettingsError
from beft.files import read_json, write_json
from tasks.model_name import model_name
from tasks.run_metadata import check_settings
from tasks.settings import PipelineSettings
from tasks.steps.register import register
from tasks.tracking.connection import connect
from tasks.tracking.limits import as_metric_name, name_problems
from tasks.tracking.runs import close_run, log_step, open_run
from tests.support.finished_run import FINGERPRINT, FinishedRun
from tests.support.registration import with_evaluation
from tests.support.servers.postgresql import PASSWORD, USER, postgresql
from tests.tasks.registry.test_promote import with_adapter

pytestmark = pytest.mark.usefixtures("_no_tracking_address")

LABELS = tuple(f"a label with a rather long name, as some have, number {number:03}" for number in range(300))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/mlflow.db"
        return
    with postgresql() as port:
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}/{USER}"


@pytest.fixture
def wordy(finished_run: FinishedRun, tmp_path: Path, address: str) -> FinishedRun:
    """A run with 300 labels, a title of a page, a source of two, and a character that PostgreSQL does not take."""
    run = with_evaluation(finished_run, tmp_path / "evaluation", baseline=0.6, target=0.9)
    adapter = Adapter.load(run.inputs["train/films"] / "adapter")
    head = {name: torch.zeros(len(LABELS), *value.shape[1:]) for name, value in adapter.head.items()}
    run = with_adapter(run, replace(adapter, labels=LABELS, head=head), tmp_path / "train")
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    for path in run.inputs["prepare/films"].iterdir():
        (prepared / path.name).symlink_to(path)
    (prepared / "data.json").unlink()
    data = read_json(run.inputs["prepare/films"] / "data.json")
    data |= {"title": "A title\0" + "that does not end " * 500, "source": data["source"] | {"note": "long " * 20_000}}
    write_json(prepared / "data.json", data)
    facts = run.facts | {"data": {"films": run.facts["data"]["films"] | {"folder": str(prepared)}}}
    values = run.settings.model_dump(mode="json") | {"tracking": {"uri": address, "experiment": "e" * 240}}
    settings = PipelineSettings.from_mapping(values)
    return replace(run, settings=settings, facts=facts, inputs=run.inputs | {"prepare/films": prepared})


def test_long_texts_are_cut_and_registered(wordy: FinishedRun, tmp_path: Path) -> None:
    parent = open_run(FINGERPRINT, wordy.settings, root=tmp_path, facts=wordy.facts)
    for record in wordy.records:
        if record.dataset == "films":
            log_step(parent, record, wordy.folder(record), wordy.settings, root=tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    [model] = register(wordy.settings, wordy.inputs, out, parent=parent, root=tmp_path, facts=wordy.facts)["models"]
    close_run(parent, "FAILED", wordy.settings, root=tmp_path, error="a line\0" * 10_000)
    client = connect(wordy.settings, tmp_path).client
    found = client.get_registered_model(model["name"])
    assert len(found.description) == 5000 and found.description.endswith("…")
    version = client.get_model_version(model["name"], "1")
    assert len(version.tags["labels"]) == 5000
    assert "## Use" in version.description  # the labels leave room for it
    assert "\0" not in version.description
    assert client.get_run(parent).data.tags["error"].startswith("a line?a line?")


def test_many_datasets_make_a_long_name_of_a_run(finished_run: FinishedRun, tmp_path: Path, address: str) -> None:
    values = finished_run.settings.model_dump(mode="json")
    names = [f"a_dataset_with_a_long_name_{number:02}" for number in range(30)]
    values |= {"tracking": {"uri": address}, "datasets": dict.fromkeys(names, values["datasets"]["films"])}
    settings = PipelineSettings.from_mapping(values)
    parent = open_run(FINGERPRINT, settings, root=tmp_path, facts=finished_run.facts)
    name = connect(settings, tmp_path).client.get_run(parent).info.run_name
    assert len(name) == 250 and name.endswith(f"… · {FINGERPRINT[:8]}")


def test_names_at_the_limit_are_kept(tmp_path: Path, address: str) -> None:
    """The longest names that are let through fit into the columns: of a model, a metric, a parameter, a tag."""
    dataset = "d" * 100
    settings = PipelineSettings.from_mapping(
        {"tracking": {"uri": address, "model_prefix": "p" * 129}, "datasets": {dataset: {}}, "base": {"source": "o/m"}}
    )
    assert list(name_problems(settings)) == []
    client, experiment = (found := connect(settings, tmp_path)).client, found.experiment
    client.create_registered_model(model_name("p" * 129, f"hub:o/m@{'0' * 40}", dataset))
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, f"merge/cosine_{dataset}_{dataset}", 1.0)
    client.log_metric(run, f"{dataset}/test_gain_over_logistic_regression", 1.0)
    client.log_metric(run, f"{dataset}/test_macro_f1_merged_searched_weights", 1.0)
    client.log_param(run, f"datasets.{dataset}.max_length", 1)
    client.set_tag(run, f"beft.logged.{dataset}", "1")


def test_names_beyond_it_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    values = {"datasets": {"rotten_tomatoes": {}}, "tracking": {"model_prefix": "p" * 300}}
    with pytest.raises(SettingsError, match=r"model_prefix: .*shorten it to 2\d\d characters") as error:
        check_settings(PipelineSettings.from_mapping(values), tmp_path)
    fits = int(str(error.value).rpartition("shorten it to ")[2].split()[0])
    values["tracking"] = {"model_prefix": "p" * fits}
    assert list(name_problems(PipelineSettings.from_mapping(values))) == []
    values["tracking"] = {"model_prefix": "p" * (fits + 1)}
    assert len(list(name_problems(PipelineSettings.from_mapping(values)))) == 1
    [long] = name_problems(PipelineSettings.from_mapping({"datasets": {"d" * 101: {}}}))
    assert "has 101 characters" in long
    with pytest.raises(SettingsError, match="240"):
        PipelineSettings.from_mapping({"tracking": {"experiment": "e" * 241}})


@pytest.mark.parametrize("name", ["value-0.01", "value, cross-entropy, rate 0.01, division 1, fold 5", "a/b+c (d)"])
def test_the_name_of_any_training_can_be_a_part_of_a_metrics_name(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(f"trials/{as_metric_name(name)}/train/loss")
    assert as_metric_name("value, rate 0.01") == "value rate 0.01" and as_metric_name("value-0.01") == "value-0.01"
