"""The head that a base brings: its outputs go by the names of its configuration, never by their position."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from beft.adapters.adapter import Adapter
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.settings import Settings
from tests.support.tiny_bases import LABELS, TEXTS, load, make_adapter, save_base, tiny_tokenizer

torch.set_num_threads(1)


def with_head(folder: Path, model: Any, names: tuple[str, ...] | None) -> Path:
    """Save a base with its head, whose outputs have these names."""
    if names is not None:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "bart"])
@pytest.mark.parametrize("names", [("good", "bad", "so-so"), ("GOOD", " Bad", "So-So"), ("bad", "so-so", "good")])
def test_its_outputs_are_put_into_the_order_of_the_labels(
    names: tuple[str, ...], family: str, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny(family)
    model.config.eos_token_id = 3
    folder = with_head(tmp_path / "base", model, names)
    classifier = load(folder)
    assert classifier.newly_initialized == ()
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    expected = dict(zip((name.strip().lower() for name in names), plain(**batch).logits[0].tolist(), strict=True))
    found = dict(zip(classifier.labels, classifier(dict(batch))[0].tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)
    assert classifier.model.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("names", [None, ("good", "bad", "neutral"), ("good", "Good", "bad")])
def test_where_its_names_are_others_a_new_one_is_drawn_and_it_is_said(
    names: tuple[str, ...] | None, tiny: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("roberta")
    folder = with_head(tmp_path / "base", model, names)
    first, same, other = load(folder), load(folder), load(folder, seed=1)
    assert first.newly_initialized == ("classifier.out_proj.bias", "classifier.out_proj.weight")
    said = ", ".join(names or ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert f"the base's own head is for {said}, not for bad, so-so, good: a new one is drawn" in caplog.text
    weights = [each.output_layer.weight for each in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], model.classifier.out_proj.weight)
    assert weights[0].std() == pytest.approx(0.02, rel=0.3)
    assert not first.output_layer.bias.any()
    assert torch.equal(first.model.classifier.dense.weight, model.classifier.dense.weight)  # what is below it stays


def test_accents_may_be_written_in_either_form(tiny: Callable[..., Any], tmp_path: Path) -> None:
    labels = ("Caf\u00e9", "th\u00e9", "\u0130zmir")
    folder = with_head(tmp_path / "base", tiny("bert"), tuple(unicodedata.normalize("NFD", label) for label in labels))
    compute = Compute("cpu", "fp32", 1)
    assert load_classifier(resolve_base(str(folder)), labels, compute=compute).newly_initialized == ()
    decomposed = [unicodedata.normalize("NFD", label).upper() for label in labels]
    assert load_classifier(resolve_base(str(folder)), decomposed[::-1], compute=compute).newly_initialized == ()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (LABELS, "own head is used, its outputs (bad, so-so, good) as they are"),
        (LABELS[::-1], "own head is used, its outputs (good, so-so, bad) put into the order of the labels"),
        (("a", "b"), "own head has 2 outputs, not 3: a new one is drawn (classifier."),
    ],
)
def test_what_becomes_of_it_is_always_said(
    names: tuple[str, ...], said: str, tiny: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="beft.models.base")
    load(with_head(tmp_path / "base", tiny("bert", num_labels=len(names)), names))
    assert said in caplog.text


def test_the_advice_helps(tiny: Callable[..., Any], tmp_path: Path) -> None:
    folder = with_head(tmp_path / "base", tiny("bert"), None)
    assert load(folder).newly_initialized
    values = json.loads((folder / "config.json").read_text())
    values |= {"id2label": {"0": "good", "1": "so-so", "2": "bad"}, "label2id": {"good": 0, "so-so": 1, "bad": 2}}
    (folder / "config.json").write_text(json.dumps(values))
    found = load(folder)
    assert found.newly_initialized == ()
    assert torch.equal(found.output_layer.weight, tiny("bert").classifier.weight[[2, 1, 0]])


def test_drawing_leaves_the_state_of_the_process(tiny: Callable[..., Any], tmp_path: Path) -> None:
    folder = with_head(tmp_path / "base", tiny("bert"), None)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load(folder)
    assert torch.equal(torch.rand(1), expected)


def test_an_adapter_over_such_a_base_gives_its_own_logits(tiny: Callable[..., Any], tmp_path: Path) -> None:
    folder = with_head(tmp_path / "base", tiny("bert"), None)
    classifier = load(folder)
    make_adapter(classifier).save(tmp_path / "adapter")
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    adapter = Adapter.load(tmp_path / "adapter")
    with adapter.attached(classifier):
        expected = classifier(batch)
    again = load(folder, seed=7)
    with adapter.attached(again):
        assert torch.equal(again(batch), expected)


def test_one_output_needs_no_name(tiny: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from beft.problems.regression import Regression

    caplog.set_level("INFO", logger="beft.models.base")
    model = tiny("bert", num_labels=1)
    folder = with_head(tmp_path / "base", model, None)
    found = load_classifier(
        resolve_base(str(folder)),
        (),
        compute=Compute("cpu", "fp32", 1),
        problem_type=Regression(),
        seed=Settings().seed,
    )
    assert found.newly_initialized == ()
    assert torch.equal(found.output_layer.weight, model.classifier.weight)
    assert "the base's own head is used: its one output" in caplog.text


def test_a_bare_base_is_as_it_was(tiny: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="beft.models.base")
    assert load(save_base(tmp_path / "base", tiny("bert"))).newly_initialized == (
        "classifier.bias",
        "classifier.weight",
    )
    assert "head" not in caplog.text
