"""What is registered is a model of MLflow that predicts anywhere as beft does here."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beft.adapters.adapter import Adapter
from beft.errors import InputError
from beft.inference.predictor import Predictor
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.serving.canary import Canary
from beft.serving.engine import Engine
from beft.serving.service import LoadedAdapter, Service
from flows.cli import status_of
from tasks.registry.registered import registered_adapter
from tasks.serving.registry_source import RegistrySource
from tasks.settings import PipelineSettings
from tasks.tracking.connection import as_default, connect
from tests.support.finished_run import FinishedRun
from tests.support.registration import registered

pytestmark = pytest.mark.usefixtures("_no_tracking_address")

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
    assert sorted(path.name for path in weights) == ["adapter_model.safetensors", "drift_reference.safetensors"]
    assert not list(folder.rglob("__pycache__"))
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".yaml", ".txt", ".json"):
            assert str(project) not in path.read_text()
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in requirements)
    assert {line.partition("==")[0] for line in requirements} >= {"mlflow", "torch", "transformers"}


def test_a_server_finds_it_verified_by_its_canary(certain: FinishedRun, project: Path) -> None:
    model = registered(certain, project)
    source = RegistrySource(connect(certain.settings, project), ("*",), ("champion",))
    [(key, aliases)] = source.poll().items()
    assert (key.name, key.version, aliases) == (model["name"], model["version"], ("champion",))
    with source.files(key) as files:
        adapter = Adapter.load(files.adapter)
        assert files.canary is not None and files.sha256 == adapter.sha256
        canary = Canary.read(files.canary)
    engine = Engine(resolve_base(certain.settings.base.source), Compute("cpu", "fp32", 1))
    service = Service([engine])
    [loaded] = service.load([adapter], [canary])
    service.close()
    assert isinstance(loaded, LoadedAdapter) and loaded.verified
