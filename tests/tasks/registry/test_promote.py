"""A challenger against the champion, on real adapters of a tiny base: compared, judged, written down, moved."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from beft.adapters.adapter import Adapter
from beft.datasets.preparation import prepare_source
from beft.datasets.prepared import PreparedData, load_split, save_split
from beft.errors import InputError
from beft.evaluation.promotion.verdict import judge
from beft.files import read_json, write_json
from beft.inference.features import extract_features
from beft.inference.predictor import Predictor
from beft.settings import SplitSettings
from beft.training.opening import open_session
from tasks.pipeline import find_step
from tasks.registry.aliases import CHALLENGER, CHAMPION, PREVIOUS, ROLLED_BACK, aliases_of, rollback
from tasks.registry.gate import DECISION, GateDecisions
from tasks.registry.journal import append_entry, journal_path, read_journal
from tasks.registry.package import TRAINING_ROWS_FILE
from tasks.registry.promote import (
    Candidates,
    Decision,
    candidates,
    evidence_of,
    fetch_candidates,
    promote,
    report_of,
)
from tasks.settings import PipelineSettings
from tasks.steps.compare import compare
from tasks.tracking.connection import connect
from tests.beft.datasets.small import fetched
from tests.conftest import build_tiny
from tests.support.finished_run import FinishedRun
from tests.support.registration import registered, with_evaluation
from tests.support.tiny_bases import save_base

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


@pytest.fixture(scope="module")
def good(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run over films whose head scikit-learn fitted to the gate rows themselves, so that its adapter answers well."""
    folder = tmp_path_factory.mktemp("good")
    session = open_session(finished_run.settings, PreparedData.from_folder(finished_run.inputs["prepare/films"]))
    adapter = Adapter.load(finished_run.inputs["train/films"] / "adapter")
    gate = session.rows("gate")
    with adapter.attached(session.classifier):
        features = extract_features(session.classifier, gate.encoded, "head").numpy()
    fitted = LogisticRegression(C=100, max_iter=5000).fit(features, gate.labels)
    weight, bias = (torch.from_numpy(value).float() for value in (fitted.coef_[0], fitted.intercept_))
    values = {"weight": torch.stack([-weight, weight]) / 2, "bias": torch.cat([-bias, bias]) / 2}
    adapter = replace(adapter, head={name: values[name.rsplit(".", 1)[-1]] for name in adapter.head})
    run = with_adapter(finished_run, adapter, folder / "train")
    return with_evaluation(run, folder, baseline=0.6, target=0.9)


def with_adapter(run: FinishedRun, adapter: Adapter, folder: Path) -> FinishedRun:
    """The run with another trained adapter for films."""
    adapter.save(folder / "adapter")
    for name in ("train.json", "history.json", "cost.json"):
        write_json(folder / name, read_json(run.inputs["train/films"] / name))
    return replace(run, inputs=run.inputs | {"train/films": folder})


def retrained(run: FinishedRun, folder: Path, *, scale: float) -> FinishedRun:
    """The run with another adapter: the head scaled, at -1 every answer is turned round."""
    adapter = Adapter.load(run.inputs["train/films"] / "adapter")
    head = {name: scale * value for name, value in adapter.head.items()}
    return with_adapter(run, replace(adapter, head=head), folder)


def settings_with(run: FinishedRun, **promotion: Any) -> PipelineSettings:
    """The run's settings, with rules that a few rows and a busy machine cannot break."""
    rules = run.settings.promotion.model_copy(update={"latency_ratio": 100.0, "slice_rows": 10, **promotion})
    return run.settings.model_copy(update={"promotion": rules})


def judged(run: FinishedRun, project: Path, out: Path, **promotion: Any) -> tuple[Candidates, dict[str, Any]]:
    """Compare and decide as the flow does."""
    settings = settings_with(run, **promotion)
    connection = connect(settings, project)
    [model] = [found.name for found in connection.client.search_registered_models()]
    found = candidates(connection, model)
    inputs: Mapping[str, Path] = fetch_candidates(connection, found, project / "runs" / "registered")
    compared = out / "compared"
    compared.mkdir(parents=True)
    prepared = run.inputs["prepare/films"]
    compare(settings, {**inputs, "prepare": prepared}, compared, dataset="films")
    decision = promote(settings, found, compared=compared, prepared=prepared, out=out, root=project)
    return found, decision.to_json()


def test_the_better_one_replaces_the_champion_and_the_worse_one_does_not(
    good: FinishedRun, project: Path, tmp_path: Path
) -> None:
    worse = retrained(good, tmp_path / "worse", scale=-1.0)
    registered(worse, project, "01" * 32)
    registered(good, project, "02" * 32)
    found, decision = judged(good, project, tmp_path / "first", flips={})
    assert (found.challenger, found.champion) == ("2", "1")
    assert decision["outcome"] == "PROMOTE", decision["checks"]
    client = connect(good.settings, project).client
    assert aliases_of(connect(good.settings, project), found.model) == {
        "challenger": "2",
        CHAMPION: "2",
        PREVIOUS: "1",
    }
    tags = client.get_model_version(found.model, "2").tags
    assert tags["promotion_verdict"] == "PROMOTE"
    assert "a certain gain" in tags["promotion_reasons"]
    assert tags["gate_decisions"] == "2"  # the first champion was one
    report = (tmp_path / "first" / "promotion.md").read_text()
    assert report.startswith(f"**PROMOTE: version 2 of {found.model}, against version 1**")
    entries = read_journal(journal_path(project))
    assert [entry["kind"] for entry in entries[-3:]] == ["gate decision", "alias moves", "alias moves done"]
    assert entries[-3]["verdict"] == "PROMOTE"

    # The other way round.
    client.set_registered_model_alias(found.model, "challenger", "1")
    _, decision = judged(good, project, tmp_path / "second", flips={})
    assert decision["outcome"] == "REJECT"
    assert aliases_of(connect(good.settings, project), found.model)[CHAMPION] == "2"
    assert client.get_model_version(found.model, "1").tags["promotion_verdict"] == "REJECT"


def test_a_version_that_was_rolled_back_is_promoted_again_only_by_its_name(
    good: FinishedRun, project: Path, tmp_path: Path
) -> None:
    registered(retrained(good, tmp_path / "worse", scale=-1.0), project, "01" * 32)
    registered(good, project, "02" * 32)
    found, first = judged(good, project, tmp_path / "first", flips={})
    assert first["outcome"] == "PROMOTE", first["checks"]
    settings = settings_with(good, flips={})
    connection = connect(settings, project)
    assert rollback(connection, project, found.model, reason="it answers nonsense") == "1"
    comparison = read_json(tmp_path / "first" / "compared" / "comparison.json")

    def decided(number: int, named: str | None = None, **changes: Any) -> Decision:
        """The same versions, compared anew: each would count as a decision of its own."""
        compared = tmp_path / f"compared-{number}"
        write_json(compared / "comparison.json", comparison | {"asked_again": number} | changes)
        return promote(
            settings,
            candidates(connection, found.model, named),
            compared=compared,
            prepared=good.inputs["prepare/films"],
            out=tmp_path / f"out-{number}",
            root=project,
        )

    for number, named in enumerate([None, CHALLENGER]):  # an alias is no name of a version
        held = decided(number, named)
        assert held.verdict.outcome == "HOLD"
        [reason] = held.verdict.reasons
        assert reason.startswith("version 2 was rolled back on 2") and "UTC: it answers nonsense; name it" in reason
        assert reason.endswith("beft promote --challenger 2")
        assert not report_of(held).count("Decisions taken on these rows")
    [reason] = decided(2, kind="labelled traffic").verdict.reasons
    assert reason.endswith("beft promote --on traffic --challenger 2")
    assert aliases_of(connection, found.model) == {CHALLENGER: "2", CHAMPION: "1", PREVIOUS: "2"}

    anyway = decided(3, "2")
    assert anyway.verdict.outcome == "PROMOTE"
    assert anyway.decisions == first["decisions_on_gate"] + 1  # those that were held are not counted
    assert aliases_of(connection, found.model)[CHAMPION] == "2"
    assert ROLLED_BACK not in connection.client.get_model_version(found.model, "2").tags


def test_what_is_compared_is_what_the_versions_predict(good: FinishedRun, project: Path, tmp_path: Path) -> None:
    registered(retrained(good, tmp_path / "worse", scale=-1.0), project, "01" * 32)
    registered(good, project, "02" * 32)
    folder = tmp_path / "prepared"
    shutil.copytree(good.inputs["prepare/films"], folder)
    rows = load_split(folder, "gate")
    domains = ["cinema" if number % 3 else "stage" for number in range(len(rows))]
    save_split(folder, "gate", replace(rows, kept={"domain": domains}))
    sliced = replace(good, inputs=good.inputs | {"prepare/films": folder})
    found, decision = judged(sliced, project, tmp_path / "out", slices=("length", "label", "domain", "elsewhere"))
    comparison = read_json(tmp_path / "out" / "compared" / "comparison.json")
    gate = load_split(good.inputs["prepare/films"], "gate")
    torch.set_num_threads(1)
    for side, folder in (("challenger", good), ("champion", None)):
        adapter = (folder.inputs["train/films"] if folder else tmp_path / "worse") / "adapter"
        predictor = Predictor(adapter, base=good.base, device="cpu")
        answers = [predictor.labels.index(row["label"]) for row in predictor.predict(gate.texts)]
        assert comparison["sides"][side]["score"] == pytest.approx(np.mean(np.array(answers) == gate.labels))
    counts = np.bincount(gate.labels)
    assert comparison["floor"] == pytest.approx(counts.max() / counts.sum())
    assert comparison["rows"] == len(gate)
    # The tiny base knows no capitals, so that case never changes an answer.
    assert comparison["sides"]["challenger"]["flips"]["case"] == 0
    assert {one["name"].split("=")[0] for one in comparison["slices"]} == {"length", "label", "domain"}
    by_domain = {one["name"]: one["rows"] for one in comparison["slices"] if one["name"].startswith("domain")}
    assert by_domain == {"domain=cinema": domains.count("cinema"), "domain=stage": domains.count("stage")}
    assert {"slice domain=cinema", "slice domain=stage"} <= {check["name"] for check in decision["checks"]}
    assert {check["name"] for check in decision["checks"]} >= {"floor", "gain", "behaviour case", "size", "gate"}
    assert found.challenger == "2"


def test_a_tie_holds_and_the_same_question_is_counted_once(good: FinishedRun, project: Path, tmp_path: Path) -> None:
    registered(good, project, "01" * 32)
    registered(retrained(good, tmp_path / "same", scale=1.5), project, "02" * 32)
    _, decision = judged(good, project, tmp_path / "first", flips={})
    assert decision["outcome"] == "HOLD"
    assert any("no certain gain" in reason for reason in decision["reasons"])
    settings = settings_with(good, flips={})
    found = candidates(connect(settings, project), decision["model"])
    prepared, compared = good.inputs["prepare/films"], tmp_path / "first" / "compared"
    again = promote(settings, found, compared=compared, prepared=prepared, out=tmp_path / "again", root=project)
    assert again.decisions == decision["decisions_on_gate"] == 2
    assert aliases_of(connect(settings, project), found.model)[CHAMPION] == "1"


def test_every_decision_is_counted_from_wherever_it_is_asked(good: FinishedRun, project: Path, tmp_path: Path) -> None:
    """From other workspaces too, after the tags of the version were written over, and after it was deleted."""
    registered(good, project, "01" * 32)
    registered(retrained(good, tmp_path / "same", scale=1.5), project, "02" * 32)
    found, first = judged(good, project, tmp_path / "first", flips={})
    assert first["decisions_on_gate"] == 2
    address = f"sqlite:///{project}/mlflow/mlflow.db"
    settings = settings_with(good, flips={})
    settings = settings.model_copy(update={"tracking": settings.tracking.model_copy(update={"uri": address})})
    prepared = good.inputs["prepare/films"]
    comparison = read_json(tmp_path / "first" / "compared" / "comparison.json")

    def decided(workspace: str, number: int) -> int:
        compared = tmp_path / f"compared-{number}"
        write_json(compared / "comparison.json", comparison | {"asked_again": number})
        root = tmp_path / workspace
        out = root / "out"
        return promote(settings, found, compared=compared, prepared=prepared, out=out, root=root).decisions

    assert decided("b", 3) == 3
    assert decided("c", 4) == 4
    assert decided("c", 4) == 4  # the same one
    client = connect(settings, tmp_path / "c").client
    for version in ("1", "2"):
        client.set_model_version_tag(found.model, version, "gate_sha256", "of another split")
    assert decided("d", 5) == 5
    experiment = client.get_experiment_by_name("beft-decisions")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["model"] for run in runs} == {found.model}
    client.delete_run(runs[0].info.run_id)
    assert decided("e", 6) == 6


def test_decisions_of_older_versions_are_counted_and_kept(good: FinishedRun, project: Path) -> None:
    """They stand in tags of versions and in the journal alone."""
    connection = connect(good.settings, project)
    connection.client.create_registered_model("old")
    version = connection.client.create_model_version("old", source=(project / "nothing").as_uri())
    for name, value in {"gate_sha256": "9" * 64, "gate_decision": "a", "promotion_decision": "b"}.items():
        connection.client.set_model_version_tag("old", version.version, name, value)
    known = {"model": "old", "version": "1", "gate_sha256": "9" * 64}
    entered = append_entry(journal_path(project), DECISION, "c", **known)
    assert GateDecisions(good.settings, project).on("9" * 64) == {"a", "b", entered}
    connection.client.delete_model_version("old", version.version)
    journal_path(project).unlink()
    assert GateDecisions(good.settings, project).on("9" * 64) == {"a", "b", entered}
    assert GateDecisions(good.settings, project).on("8" * 64) == set()


def test_decisions_are_counted_whatever_the_experiments_of_those_who_took_them_are_called(
    finished_run: FinishedRun, project: Path, tmp_path: Path
) -> None:
    address = f"sqlite:///{project}/mlflow/mlflow.db"

    def of(experiment: str) -> GateDecisions:
        values = finished_run.settings.model_dump(mode="json")
        values["tracking"] |= {"uri": address, "experiment": experiment}
        return GateDecisions(PipelineSettings.from_mapping(values), tmp_path / experiment)

    one, other = of("one"), of("other")
    first = one.note("a", gate_sha256="9" * 64, model="m", version="1")
    second = other.note("b", gate_sha256="9" * 64, model="m", version="2")
    assert one.on("9" * 64) == other.on("9" * 64) == {first, second}
    client = connect(finished_run.settings, project).client
    client.delete_experiment(client.get_experiment_by_name("one-decisions").experiment_id)
    assert other.on("9" * 64) == {first, second}
    assert len(client.search_runs([client.get_experiment_by_name("other-decisions").experiment_id])) == 1


def test_rows_that_a_version_was_trained_on_never_judge_it(good: FinishedRun, project: Path, tmp_path: Path) -> None:
    registered(good, project)
    connection = connect(good.settings, project)
    [model] = [found.name for found in connection.client.search_registered_models()]
    inputs = fetch_candidates(connection, Candidates(model, "1", None), tmp_path / "registered")
    prepared = good.inputs["prepare/films"]
    seen = read_json(inputs["challenger"] / TRAINING_ROWS_FILE)
    assert seen == sorted({row for split in ("train", "dev") for row in load_split(prepared, split).ids})
    gate = load_split(prepared, "gate")
    assert set(seen).isdisjoint(gate.ids)
    write_json(inputs["challenger"] / TRAINING_ROWS_FILE, sorted([*seen, *gate.ids[:25]]))
    out = tmp_path / "out"
    out.mkdir()
    found = compare(good.settings, {**inputs, "prepare": prepared}, out, dataset="films")
    assert found["rows"] == len(gate) - 25
    write_json(inputs["challenger"] / TRAINING_ROWS_FILE, sorted([*seen, *gate.ids]))
    with pytest.raises(InputError, match="bring fresh rows"):
        compare(good.settings, {**inputs, "prepare": prepared}, out, dataset="films")


def test_a_champion_that_changed_meanwhile_stops_the_decision(good: FinishedRun, project: Path, tmp_path: Path) -> None:
    registered(good, project, "01" * 32)
    registered(retrained(good, tmp_path / "same", scale=1.5), project, "02" * 32)
    found, _ = judged(good, project, tmp_path / "first")
    connect(good.settings, project).client.set_registered_model_alias(found.model, CHAMPION, "2")
    compared, prepared = tmp_path / "first" / "compared", good.inputs["prepare/films"]
    with pytest.raises(InputError, match="the champion is version 2 now"):
        promote(good.settings, found, compared=compared, prepared=prepared, out=tmp_path / "again", root=project)


def test_names_that_are_not_there(good: FinishedRun, project: Path) -> None:
    registered(good, project)
    connection = connect(PipelineSettings(), project)
    [model] = [found.name for found in connection.client.search_registered_models()]
    with pytest.raises(InputError, match="Did you mean 'challenger'"):
        candidates(connection, model, "chalenger")
    assert candidates(connection, model).settled


def version_folder(adapter: Adapter, folder: Path) -> Path:
    """What the registry gives of a version that was trained on no gate row."""
    adapter.save(folder / "artifacts" / "adapter")
    write_json(folder / TRAINING_ROWS_FILE, [])
    return folder


def test_each_version_answers_over_the_base_as_it_was_quantised_for_its_training(
    good: FinishedRun, tmp_path: Path
) -> None:
    adapter = Adapter.load(good.inputs["train/films"] / "adapter")
    sides = {"challenger": adapter, "champion": replace(adapter, quantization="int4")}
    inputs = {side: version_folder(of, tmp_path / side) for side, of in sides.items()}
    out = tmp_path / "out"
    out.mkdir()
    compare(settings_with(good, flips={}), {**inputs, "prepare": good.inputs["prepare/films"]}, out, dataset="films")
    comparison = read_json(out / "comparison.json")
    gate = load_split(good.inputs["prepare/films"], "gate")
    scores = {}
    for side, folder in inputs.items():
        predictor = Predictor(folder / "artifacts" / "adapter", base=good.base, device="cpu")
        answers = [predictor.labels.index(row["label"]) for row in predictor.predict(gate.texts)]
        scores[side] = np.mean(np.array(answers) == gate.labels)
        assert comparison["sides"][side]["score"] == pytest.approx(scores[side])
    assert scores["challenger"] != scores["champion"], "four bits of this base answer otherwise"


def test_a_version_of_other_inputs_is_not_compared(good: FinishedRun, tmp_path: Path) -> None:
    adapter = replace(Adapter.load(good.inputs["train/films"] / "adapter"), pairs=True)
    inputs = {"challenger": version_folder(adapter, tmp_path / "challenger"), "prepare": good.inputs["prepare/films"]}
    with pytest.raises(InputError, match=r"the challenger does not fit the gate rows of films: .*pairs of texts"):
        compare(settings_with(good), inputs, tmp_path, dataset="films")


def test_many_labels_are_compared_with_the_default_slices(project: Path, tmp_path: Path) -> None:
    names = [f"topic {number}" for number in range(25)]
    rows = [{"sentence": f"question {n} about {names[n % 25]}", "mood": names[n % 25]} for n in range(500)]
    (tmp_path / "prepared").mkdir()
    raw = fetched(tmp_path, rows, labels=names)
    prepare_source(raw, tmp_path / "prepared", size=60, settings=SplitSettings())
    base = save_base(tmp_path / "base", build_tiny("bert"), pooling="mean")
    settings = PipelineSettings.from_mapping(
        {
            "base": {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1},
            "datasets": {"own": {"max_length": 16}},
            "probe": {"epochs": 1},
            "evaluate": {"resamples": 100},
        }
    )
    inputs = {"prepare": tmp_path / "prepared"}
    (tmp_path / "probe").mkdir()
    find_step("probe").function(settings, inputs, tmp_path / "probe", dataset="own")
    for side in ("challenger", "champion"):
        inputs[side] = tmp_path / side
        shutil.copytree(tmp_path / "probe" / "adapter", inputs[side] / "artifacts" / "adapter")
        write_json(inputs[side] / TRAINING_ROWS_FILE, [])
    (tmp_path / "compared").mkdir()
    compare(settings, inputs, tmp_path / "compared", dataset="own")
    comparison = read_json(tmp_path / "compared" / "comparison.json")
    assert {one["name"].split("=")[0] for one in comparison["slices"]} == {"length"}
    verdict = judge(evidence_of(comparison, settings, Candidates("m", "2", "1"), 0), settings.promotion)
    said = next(check.reason for check in verdict.checks if check.name == "slice label")
    assert said == "the 25 labels are not looked at one by one: at most 20 are"
