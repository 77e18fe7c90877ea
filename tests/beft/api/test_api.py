"""The public API: it is light to import, typed, its examples run, and every line of its documentation works."""

import doctest
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import beft
from beft.adapters.adapter import Adapter
from beft.api.base import Base
from beft.datasets.description import Description
from beft.errors import InputError
from beft.settings import SplitSettings
from beft.training.results import Probe, TrainingResult
from tests.support.tiny_bases import WORDS, save_base

ROOT = Path(__file__).parents[3]
FUNCTIONS = ("evaluate", "inspect", "load_base", "load_dataset", "load_predictor", "merge", "probe", "train")
CLASSES = ("Adapter", "Dataset")
QUICK = {"train.epochs": 1, "evaluate.resamples": 200}


def rows(count: int = 200) -> tuple[list[str], list[str]]:
    """Texts whose label follows from one word in most rows."""
    texts, labels = [], []
    for number in range(count):
        good = number % 2 == (number % 7 != 0)
        others = " ".join(WORDS[(number // 10**at) % 10] for at in range(3))
        texts.append(f"{'fine' if good else 'dull'} {others} a")
        labels.append("up" if number % 2 else "down")
    return texts, labels


def other_data() -> beft.Dataset:
    """The same texts with other labels."""
    texts, labels = rows()
    return beft.Dataset.from_rows(texts, [{"up": "right", "down": "left"}[one] for one in labels], test_rows=40)


@pytest.fixture(scope="module")
def base(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Base:
    return beft.load_base(str(save_base(tmp_path_factory.mktemp("base"), tiny("bert"))), precision="fp32", threads=1)


@pytest.fixture(scope="module")
def data() -> beft.Dataset:
    return beft.Dataset.from_rows(*rows(), name="films", test_rows=40, gate_rows=20)


@pytest.fixture(scope="module")
def probe(base: Base, data: beft.Dataset) -> Probe:
    return beft.probe(base, data, epochs=2)


@pytest.fixture(scope="module")
def result(base: Base, data: beft.Dataset) -> TrainingResult:
    return beft.train(base, data, terms=["value"], learning_rates=[3e-3, 1e-2], epochs=2)


def test_importing_beft_imports_nothing_heavy() -> None:
    program = (
        "import sys, time; began = time.perf_counter(); import beft; seconds = time.perf_counter() - began\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'scipy', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not [name for name in sys.modules if name.startswith('beft.')]\n"
        "assert set(beft.__all__) <= set(dir(beft))\n"
        "print(seconds)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.1


def test_all_names_are_there_and_no_others() -> None:
    assert set(beft.__all__) == {*FUNCTIONS, *CLASSES, "__version__"}
    for name in beft.__all__:
        assert getattr(beft, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = beft.trian  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES, "Adapter.save", "Adapter.load", "Dataset.from_rows"])
def test_examples_in_docstrings_run(
    name: str,
    base: Base,
    data: beft.Dataset,
    probe: Probe,
    result: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    head, _, method = name.partition(".")
    documented = getattr(getattr(beft, head), method) if method else getattr(beft, head)
    given = {"beft": beft, "base": base, "data": data, "probe": probe, "result": result, "Dataset": beft.Dataset}
    [example, *_] = doctest.DocTestFinder(recurse=False).find(documented, name, globs=given)
    assert example.examples or name == "Adapter", f"{name} has no example"
    runner = doctest.DocTestRunner(verbose=False)
    failures: list[str] = []
    runner.run(example, out=failures.append)
    assert not runner.failures, "".join(failures)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_that_is_not_obvious_is_documented(name: str) -> None:
    documented = getattr(beft, name).__doc__
    assert "Raises:" in documented and "Example:" in documented
    assert getattr(beft, name).__module__ in {"beft.datasets.dataset"} | {
        f"beft.api.{module}" for module in ("base", "evaluation", "learning", "merging", "prediction")
    }


def test_the_way_from_rows_to_a_prediction(
    base: Base, data: beft.Dataset, probe: Probe, result: TrainingResult, tmp_path: Path
) -> None:
    assert probe.select(by="fisher", candidates=["value"]).term == "value"
    assert "key" in probe.select().inert, "BERT's key biases change no logit"
    found = beft.evaluate(base, data, result, baselines=["head_only", "logistic_regression", "untouched"])
    assert list(found.evaluation.splits["test"].scores) == ["head_only", "logistic_regression", "untouched", "value"]
    printed = str(found)
    assert "40 test rows" in printed and "gain of value in accuracy" in printed
    result.adapter.save(tmp_path / "adapter")
    predictor = beft.load_predictor(tmp_path / "adapter", base=base.reference.folder)
    texts = data.rows("test").texts
    labels = [answer["label"] for answer in predictor.predict(texts)]
    right = sum(data.labels[int(label)] == said for label, said in zip(data.rows("test").labels, labels, strict=True))
    assert right / len(labels) == found.score().value


@pytest.mark.parametrize(
    ("count", "settings", "learns"),
    [
        (200, {"train.learn_from_dev": False}, False),  # by default it would be, with so few rows
        (340, {"train.learn_from_dev": True, "train.loss": "cross_entropy"}, True),  # by default it would not
        (340, {"train.method": "auto", "train.search_minutes": 1e-3}, True),
    ],
)
def test_baselines_of_a_loaded_adapter_are_fitted_on_the_rows_that_it_learnt_from(
    base: Base, tmp_path: Path, count: int, settings: dict[str, Any], learns: bool
) -> None:
    data = beft.Dataset.from_rows(*rows(count), name="films", test_rows=40, gate_rows=20)
    trained = beft.train(base, data, ["value"], epochs=1, settings=settings)
    trained.adapter.save(tmp_path / "adapter")
    for of in (trained, beft.Adapter.load(tmp_path / "adapter")):
        found = beft.evaluate(base, data, of, baselines=["logistic_regression"], settings=QUICK)
        assert set(found.rows) == ({"train", "test"} if learns else {"train", "dev", "test"})
        learnt = data.facts["rows"]["train"] + learns * data.facts["rows"]["dev"]
        assert len(found.rows["train"]) == learnt
        assert ("folds" in found.tuning["logistic_regression"]) is learns


def test_baselines_that_learnt_from_fewer_rows_are_named(
    base: Base, data: beft.Dataset, result: TrainingResult
) -> None:
    baselines = ["logistic_regression", "untouched", "query", "lora"]
    whole = beft.train(base, data, ["value"], epochs=1)
    assert whole.adapter.provenance["learns_from_dev"]
    said = "on train alone, with dev to choose their epoch or settings: query, lora. Part"
    assert said in str(beft.evaluate(base, data, whole, baselines=baselines, settings=QUICK))
    assert "on train alone" not in str(
        beft.evaluate(base, data, whole, baselines=["logistic_regression"], settings=QUICK)
    )
    own = beft.evaluate(base, data, result, baselines=["logistic_regression", "query"], settings=QUICK)
    assert own.fewer_rows == () and "on train alone" not in str(own)


def test_under_the_paper_s_protocol_the_cheap_baselines_learn_from_fewer_rows(base: Base, data: beft.Dataset) -> None:
    settings = {"protocol": "paper", "head.init": "random"}
    trained = beft.train(base, data, ["value"], epochs=1, settings=settings)
    found = beft.evaluate(base, data, trained, baselines=["logistic_regression", "query"], settings=QUICK)
    assert found.fewer_rows == ("logistic_regression",)
    steps = -(-(data.facts["rows"]["train"] + data.facts["rows"]["dev"]) // 16)
    assert trained.adapter.provenance["steps"] == steps


def test_an_adapter_is_evaluated_as_what_trained_it(base: Base, data: beft.Dataset, result: TrainingResult) -> None:
    one, other = (beft.evaluate(base, data, of, baselines=[], split="gate") for of in (result, result.adapter))
    assert one.score(split="gate") == other.score(split="gate")
    assert "value" in one.evaluation.costs and not other.evaluation.costs


def test_the_base_is_loaded_once_for_a_dataset_and_left_as_it_was(
    base: Base, data: beft.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    import beft.api.base as module

    load = module.load_classifier
    monkeypatch.setattr(module, "load_classifier", lambda *one, **more: loaded.append(one) or load(*one, **more))
    fresh = beft.load_base(base.reference.source, precision="fp32", threads=1)
    first = beft.train(fresh, data, ["value"], epochs=1)
    again = beft.train(fresh, data, ["value"], epochs=1)
    assert len(loaded) == 1
    assert first.adapter.sha256 == again.adapter.sha256
    beft.train(fresh, data, ["value"], epochs=1, seed=1)
    assert len(loaded) == 2, "another seed draws another head"


def test_the_bytes_are_those_of_the_command(
    base: Base, data: beft.Dataset, result: TrainingResult, tmp_path: Path
) -> None:
    """A session on the same rows, opened as a step opens it, gives the same adapter."""
    from beft.settings import Settings
    from beft.training.opening import open_session

    changes = {
        "base": base.settings.model_dump(),
        "datasets": {"films": {}},
        "train": {"epochs": 2, "learning_rates": [3e-3, 1e-2], "learning_rate": 3e-3},
    }
    session = open_session(Settings.from_mapping(changes), data)
    assert session.train(["value"]).adapter.sha256 == result.adapter.sha256


def test_what_a_probe_found_inert_is_not_trained(base: Base, data: beft.Dataset, probe: Probe) -> None:
    trained = beft.train(base, data, ["key", "value"], epochs=1, probe=probe)
    moved = {site.term for site, delta in trained.adapter.deltas.items() if delta.any()}
    assert moved == {"value"}
    with pytest.raises(InputError, match="run 'key' trains no bias"):  # few rows, and so a contrastive loss
        beft.train(base, data, ["key"], epochs=1, probe=probe)
    searched = beft.train(
        base, data, ["key"], probe=probe, settings={"train.method": "auto", "train.search_minutes": 0.001}
    )
    assert searched.choice is not None
    assert not any(delta.any() for site, delta in searched.adapter.deltas.items() if site.term == "key")
    assert all("key" not in one.candidate.terms for one in searched.choice.compared)


def test_merged_adapters_keep_their_heads(result: TrainingResult, base: Base, data: beft.Dataset) -> None:
    other = beft.train(base, data, ["query"], epochs=1)
    with pytest.warns(UserWarning, match="different bias sites"):
        merged = beft.merge([result, other.adapter], method="task_arithmetic", weights=[0.5, 1], scale=0.5)
    assert [one.terms for one in merged] == [("query", "value")] * 2
    for one, own in zip(merged, (result.adapter, other.adapter), strict=True):
        assert all(torch.equal(one.head[name], own.head[name]) for name in own.head)
    assert merged[0].provenance["merge"]["weights"] == {"films-1": 0.5, "films-2": 1}


def test_every_adapter_is_merged_whatever_its_data_set_is_called(result: TrainingResult) -> None:
    own = result.adapter
    factors = (1, 2, 6)
    given = [own.with_deltas({site: delta * by for site, delta in own.deltas.items()}) for by in factors]

    def merged(*names: str) -> list[Adapter]:
        found = beft.merge([replace(one, dataset=name) for one, name in zip(given, names, strict=True)])
        assert [one.dataset for one in found] == list(names)
        return found

    expected = merged("films", "news", "mails")
    for site, delta in expected[0].deltas.items():
        torch.testing.assert_close(delta, 3 * own.deltas[site])
    for names in (("rows", "rows", "rows-1"), ("rows-2", "rows", "rows"), ("1-rows", "rows", "rows")):
        for one, other in zip(merged(*names), expected, strict=True):
            assert all(torch.equal(one.deltas[site], delta) for site, delta in other.deltas.items())
            assert all(torch.equal(one.head[name], value) for name, value in other.head.items())


def test_regression_and_pairs_from_rows(base: Base) -> None:
    texts, _ = rows(120)
    scores = [float(text.startswith("fine")) + number / 1000 for number, text in enumerate(texts)]
    data = beft.Dataset.from_rows(texts, scores, pairs=["the story"] * 120, name="stars", test_rows=24, gate_rows=0)
    assert data.metric == "pearson" and data.rows("test").pairs
    found = beft.evaluate(base, data, beft.train(base, data, ["value"], epochs=1))
    assert set(found.evaluation.baselines) == {"head_only", "ridge_regression"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda _: beft.load_base("no/such/folder/here", device="gpu"), "base.device"),  # type: ignore[arg-type]
        (lambda _: beft.load_dataset("rotten_tomatos"), "rotten_tomatoes"),
        (lambda _: beft.Dataset.from_rows(["a", "b"], ["x"]), "as many"),
        (lambda _: beft.Dataset.from_rows(["a film"] * 30, ["x"] * 30), "2"),
        (lambda _: beft.Dataset.from_rows(["a film"] * 30, [float("nan")] * 30), "NaN"),
        (lambda _: beft.Dataset.from_rows(["a film"] * 30, [b"x"] * 30), "has b.x. for its label"),  # type: ignore[list-item]
        (lambda _: beft.Dataset.from_rows(["a film"] * 30, ["x"] * 30, name="Films of mine"), "called"),
        (lambda of: beft.train(of["base"], of["data"], ["valeu"]), "value"),
        (lambda of: beft.train(of["base"], of["data"], ["value"], settings={"train.epoch": 3}), "epochs"),
        (lambda of: beft.evaluate(of["base"], of["data"], of["result"], baselines=["value"]), "its own baseline"),
        (lambda of: beft.evaluate(of["base"], of["data"], of["result"], baselines=["loar"]), "lora"),
        (lambda of: beft.merge([of["result"]]), "two"),
        (lambda of: beft.merge([of["result"]] * 2, method="tie"), "ties"),
        (lambda of: beft.merge([of["result"]] * 2, method="ties", densty=0.2), "density"),
        (lambda of: of["probe"].select(by="fischer"), "fisher"),
        (lambda of: beft.train(of["base"], of["data"], "value"), r"terms must be a list, such as \['value'\]"),
        (lambda of: beft.train(of["base"], of["data"], ["value"], learning_rates=0.01), r"such as \[0.01\]"),
        (lambda of: beft.train(of["base"], of["data"], ["value"], probe="p"), "probe must be what beft.probe"),
        (lambda of: beft.train("model", of["data"], ["value"]), "base must be what beft.load_base"),
        (lambda of: beft.probe(of["base"], rows()), "make one with beft.Dataset.from_rows"),
        (lambda of: beft.train(of["base"], of["data"], ["value"], settings=["a"]), "settings must be a mapping"),
        (
            lambda of: beft.train(of["base"], of["data"], ["value"], settings={"train": {"batch_size": 8}}),
            "write 'train.batch_size' in place of 'train'",
        ),
        (
            lambda of: beft.train(of["base"], of["data"], ["value"], settings={"base.precision": "bf16"}),
            "give it to beft.load_base",
        ),
        (lambda of: beft.inspect(3), "base must be what beft.load_base"),
        (lambda of: beft.evaluate(of["base"], of["data"], "adapters/a"), r"beft.Adapter.load\(FOLDER\)"),
        (lambda of: beft.evaluate(of["base"], of["data"], of["result"], split="dev"), "Known: gate, test"),
        (lambda of: beft.evaluate(of["base"], other_data(), of["result"]), "its labels are left, right; those of the"),
        (lambda of: beft.evaluate(of["base"], of["data"], of["result"], baselines="lora"), r"such as \['lora'\]"),
        (lambda of: beft.merge([of["result"]] * 2, method="searched_weights"), "needs weights, one an adapter"),
        (lambda of: beft.merge(of["result"]), r"in a list: beft.merge\(\[a, b\]\)"),
        (lambda of: beft.merge(["adapters/a", "adapters/b"]), r"beft.Adapter.load\(FOLDER\)"),
        (lambda of: beft.load_predictor(of["result"].adapter), "save it with adapter.save"),
    ],
)
def test_wrong_arguments_are_named(
    call: Callable[[dict[str, Any]], object],
    says: str,
    base: Base,
    data: beft.Dataset,
    probe: Probe,
    result: TrainingResult,
) -> None:
    with pytest.raises(InputError, match=says):
        call({"base": base, "data": data, "probe": probe, "result": result})


def test_the_type_checker_sees_the_real_names() -> None:
    for name, module in vars(importlib.import_module("beft"))["_MODULES"].items():
        assert getattr(importlib.import_module(module), name) is getattr(beft, name)
    assert beft.Adapter is Adapter


def test_an_evaluation_names_what_it_has(base: Base, data: beft.Dataset, result: TrainingResult) -> None:
    found = beft.evaluate(base, data, result, baselines=["head_only"], settings=QUICK)
    for call in (
        lambda: found.gain("head_onli"),
        lambda: found.score("head_onli"),
        lambda: found.score(split="gate"),
        lambda: found.score(metric="acuracy"),
    ):
        with pytest.raises(InputError, match=r"unknown .*Known: .*(head_only|test|accuracy)"):
            call()


def test_results_are_shown_in_a_few_lines(base: Base, data: beft.Dataset, probe: Probe, result: TrainingResult) -> None:
    merged = beft.merge([result, result])
    evaluation = beft.evaluate(base, data, result, baselines=["head_only"], settings=QUICK)
    for found in (probe, probe.evidence, probe.training, result, result.adapter, *merged):
        assert len(repr(found)) < 500 and "\n" not in repr(found), repr(found)[:3000]
    for shown in (evaluation, beft.inspect(base)):
        assert repr(shown) == str(shown) and len(repr(shown)) < 3000
    assert repr(result.adapter).startswith("value on films: ")


def test_columns_of_pandas_are_predicted_and_a_loaded_base_is_taken(
    base: Base, result: TrainingResult, tmp_path: Path
) -> None:
    result.adapter.save(tmp_path / "a d\u00e9")
    predictor = beft.load_predictor(tmp_path / "a d\u00e9", base=base)
    texts = ["fine a", "dull a"]
    expected = predictor.predict(texts)
    for column in (pandas.Series(texts, index=[4, 7]), np.array(texts), iter(texts)):
        assert predictor.predict(column) == expected  # type: ignore[arg-type]
    with pytest.raises(InputError, match="texts must be a list, not a DataFrame: give one column"):
        predictor.predict(pandas.DataFrame({"text": texts}))  # type: ignore[arg-type]


def test_a_term_that_is_named_twice_is_trained_once(base: Base, data: beft.Dataset) -> None:
    twice = beft.train(base, data, ["value", "value"], settings=QUICK)
    assert twice.adapter.terms == ("value",)


@pytest.mark.parametrize("settings", [{}, {"train.loss": "cross_entropy"}, {"head.init": "logistic_regression"}])
def test_a_headline_that_needs_groups_trains_and_is_evaluated(
    base: Base, settings: dict[str, Any], tmp_path: Path
) -> None:
    texts, labels = rows()
    given = pandas.DataFrame({"text": texts, "label": labels, "question": [f"q{at // 4}" for at in range(len(texts))]})
    given.to_csv(tmp_path / "questions.csv", index=False)
    description = Description.from_mapping(
        {
            "name": "questions",
            "title": "answers to questions",
            "version": 1,
            "source": {"kind": "files", "train": "questions.csv"},
            "columns": {"text": "text", "label": "label", "group": "question"},
            "labels": ["down", "up"],
            "metric": "multirc_exact_match",
        },
        "questions",
    )
    data = beft.Dataset.prepared_from(description, tmp_path, "all", SplitSettings(test_rows=40, gate_rows=0))
    result = beft.train(base, data, terms=["value"], settings={**QUICK, **settings})
    found = beft.evaluate(base, data, result, baselines=["head_only", "logistic_regression"])
    assert all(np.isfinite(found.gain(name).difference) for name in ("head_only", "logistic_regression"))
