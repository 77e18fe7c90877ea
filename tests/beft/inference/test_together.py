"""Adapters that are measured in one pass have the numbers that each has alone."""

from pathlib import Path

import numpy as np
import pytest

from beft.encoding.examples import LabelledRows
from beft.encoding.tokenization import encode
from beft.inference.predictions import measure_runs
from beft.inference.together import measure_adapters
from tests.conftest import build_tiny
from tests.support.tiny_bases import LABELS, TEXTS, Adapter, Classifier, draw_deltas, draw_head, load, save_base


def accuracy(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float((probabilities.argmax(-1) == truth).mean())


def adapters_of(classifier: Classifier) -> list[Adapter]:
    """Three adapters: of other terms and other heads."""
    terms: list[tuple[str, ...]] = [("value",), ("query",), ("value",)]
    return [
        Adapter.trained(
            classifier,
            terms=of_one,
            deltas=draw_deltas(classifier, of_one, seed=seed),
            head=draw_head(classifier, seed=seed),
            max_length=24,
            head_train="output",
            dataset="tiny",
            provenance={"seed": seed, "data_sha256": "0" * 64},
        )
        for seed, of_one in enumerate(terms)
    ]


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta-v2", "gpt2", "opt", "qwen2", "bart"])
def test_each_has_what_it_has_alone(family: str, tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path, build_tiny(family)))
    encoded = encode(classifier.tokenizer, list(TEXTS), max_length=24)
    rows = LabelledRows(encoded, np.arange(len(TEXTS)) % len(LABELS))
    adapters = adapters_of(classifier)
    alone = []
    for adapter in adapters:
        with adapter.attached(classifier):
            alone += measure_runs(classifier, rows, accuracy)
    together = measure_adapters(classifier, adapters, rows, accuracy)
    assert len({one["dev_loss"] for one in alone}) == len(adapters)
    for one, of_all in zip(alone, together, strict=True):
        assert of_all["dev_metric"] == one["dev_metric"]
        assert of_all["dev_loss"] == pytest.approx(one["dev_loss"], abs=1e-5)


def test_nothing_and_one_are_measured_too(tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path, build_tiny("bert")))
    rows = LabelledRows(encode(classifier.tokenizer, list(TEXTS), max_length=24), np.arange(len(TEXTS)) % len(LABELS))
    assert measure_adapters(classifier, [], rows, accuracy) == []
    [found] = measure_adapters(classifier, adapters_of(classifier)[:1], rows, accuracy)
    assert 0 <= found["dev_metric"] <= 1
