"""A small table of a user's own, under the settings as they come: divided, trained on, reported and registered."""

from pathlib import Path
from typing import Any

import pytest

from beft.comparison.baselines import by_folds
from beft.datasets.drafting.draft import draft_description
from beft.datasets.prepared import load_split, load_summary
from beft.errors import InputError
from beft.evaluation.promotion.certainty import decision_certainty
from beft.evaluation.records import NO_GATE
from beft.files import read_json
from flows.terminal.outcome import rows as outcome_rows
from tasks.registry.card import learnt_rows
from tasks.registry.promote import candidates, fetch_candidates
from tasks.run_metadata import check_settings
from tasks.settings import PipelineSettings
from tasks.steps.compare import compare
from tasks.steps.register import register
from tasks.steps.report import report
from tasks.tracking.connection import connect
from tasks.tracking.runs import open_run
from tests.conftest import build_tiny
from tests.support.finished_run import FINGERPRINT, FinishedRun
from tests.support.small_data import reviews, write_reviews
from tests.support.tiny_bases import save_base
from tests.tasks.steps.test_chain import run_steps

pytestmark = pytest.mark.usefixtures("_no_tracking_address")
QUICK = {"epochs": 1}


def settings_of(root: Path, rows: int, **sections: Any) -> PipelineSettings:
    """The settings as they come, but for the base and what makes a test quick; the dataset has so many rows."""
    write_reviews(root, reviews(rows))
    drafted = draft_description(root / "data" / "files" / "mine.csv", root)
    path = root / "data" / "datasets" / "mine.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drafted.to_yaml([]))
    base = save_base(root / "base", build_tiny("bert"), pooling="mean")
    compute = {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1}
    quick = {"probe": QUICK, "train": QUICK, "evaluate": {"resamples": 100}}
    return PipelineSettings.from_mapping(
        {"base": compute, "datasets": {"mine": {"max_length": 16}}, **quick, **sections}
    )


@pytest.mark.parametrize(
    ("rows", "divided"),
    [
        (120, {"train": 77, "dev": 19, "gate": 0, "test": 24}),
        (300, {"train": 144, "dev": 36, "gate": 60, "test": 60}),
    ],
)
def test_it_runs_to_the_end(rows: int, divided: dict[str, int], project: Path, finished_run: FinishedRun) -> None:
    settings = settings_of(project, rows)
    check_settings(settings, project)
    folders = run_steps(project, settings)
    assert load_summary(folders["prepare/mine"])["rows"] == divided
    out = project / "out" / "report"
    out.mkdir()
    report(settings, folders, out)
    page = (out / "report.html").read_text()
    out = project / "out" / "register"
    out.mkdir()
    facts = {**finished_run.facts, "data": {"mine": finished_run.facts["data"]["films"]}}
    parent = open_run(FINGERPRINT, settings, root=project, facts=facts)
    register(settings, folders, out, parent=parent, root=project, facts=facts)
    [model] = read_json(out / "registration.json")["models"]
    steps = {key: {"folder": str(folder.relative_to(project))} for key, folder in folders.items()}
    record = {"models": [{**model, "rebuild": None}], "datasets": ["mine"], "steps": steps}
    [shown] = outcome_rows(record, project)
    certainty = decision_certainty(load_summary(folders["prepare/mine"]))
    assert certainty in page
    if divided["gate"]:
        assert "on 60 gate rows only a gain of 10.0 points (6 rows) or more can be certain" in page
        assert model["champion"] or certainty in model["reason"]
        return
    assert "no gate: a challenger only" in page and "No decision: no rows are kept for a gate" in page
    assert (shown["gain certain"], model["aliases"]) == ("no gate", ["challenger"])
    assert model["reason"] == f"no champion, since nothing was decided: {NO_GATE}"
    tags = connect(settings, project).client.get_model_version(model["name"], model["version"]).tags
    assert tags["decision"] == "challenger" and "gate_sha256" not in tags and "gate_decisions" not in tags
    assert not len(load_split(folders["prepare/mine"], "gate"))
    found = candidates(connect(settings, project), model["name"])
    inputs = {"prepare": folders["prepare/mine"], **fetch_candidates(connect(settings, project), found, project / "m")}
    with pytest.raises(InputError, match=r"mine: nothing can be decided: .* set it to 20 or more and run again: "):
        compare(settings, inputs, project, dataset="mine")


def test_a_gate_too_small_to_decide_on_is_refused_and_none_is_allowed(project: Path) -> None:
    settings = settings_of(project, 120, split={"gate_rows": 19})
    with pytest.raises(InputError, match="a decision needs 20 rows or more; 0 is for no gate"):
        check_settings(settings, project)
    for rows in (0, 20, "auto"):
        check_settings(settings_of(project, 120, split={"gate_rows": rows}), project)


def test_few_rows_are_all_trained_on_and_the_baselines_see_them_all(project: Path) -> None:
    """With the settings as they are by default but for the length."""
    folders = run_steps(project, settings_of(project, 60, train={"epochs": 1}))
    record = read_json(folders["train/mine"] / "adapter" / "beft.json")
    rows = load_summary(folders["prepare/mine"])["rows"]
    assert record["provenance"]["training"]["loss"] == "contrastive" and record["provenance"]["learns_from_dev"]
    steps = -(-(rows["train"] + rows["dev"]) // record["provenance"]["training"]["batch_size"])
    assert record["provenance"]["steps"] == steps
    evaluation = read_json(folders["evaluate/mine"] / "evaluation.json")
    assert set(evaluation["truncated"]) == {"train", "test"}
    assert {found["folds"] for found in evaluation["tuning"].values()} == {5}
    assert evaluation["tuning"]["logistic_regression"]["repeats"] == 4


def test_a_long_logistic_regression_gets_fewer_divisions(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with 77 labels, where four divisions took minutes."""
    monkeypatch.setattr(by_folds, "NOMINAL_LINEAR_OPERATIONS", 1.0)
    folders = run_steps(project, settings_of(project, 60, train={"epochs": 1}))
    evaluation = read_json(folders["evaluate/mine"] / "evaluation.json")
    assert evaluation["tuning"]["logistic_regression"]["repeats"] == 1


def test_dev_is_kept_where_it_chooses_a_learning_rate(project: Path) -> None:
    folders = run_steps(project, settings_of(project, 60, train={"epochs": 1, "learning_rates": [0.01, 0.02]}))
    evaluation = read_json(folders["evaluate/mine"] / "evaluation.json")
    assert set(evaluation["truncated"]) == {"train", "dev", "test"}
    assert "learns_from_dev" not in read_json(folders["train/mine"] / "adapter" / "beft.json")["provenance"]


@pytest.mark.parametrize(
    ("asked", "loss", "says"),
    [
        (True, "cross_entropy", "those of dev among them"),
        (False, "contrastive", "dev rows chose the penalty of the head"),
    ],
)
def test_dev_is_learnt_from_or_kept_as_the_settings_ask(asked: bool, loss: str, says: str, project: Path) -> None:
    settings = settings_of(project, 60, train={"epochs": 2, "loss": loss, "learn_from_dev": asked})
    check_settings(settings, project)
    folders = run_steps(project, settings)
    provenance = read_json(folders["train/mine"] / "adapter" / "beft.json")["provenance"]
    rows = load_summary(folders["prepare/mine"])["rows"]
    learnt = rows["train"] + asked * rows["dev"]
    assert provenance["training"]["loss"] == loss and provenance.get("learns_from_dev", False) is asked
    assert provenance["steps"] == 2 * -(-learnt // provenance["training"]["batch_size"])
    assert provenance["best_epoch"] == 2
    evaluation = read_json(folders["evaluate/mine"] / "evaluation.json")
    assert ("dev" in evaluation["truncated"]) is not asked
    assert ["folds" in found for found in evaluation["tuning"].values()] == [asked, asked]
    assert says in learnt_rows(rows, provenance, settings)


def test_a_way_of_training_is_chosen_on_train_and_dev_and_the_baselines_have_its_folds(project: Path) -> None:
    automatic = {"method": "auto", "epochs": 1, "search_minutes": 0.001}
    settings = settings_of(project, 60, train=automatic)
    folders = run_steps(project, settings)
    trained = read_json(folders["train/mine"] / "train.json")
    rows = load_summary(folders["prepare/mine"])["rows"]
    choice = trained["choice"]
    assert choice["chosen"] in [one["name"] for one in choice["candidates"]] and choice["folds"] == 5
    evaluation = read_json(folders["evaluate/mine"] / "evaluation.json")
    assert set(evaluation["truncated"]) == {"train", "test"}
    assert {found["folds"] for found in evaluation["tuning"].values()} == {5}
    record = read_json(folders["train/mine"] / "adapter" / "beft.json")
    assert record["provenance"]["chosen"]["name"] == choice["chosen"] and rows["dev"] > 0
    out = project / "out" / "report"
    out.mkdir()
    report(settings, folders, out)
    page = (out / "report.html").read_text()
    assert "chosen by cross-validation on the sample itself" in page and choice["candidates"][1]["name"] in page
    assert "logistic regression: the best by cross-validation of 16 settings" in page
    assert "the best on dev of" not in page, "dev was trained on"
