"""The measurement of label words: the base that is made for it, a draw, and the arithmetic of its table."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from beft.datasets.prepared import Rows
from beft.files import read_json, write_json
from beft.settings import BaseSettings
from benchmarks.few_labels.pools import Pool
from benchmarks.label_words import __main__ as program
from benchmarks.label_words import mask_base, study
from benchmarks.label_words.study import LABEL_WORDS, METHODS, UNTRAINED, measure_draw
from benchmarks.label_words.table import table
from tests.beft.models.test_mask_head import save_masked


def test_the_base_that_is_made_has_its_head_and_has_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_base, "STEPS", 12)
    monkeypatch.setattr(mask_base, "_WARM_UP", 2)
    texts = ["the film was good and the cast was good too " * 3] * 40
    loss = mask_base.make_mask_base(texts, tmp_path)
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    embeddings = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight.data_ptr() == embeddings.data_ptr()
    batch = tokenizer("the film was [MASK] and the cast was good too", return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[0, batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
    ranks = logits.argsort(descending=True).tolist()
    assert ranks.index(tokenizer.convert_tokens_to_ids("good")) < 20  # of 30,522 words
    assert loss < 10.3  # a guess among all words


def test_a_draw_is_measured_with_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that differ by one word are told apart on frozen features; a second call gives the same numbers."""
    monkeypatch.setitem(LABEL_WORDS, "made", {"a": "good", "b": "dull"})
    texts = [f"{word} {other} film" for word in ("good", "dull") for other in ("fine", "plot", "cast", "very")]
    rows = Rows([f"train-{at}" for at in range(8)], texts, None, [0] * 4 + [1] * 4)
    base = BaseSettings(source=str(save_masked(tmp_path / "base", "bert")), threads=1, precision="fp32")
    found = measure_draw(base, Pool("made", rows, rows, ("a", "b")), 4, 0)
    assert tuple(found) == METHODS
    assert found["logistic_regression"] == 1.0
    assert all(0 <= value <= 1 for value in found.values())
    assert found == measure_draw(base, Pool("made", rows, rows, ("a", "b")), 4, 0)


def test_a_base_that_was_made_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with results in another folder; and each draw is measured once."""
    measured: list[int] = []

    def make(texts: list[str], folder: Path) -> float:
        save_masked(folder, "bert")
        return float(len(texts))

    def measure(base: BaseSettings, pool: Pool, rows: int, number: int) -> dict[str, float]:
        measured.append(number)
        return dict.fromkeys(METHODS, 0.5 + number / 100)

    monkeypatch.setattr(program, "make_mask_base", make)
    monkeypatch.setattr(program, "measure_draw", measure)
    monkeypatch.setattr(program, "LABEL_WORDS", {"rotten_tomatoes": {}})
    monkeypatch.setattr(program, "REVIEWS", 60)
    for out in ("one", "one", "other"):
        program.main(["--base", str(tmp_path / "base"), "--out", str(tmp_path / out), "--threads", "1"])
        assert read_json(tmp_path / out / "results.json")["base"] == {"texts": 60, "loss": 60.0}
        monkeypatch.setattr(program, "make_mask_base", None)
    assert measured == [*range(study.DRAWS)] * 4


def test_the_table_has_the_differences_of_the_same_draws() -> None:
    draws = {str(at): dict(zip(METHODS, (0.5, 0.6 + at / 100, 0.4, 0.7), strict=True)) for at in range(3)}
    results = {
        "about": {"date": "2026-11-30", "cpu": "a CPU", "precision": "bf16", "torch": "2"},
        "base": {"texts": 1000, "loss": 3.5},
        "cells": {"sst2/16": draws},
    }
    text = table(results)
    [accuracies, differences] = [line for line in text.splitlines() if line.startswith("| sst2, 16 |")]
    assert "61.0 [58.5, 63.5]" in accuracies
    assert differences == "| sst2, 16 | +20.0 [+20.0, +20.0] | +9.0 [+6.5, +11.5] | +30.0 [+30.0, +30.0] |"
    assert UNTRAINED in text and study.TRAINED in text


def test_draws_of_another_base_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their accuracies would else stand under the loss of the new base."""
    accuracy = 0.5
    monkeypatch.setattr(program, "measure_draw", lambda *of_draw: dict.fromkeys(METHODS, accuracy))
    monkeypatch.setattr(program, "LABEL_WORDS", {"rotten_tomatoes": {}})
    for name in ("first", "second"):
        folder = save_masked(tmp_path / name, "bert")
        write_json(folder / "made.json", {"texts": 60, "loss": accuracy})
        program.main(["--base", str(folder), "--out", str(tmp_path), "--threads", "1"])
        results = read_json(tmp_path / "results.json")
        assert results["base"]["loss"] == accuracy
        found = [of_draw for draws in results["cells"].values() for of_draw in draws.values()]
        assert found == [dict.fromkeys(METHODS, accuracy)] * len(study.ROWS) * study.DRAWS
        accuracy = 0.75
