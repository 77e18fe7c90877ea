"""A fingerprint changes with everything that a result depends on, and with nothing else."""

import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.errors import InputError
from beft.files import write_json, write_text
from beft.settings import BaseSettings
from tasks.engine import fingerprint as module
from tasks.engine.declaration import Step
from tasks.engine.fingerprint import ComputeEnvironment, contents_sha256, source_sha256
from tasks.engine.import_closure import _imported_names, import_closure
from tasks.engine.store import StepRun
from tasks.pipeline import STEPS, find_step
from tasks.registry.package import LIBRARIES as MODEL_LIBRARIES
from tasks.registry.package import requirements
from tasks.settings import PipelineSettings
from tests.support.small_steps import count, count_step
from tests.support.tiny_bases import save_base
from tests.test_dependencies import foreign, plain


@pytest.fixture
def call(tmp_path: Path) -> StepRun:
    write_text(tmp_path / "raw" / "text.txt", "one two three")
    write_text(tmp_path / "raw" / "below" / "more.txt", "four")
    return StepRun(count_step, PipelineSettings(), {"raw": tmp_path / "raw"}, tmp_path, "rotten_tomatoes")


def with_settings(call: StepRun, **changes: object) -> StepRun:
    values = call.settings.model_dump()
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            values[section] = {**values[section], field: value}
        else:
            values[section] = value
    return replace(call, settings=PipelineSettings.from_mapping(values))


def test_it_is_the_same_for_the_same(call: StepRun) -> None:
    assert call.fingerprint() == call.fingerprint()
    assert len(bytes.fromhex(call.fingerprint())) == 32


@pytest.mark.parametrize("what", ["contents", "name", "new file", "deleted file"])
def test_it_changes_with_the_contents_of_an_input(call: StepRun, what: str) -> None:
    before = call.fingerprint()
    raw = call.inputs["raw"]
    if what == "contents":
        write_text(raw / "below" / "more.txt", "five")
    elif what == "name":
        (raw / "text.txt").rename(raw / "other.txt")
    elif what == "new file":
        write_text(raw / "new.txt", "")
    else:
        (raw / "text.txt").unlink()
    assert call.fingerprint() != before


@pytest.mark.parametrize("what", ["times", "another folder", "the driver's record", "what it took"])
def test_it_does_not_change_with(call: StepRun, what: str, tmp_path: Path) -> None:
    before = call.fingerprint()
    raw = call.inputs["raw"]
    if what == "times":
        os.utime(raw / "text.txt", (1, 1))
    elif what == "another folder":
        shutil.copytree(raw, tmp_path / "elsewhere")
        call = replace(call, inputs={"raw": tmp_path / "elsewhere"}, root=tmp_path / "elsewhere")
    elif what == "the driver's record":
        write_json(raw / "step.json", {"seconds": 1})
    else:
        write_json(raw / "cost.json", {"seconds": 1})
    assert call.fingerprint() == before


def test_it_changes_with_the_settings_that_the_step_names(call: StepRun) -> None:
    assert with_settings(call, seed=1).fingerprint() != call.fingerprint()


def test_it_does_not_change_with_others(call: StepRun) -> None:
    before = call.fingerprint()
    assert with_settings(call, train__epochs=99).fingerprint() == before
    assert with_settings(call, versioning__push=False).fingerprint() == before
    without = replace(call, step=replace(count_step, settings=()))
    assert with_settings(without, seed=1, train__epochs=99).fingerprint() == without.fingerprint()


def test_it_names_one_dataset_among_the_settings(call: StepRun) -> None:
    sized = replace(call, step=replace(count_step, settings=("datasets.{dataset}.size",)))
    both = {"rotten_tomatoes": {"size": 50}, "imdb": {"size": 60}}
    before = with_settings(sized, datasets=both).fingerprint()
    other = with_settings(sized, datasets={**both, "imdb": {"size": 61}})
    longer = with_settings(sized, datasets={**both, "rotten_tomatoes": {"size": 50, "max_length": 64}})
    own = with_settings(sized, datasets={**both, "rotten_tomatoes": {"size": 51}})
    assert other.fingerprint() == longer.fingerprint() == before
    assert own.fingerprint() != before


def test_it_changes_with_the_step_and_the_dataset(call: StepRun) -> None:
    def recount(*arguments: object, **named: object) -> dict[str, object]:
        return {}

    whole = with_settings(call, datasets={"rotten_tomatoes": {}, "imdb": {}})
    found = {
        whole.fingerprint(),
        replace(whole, dataset="imdb").fingerprint(),
        replace(whole, dataset=None).fingerprint(),
        replace(whole, step=replace(count_step, function=recount)).fingerprint(),
    }
    assert len(found) == 4


def test_the_order_of_datasets_counts_for_steps_over_all_of_them(call: StepRun) -> None:
    one = with_settings(call, datasets={"rotten_tomatoes": {}, "imdb": {}})
    other = with_settings(call, datasets={"imdb": {}, "rotten_tomatoes": {}})
    assert one.fingerprint() == other.fingerprint()
    assert replace(one, dataset=None).fingerprint() != replace(other, dataset=None).fingerprint()


def test_a_dataset_that_the_settings_do_not_have_is_an_error(call: StepRun) -> None:
    with pytest.raises(InputError, match="Did you mean 'rotten_tomatoes'"):
        replace(call, dataset="rotten_tomato").fingerprint()


def test_it_changes_with_what_the_step_watches(call: StepRun) -> None:
    def watching(contents: Mapping[str, str]) -> StepRun:
        return replace(call, step=replace(count_step, extra_inputs=lambda _settings, _dataset, _root: contents))

    assert watching({"mine.csv": "aa"}).fingerprint() != watching({"mine.csv": "ab"}).fingerprint()


def test_it_changes_with_device_precision_threads_base_and_libraries(
    call: StepRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(
        step: Step, compute: dict[str, object], base: str = "aa", torch: str = "2.13.0", contents: str = "2:cc"
    ) -> str:
        found = ComputeEnvironment(compute, base, contents, {"torch": torch})
        monkeypatch.setattr(module, "compute_environment", lambda _base: found)
        return replace(call, step=step).fingerprint()

    computing = replace(count_step, computes=True)
    plain: dict[str, object] = {"device": "cpu", "precision": "fp32", "threads": 2}
    found = {
        fingerprint(computing, plain),
        fingerprint(computing, {**plain, "device": "cuda"}),
        fingerprint(computing, {**plain, "precision": "bf16"}),
        fingerprint(computing, {**plain, "threads": 1}),
        fingerprint(computing, plain, base="ab"),
        fingerprint(computing, plain, contents="2:cd"),
        fingerprint(computing, plain, torch="2.14.0"),
    }
    assert len(found) == 7
    assert fingerprint(count_step, plain) == fingerprint(count_step, {**plain, "threads": 1}, base="ab")


def test_what_a_step_computes_with_is_resolved() -> None:
    found = module.compute_environment(BaseSettings(device="cpu", precision="auto", threads=1))
    assert found.compute["device"] == "cpu" and found.compute["threads"] == 1
    assert found.compute["precision"] in ("fp32", "bf16")
    assert len(found.base_sha256) == 64 and len(found.base_contents) == 66
    assert set(found.versions) == set(module.LIBRARIES)


NO_NUMBERS = {
    *(
        "pydantic",
        "pydantic-core",
        "pyyaml",
        "typer",
        "rich",
        "tqdm",
        "psutil",
        "matplotlib",
        "jinja2",
        "markupsafe",
    ),
    *("huggingface-hub", "datasets", "pyarrow", "pandas"),  # what they read is hashed itself
    *("evaluate", "threadpoolctl"),  # collects what scikit-learn and scipy compute; keeps threads that are set
}
"""Libraries that steps import and that no result depends on."""


@pytest.mark.parametrize("name", [name for name in STEPS if find_step(name).computes])
def test_every_library_that_a_computing_step_imports_is_in_its_fingerprint(name: str) -> None:
    source = Path(inspect.getfile(find_step(name).function)).resolve()
    files = [module.PROJECT / path for path in import_closure(source, module.PROJECT) if path.endswith(".py")]
    known = {*map(plain, (*module.LIBRARIES, *module.BASE_LIBRARIES)), *NO_NUMBERS}
    distributions = metadata.packages_distributions()
    absent = {
        f"{path.relative_to(module.PROJECT)} imports {top}"
        for path in files
        for top in foreign(path)
        if not known & {plain(one) for one in distributions.get(top, [top])}
    }
    assert not absent


def test_the_library_by_which_transformers_loads_a_base_onto_a_gpu_is_in_it_too() -> None:
    assert "accelerate" in module.LIBRARIES  # nobody imports it but transformers


def test_libraries_of_some_bases_count_for_those_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "plain" / "config.json", "{}")
    write_text(tmp_path / "plain" / "model.safetensors", "")
    stored = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    write_text(tmp_path / "stored" / "config.json", json.dumps(stored))
    write_text(tmp_path / "gguf" / "model.gguf", "")
    found = {
        name: set(module.libraries_of(tmp_path / name)) - set(module.LIBRARIES) for name in ("plain", "stored", "gguf")
    }
    assert found == {"plain": set(), "stored": {"bitsandbytes"}, "gguf": {"gguf"}}
    assert set(module.libraries_of(tmp_path / "plain", "int8")) == {*module.LIBRARIES, "bitsandbytes"}
    assert module.installed(["torch", "no-such-package-here"]) == {"torch": metadata.version("torch")}
    assert {line.partition("==")[0] for line in requirements("x", gguf=True)} - set(MODEL_LIBRARIES) == {"gguf"}


@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("stored", ["int4", 4, ["bitsandbytes"], []])
def test_a_quantisation_that_is_no_object_is_named(tmp_path: Path, name: str, stored: object) -> None:
    write_text(tmp_path / "config.json", json.dumps({name: stored}))
    message = rf"config\.json: {name} must be an object that names quant_method, not .*; copy the base's own config"
    with pytest.raises(InputError, match=message):
        module.libraries_of(tmp_path)


def source_now(step: Step) -> str:
    """As a new process would find it."""
    source_sha256.cache_clear()
    return source_sha256(step)


class TestSource:
    """A copy of a small project, in which files are changed."""

    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        write_text(tmp_path / "beft" / "datasets" / "__init__.py", "")
        write_text(tmp_path / "beft" / "datasets" / "registry.py", "import beft.sites\n")
        write_text(tmp_path / "beft" / "datasets" / "imdb.yaml", "version: 1\n")
        write_text(
            tmp_path / "beft" / "sites.py",
            "def load():\n    MethodRegistry('importance/methods', 'importance method')\n",
        )
        write_text(tmp_path / "beft" / "importance" / "methods" / "fisher.py", "FISHER = 1\n")
        write_text(tmp_path / "beft" / "studies" / "figure.py", "COLOUR = 'red'\n")
        write_text(tmp_path / "tasks" / "steps" / "deep" / "helper.py", "from tasks.deeper import DEEP\n")
        write_text(tmp_path / "tasks" / "deeper.py", "DEEP = 1\n")
        write_text(tmp_path / "tasks" / "otherwise.py", "OTHERWISE = 1\n")
        write_text(tmp_path / "tasks" / "versioning" / "dvc.py", "PUSH = 1\n")
        write_text(tmp_path / "mlflow" / "model.py", "MODEL = 1\n")
        own = tmp_path / "tasks" / "steps" / "count.py"
        write_text(
            own,
            """
            from typing import TYPE_CHECKING
            from beft.datasets import registry

            if TYPE_CHECKING:
                from tasks.versioning.dvc import PUSH
            else:
                from tasks.otherwise import OTHERWISE

            def count():
                from tasks.steps.deep.helper import DEEP
            """.replace("\n            ", "\n"),
        )
        monkeypatch.setattr(module, "PROJECT", tmp_path)
        monkeypatch.setattr("tasks.project_files.PROJECT", tmp_path)
        monkeypatch.setattr("tasks.engine.fingerprint.inspect.getfile", lambda _function: str(own))
        yield tmp_path
        source_sha256.cache_clear()

    @pytest.mark.parametrize(
        "path",
        [
            "beft/datasets/__init__.py",
            "beft/datasets/registry.py",
            "beft/datasets/imdb.yaml",
            "beft/sites.py",
            "beft/importance/methods/fisher.py",
            "tasks/steps/count.py",
            "tasks/steps/deep/helper.py",
            "tasks/deeper.py",
            "tasks/otherwise.py",
        ],
    )
    def test_it_changes_with(self, project: Path, path: str) -> None:
        before = source_now(Step(count))
        write_text(project / path, (project / path).read_text() + "# changed\n")
        assert source_now(Step(count)) != before

    @pytest.mark.parametrize("path", ["beft/studies/figure.py", "tasks/versioning/dvc.py", "mlflow/model.py"])
    def test_it_does_not_change_with(self, project: Path, path: str) -> None:
        before = source_now(Step(count))
        write_text(project / path, (project / path).read_text() + "# changed\n")
        write_text(project / "beft" / "__pycache__" / "sites.pyc", "byte code")
        assert source_now(Step(count)) == before

    def test_it_changes_with_a_package_that_adds_methods(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def with_package(sha256: str) -> str:
            packages = {"importance/methods": {"of_a_user": sha256}}
            monkeypatch.setattr(module, "plug_ins", packages.__getitem__)
            return source_now(Step(count))

        assert with_package("ab") != with_package("cd")
        write_text(project / "beft" / "sites.py", "")
        assert with_package("ab") == with_package("cd"), "this source imports no methods"

    def test_further_source_is_a_folder_or_a_file(self, project: Path) -> None:
        step = Step(count, source=("mlflow",))
        before = source_now(step)
        write_text(project / "mlflow" / "model.py", "MODEL = 2\n")
        assert source_now(step) != before
        assert source_now(Step(count, source=("mlflow/model.py",))) != source_now(step)


names = st.text("abc", min_size=1, max_size=3)


@given(
    st.dictionaries(names, st.binary(max_size=4), max_size=4), st.dictionaries(names, st.binary(max_size=4), max_size=4)
)
def test_contents_are_the_same_exactly_when_names_and_bytes_are(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, bytes], second: dict[str, bytes]
) -> None:
    found = []
    for files in (first, second):
        folder = tmp_path_factory.mktemp("contents")
        for name, value in files.items():
            (folder / name).write_bytes(value)
        found.append(contents_sha256(folder))
    assert (found[0] == found[1]) == (first == second)


def test_a_local_base_that_is_changed_while_the_process_lives_is_seen(
    call: StepRun, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", tiny("bert"))
    local = with_settings(call, base__source=str(base), base__device="cpu", base__precision="fp32", base__threads=1)
    computing = replace(local, step=replace(local.step, computes=True))
    before = computing.fingerprint()
    assert computing.fingerprint() == before
    weights = base / "model.safetensors"
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1  # of the same size, and within the clock's resolution
    weights.write_bytes(contents)
    assert computing.fingerprint() != before
    weights.unlink()
    with pytest.raises(InputError, match="holds no"):
        computing.fingerprint()


def test_a_base_that_has_not_changed_is_read_once(call: StepRun) -> None:
    """The package was installed longer ago than a change could go unseen."""
    from beft.files import _remembered_sha256
    from beft.models.reference import resolve_base

    source = call.settings.base.source
    resolve_base(source)
    hashed = _remembered_sha256.cache_info()
    assert hashed.currsize > 0
    resolve_base(source)
    again = _remembered_sha256.cache_info()
    assert again.misses == hashed.misses
    assert again.hits > hashed.hits


def dependents(path: str) -> set[str]:
    """The steps whose source holds a file of the project."""
    steps = module.PROJECT / "tasks" / "steps"
    names = (*STEPS, "measure", "compare")
    return {name for name in names if path in import_closure(steps / f"{name}.py", module.PROJECT)}


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("beft/training/engine/schedule.py", {"probe", "train", "evaluate", "merge", "measure", "compare"}),
        ("beft/importance/methods/fisher.py", {"probe", "score", "train", "evaluate", "merge", "measure", "compare"}),
        ("beft/merging/methods/ties.py", {"merge"}),
        ("beft/comparison/baselines/lora.py", {"evaluate", "measure"}),
        ("beft/studies/heatmap.py", {"score"}),
        ("tasks/reporting/drawing.py", {"report"}),
        ("tasks/validation/expectations.py", {"validate_raw", "validate"}),
    ],
)
def test_a_changed_file_runs_the_steps_again_that_use_it(path: str, steps: set[str]) -> None:
    assert (module.PROJECT / path).is_file()
    assert dependents(path) == steps


def test_a_file_is_parsed_once_for_all_steps() -> None:
    """Of the eleven steps most share most of their files."""
    _imported_names.cache_clear()
    found = [import_closure(module.PROJECT / "tasks" / "steps" / f"{name}.py", module.PROJECT) for name in STEPS]
    sources = {(module.PROJECT / path).read_bytes() for path in frozenset().union(*found) if path.endswith(".py")}
    assert _imported_names.cache_info().misses == len(sources)


def test_threads_ask_at_once() -> None:
    """Each data set is a chain in a thread of its own."""
    modules = [module.PROJECT / "tasks" / "steps" / f"{name}.py" for name in STEPS] * 4
    alone = [import_closure(path, module.PROJECT) for path in modules[: len(STEPS)]]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda path: import_closure(path, module.PROJECT), modules)) == alone * 4
