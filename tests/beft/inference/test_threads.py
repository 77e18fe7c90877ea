"""Predicting from many threads at once gives each what it gets alone."""

import itertools
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import mlflow
import pandas
import pytest
import torch

from beft.adapters.adapter import Adapter
from beft.encoding.prompted import encode_prompted
from beft.encoding.tokenization import encode
from beft.inference.predictor import Predictor
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.candidates import Candidates
from beft.problems.classification import Classification
from beft.problems.language_model import LanguageModeling
from beft.problems.problem_type import ProblemType
from beft.settings import Quantization
from tasks.registry.package import save_model
from tests.support.shapes import LETTERS, PROMPT, letter_tokenizer
from tests.support.tiny_bases import LABELS, WORDS, make_adapter, save_base

torch.set_num_threads(1)

THREADS = 8
ROUNDS = 6


def together(questions: Sequence[Any], ask: Callable[[Any], Any]) -> list[Any]:
    """What eight threads get that ask different questions at once, again and again."""
    barrier = Barrier(THREADS)

    def all_rounds(first: int) -> list[tuple[int, Any]]:
        barrier.wait(30)
        places = [(first + turn) % len(questions) for turn in range(ROUNDS)]
        return [(place, ask(questions[place])) for place in places]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(itertools.chain.from_iterable(pool.map(all_rounds, range(THREADS))))


def check_same(questions: Sequence[Any], ask: Callable[[Any], Any]) -> None:
    """Every answer is the one that is given when nobody else asks."""
    alone = [ask(question) for question in questions]
    for place, found in together(questions, ask):
        assert found == alone[place]


def texts_of(words: Sequence[str], *, separator: str = " ") -> list[list[str]]:
    """Lists of texts of many lengths, some of them longer than what they are cut to."""
    return [
        [
            separator.join(words[(7 * number + at) % len(words)] for at in range(1 + (5 * number + 3 * row) % 40))
            for row in range(4)
        ]
        for number in range(THREADS)
    ]


def save_adapter(tiny: Callable[..., Any], root: Path, shape: ProblemType, labels: Sequence[str]) -> tuple[Path, Path]:
    """The folders of a tiny base and of an adapter of it."""
    base = root / "base"
    if shape.has_head:
        save_base(base, tiny("bert"))
    else:
        tokenizer = letter_tokenizer()
        tiny("qwen2", causal=True, vocab_size=len(tokenizer)).save_pretrained(base)
        tokenizer.save_pretrained(base)
    make_adapter(opened(base, shape, labels)).save(root / "adapter")
    return base, root / "adapter"


def opened(base: Path, shape: ProblemType, labels: Sequence[str], quantization: Quantization = "none") -> Classifier:
    compute = Compute("cpu", "fp32", 1, quantization)
    return load_classifier(resolve_base(str(base)), labels, compute=compute, pooling="model", problem_type=shape)


PROBLEM_TYPES: dict[str, tuple[ProblemType, tuple[str, ...]]] = {
    "classification": (Classification(), LABELS),
    "candidates": (Candidates(PROMPT, ("no", "yes")), ("no", "yes")),
    "generation": (LanguageModeling(PROMPT, free=True, max_new_tokens=5), ()),
}


@pytest.mark.parametrize("name", PROBLEM_TYPES)
def test_eight_threads_get_what_each_gets_alone(name: str, tiny: Callable[..., Any], tmp_path: Path) -> None:
    shape, labels = PROBLEM_TYPES[name]
    base, adapter = save_adapter(tiny, tmp_path, shape, labels)
    predictor = Predictor(adapter, base=base, device="cpu", batch_tokens=20)
    questions = texts_of(WORDS) if shape.has_head else texts_of(LETTERS, separator="")
    check_same(questions, predictor.predict)


@pytest.mark.parametrize("name", PROBLEM_TYPES)
def test_eight_threads_get_it_through_mlflow(
    name: str, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the model adds the code that it brings
    shape, labels = PROBLEM_TYPES[name]
    base, folder = save_adapter(tiny, tmp_path, shape, labels)
    adapter, made = Adapter.load(folder), mlflow.models.Model()
    save_model(tmp_path / "model", folder, adapter, made, base=base, pairs=False, seen=[], metadata={})
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"base": str(base), "device": "cpu"})
    questions = texts_of(WORDS) if shape.has_head else texts_of(LETTERS, separator="")
    check_same(questions, lambda texts: model.predict(pandas.DataFrame({"text": texts})).to_dict("list"))


def test_a_language_model_is_computed_by_eight_threads(tiny: Callable[..., Any], tmp_path: Path) -> None:
    """The classifier itself, without a predictor that lets one in after the other."""
    shape, labels = PROBLEM_TYPES["candidates"]
    base, _ = save_adapter(tiny, tmp_path, shape, labels)
    classifier = opened(base, shape, labels)

    def scores(texts: list[str]) -> list[float]:
        answers = [["n!", "yes"]] * len(texts)
        encoded = encode_prompted(classifier.tokenizer, texts, answers, max_length=24)
        with torch.no_grad():
            found: list[float] = classifier(encoded.batch(range(len(encoded)))).flatten().tolist()
        return found

    check_same(texts_of(LETTERS, separator=""), scores)


@pytest.mark.parametrize("family", ["bert", "qwen2"])
def test_each_of_eight_threads_gets_what_the_head_sees_of_its_own_texts(
    family: str, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    classifier = opened(save_base(tmp_path / "base", tiny(family)), Classification(), LABELS)

    def features(texts: list[str]) -> list[float]:
        encoded = encode(classifier.tokenizer, texts, max_length=24)
        with torch.no_grad():
            found: list[float] = classifier.head_features(encoded.batch(range(len(encoded)))).flatten().tolist()
        return found

    check_same(texts_of(WORDS), features)


def test_texts_are_cut_for_each_thread_as_it_asks(tiny: Callable[..., Any], tmp_path: Path) -> None:
    tokenizer: Any = opened(save_base(tmp_path / "base", tiny("bert")), Classification(), LABELS).tokenizer
    questions = [(texts, limit) for texts, limit in zip(texts_of(WORDS), itertools.cycle((5, 9, 31)), strict=False)]

    def tokens(question: tuple[list[str], int]) -> tuple[list[list[int]], int]:
        encoded = encode(tokenizer, question[0], max_length=question[1])
        return encoded.input_ids, encoded.truncated

    check_same(questions, tokens)
