"""What is recorded of a training is what its own process found, not that of the flow, which may be elsewhere."""

from pathlib import Path

import pytest
import yaml

import beft.models.device
from beft.adapters.adapter import Adapter
from beft.files import read_json
from tasks.engine.execution import run_step
from tasks.engine.provenance import process_facts
from tasks.engine.store import RECORD, StepRun
from tasks.run_metadata import facts_of_training
from tasks.settings import PipelineSettings
from tasks.steps.register import register
from tasks.steps.train import train_step
from tasks.tracking.connection import connect
from tasks.tracking.entries import entries
from tasks.tracking.runs import open_run
from tests.support.finished_run import FINGERPRINT, FinishedRun
from tests.support.registration import with_evaluation

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


def test_a_step_records_the_precision_of_its_own_process(
    finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process, as if it were on another machine, takes the other precision for the faster one."""
    values = finished_run.settings.model_dump(mode="json")
    values["base"] |= {"precision": "auto"}
    settings = PipelineSettings.from_mapping(values)
    there = beft.models.device.cpu_multiplies_bf16()
    monkeypatch.setattr(beft.models.device, "cpu_multiplies_bf16", lambda: not there)
    inputs = {name: finished_run.inputs[f"{name}/films"] for name in train_step.reads}
    done = run_step(StepRun(train_step, settings, inputs, tmp_path, "films"))
    trained = Adapter.load(done.folder / "adapter").provenance["compute"]
    assert done.record.compute == trained
    assert done.record.compute["precision"] == ("bf16" if there else "fp32") != process_facts(settings)["compute"]
    assert {"source_sha256", "commit", "dirty", "requirements_sha256", "environment"} == set(done.record.made_with)
    assert read_json(done.folder / RECORD)["made_with"] == done.record.made_with
    for of_parent in (entry.tags for entry in entries(done.record, done.folder, settings) if entry.nested is None):
        assert of_parent["precision"] == trained["precision"]


def test_what_is_registered_is_of_the_process_that_trained(
    finished_run: FinishedRun, project: Path, tmp_path: Path
) -> None:
    run = with_evaluation(finished_run, tmp_path / "evaluation", baseline=0.6, target=0.9)
    record = next(one for one in run.records if one.key == "train/films")
    elsewhere = {
        "source_sha256": "e" * 64,
        "commit": "d" * 40,
        "dirty": False,
        "requirements_sha256": "f" * 64,
        "environment": {"python": "3.11.99", "torch": "9.9.9+cu999", "cpu": "AVX512", "gpu": "a big one"},
    }
    compute = {"device": "cuda", "precision": "bf16", "threads": 3}
    record = record.model_copy(update={"compute": compute, "made_with": elsewhere})
    parent = open_run(FINGERPRINT, run.settings, root=project, facts=run.facts)
    out = project / "out"
    out.mkdir()
    trained = {"films": facts_of_training(run.facts, record)}
    register(run.settings, run.inputs, out, parent=parent, root=project, facts=run.facts, trained=trained)
    client = connect(run.settings, project).client
    [model] = client.search_registered_models()
    tags = client.get_model_version(model.name, "1").tags
    assert {name: tags[name] for name in compute} == {"device": "cuda", "precision": "bf16", "threads": "3"}
    assert (tags["commit"], tags["source_sha256"]) == ("d" * 40, "e" * 64)
    [folder] = (project / "mlflow" / "artifacts" / "models").glob("*/artifacts")
    facts = yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["facts"]
    assert facts["compute"] == compute and facts["environment"] == elsewhere["environment"]
    assert facts["data"] == run.facts["data"]
    assert "torch==9.9.9" in (folder / "requirements.txt").read_text().split()


def test_an_older_record_says_at_least_the_device(finished_run: FinishedRun) -> None:
    record = next(one for one in finished_run.records if one.key == "train/films")
    assert record.made_with == {}
    found = facts_of_training({"compute": {"device": "other"}, "commit": "c"}, record)
    assert found == {"compute": {"device": "cpu", "precision": "fp32", "threads": 1}, "commit": "c"}
    assert facts_of_training({"commit": "c"}, None) == {"commit": "c"}
