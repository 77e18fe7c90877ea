"""The data sets of a run in MLflow, read back as MLflow's own interface gives them."""

import json
from pathlib import Path
from typing import Any

import pytest

from beft.files import read_json
from tasks.tracking.connection import Connection, connect
from tasks.tracking.data_inputs import CONTEXTS, dataset_names
from tasks.tracking.runs import log_step, nested_run, open_run
from tests.support.finished_run import FINGERPRINT, FinishedRun

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


@pytest.fixture
def connection(finished_run: FinishedRun, project: Path) -> Connection:
    return connect(finished_run.settings, project)


@pytest.fixture
def parent(finished_run: FinishedRun, project: Path) -> str:
    """A run of the flow whose data is known."""
    return open_run(FINGERPRINT, finished_run.settings, root=project, facts=finished_run.facts)


def contexts(run: Any) -> dict[str, str]:
    """The name of each data set of a run, to its context: what the page of the run shows beside it."""
    return {
        one.dataset.name: tag.value
        for one in run.inputs.dataset_inputs
        for tag in one.tags
        if tag.key == "mlflow.data.context"
    }


def test_every_split_is_a_data_set_in_its_context_with_the_md5_of_the_data(
    finished_run: FinishedRun, connection: Connection, parent: str
) -> None:
    run = connection.client.get_run(parent)
    assert contexts(run) == {
        name: context for dataset in ("films", "plays") for name, context in dataset_names(dataset).items()
    }
    assert contexts(run)["films"] == "train" and contexts(run)["films (gate)"] == "gate"
    digests = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    data = finished_run.facts["data"]
    assert digests == {own: data[name]["prepared_md5"] for name in data for own in dataset_names(name)}


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_run_is_found_by_a_context(connection: Connection, parent: str, context: str) -> None:
    [run] = connection.client.search_runs([connection.experiment], f"dataset.context = '{context}'")
    assert run.info.run_id == parent


def test_a_data_set_names_its_folder_its_origin_its_columns_and_its_rows(
    finished_run: FinishedRun, connection: Connection, parent: str
) -> None:
    import mlflow

    known = read_json(finished_run.inputs["prepare/films"] / "data.json")
    for one in connection.client.get_run(parent).inputs.dataset_inputs:
        if not one.dataset.name.startswith("films"):
            continue
        assert mlflow.data.get_source(one).uri == "data/prepared/films"
        source, facts = json.loads(one.dataset.source), finished_run.facts["data"]["films"]
        assert {**source, **known["source"]} == source
        assert source["raw_md5"] == facts["raw_md5"] and source["prepared_sha256"] == facts["prepared_sha256"]
        columns = mlflow.types.Schema.from_json(json.dumps(json.loads(one.dataset.schema)["mlflow_colspec"]))
        assert columns.input_names() == ["id", "text", "text_pair", "label"]
        assert columns.input_types()[-1] == mlflow.types.DataType.integer
        assert json.loads(one.dataset.profile)["rows"] == known["rows"]


def test_a_nested_run_has_the_data_sets_of_its_own_dataset(
    finished_run: FinishedRun, connection: Connection, parent: str, project: Path
) -> None:
    record = next(one for one in finished_run.records if one.key == "train/films")
    log_step(parent, record, finished_run.folder(record), finished_run.settings, root=project)
    target = nested_run(connection, parent, "films", "target")
    assert target is not None and contexts(target) == dataset_names("films")
