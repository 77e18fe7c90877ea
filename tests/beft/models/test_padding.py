"""Padding: a text's outputs do not depend on its neighbours, whichever side the base's tokenizer pads by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from beft.datasets.prepared import PreparedData, Rows
from beft.encoding.tokenization import encode
from beft.files import read_json, write_json
from beft.inference.features import extract_features
from beft.inference.runs import LabelledRows
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.candidates import Candidates
from beft.problems.prompt import Prompt
from beft.settings import Settings
from beft.training.session import Session
from tests.support.tiny_bases import LABELS, TEXTS, make_adapter, save_base, tiny_tokenizer

torch.set_num_threads(1)


def left_padding_base(folder: Path, model: Any) -> Path:
    """A base in a folder whose tokenizer pads on the left."""
    save_base(folder, model)
    path = folder / "tokenizer_config.json"
    write_json(path, {**read_json(path), "padding_side": "left"})
    return folder


def load_fp64(folder: Path, pooling: str = "model") -> Classifier:
    return load_classifier(resolve_base(str(folder)), LABELS, compute=Compute("cpu", "fp64", 1), pooling=pooling)


@pytest.mark.parametrize("pooling", ["cls", "mean", "model"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "opt", "qwen2"])
def test_a_text_gives_alone_what_it_gives_among_longer_ones(
    family: str, pooling: str, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    classifier = load_fp64(left_padding_base(tmp_path / "base", tiny(family)), pooling)
    assert classifier.tokenizer.padding_side == "left"
    encoded = encode(classifier.tokenizer, TEXTS, max_length=24)
    assert len(set(encoded.lengths)) > 2
    rows = range(len(TEXTS))
    with torch.no_grad():
        together = classifier(encoded.batch(rows))
        features = classifier.head_features(encoded.batch(rows))
        alone = torch.cat([classifier(encoded.batch([row])) for row in rows])
        features_alone = torch.cat([classifier.head_features(encoded.batch([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    torch.testing.assert_close(features, features_alone, rtol=0, atol=1e-9)


def test_the_first_token_is_found_behind_padding(tiny: Callable[..., Any], tmp_path: Path) -> None:
    """Also in a batch that somebody else padded on the left: RoBERTa counts its positions from there."""
    classifier = load_fp64(left_padding_base(tmp_path / "base", tiny("roberta")), "cls")
    padded = dict(classifier.tokenizer(list(TEXTS), padding=True, return_tensors="pt"))
    batch = {name: padded[name] for name in ("input_ids", "attention_mask")}
    assert not batch["attention_mask"][:, 0].all()
    with torch.no_grad():
        found = classifier(batch)
        encoded = encode(classifier.tokenizer, TEXTS, max_length=32)
        expected = classifier(encoded.batch(range(len(TEXTS))))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_an_exported_model_pads_as_it_was_trained(tiny: Callable[..., Any], tmp_path: Path) -> None:
    classifier = load_fp64(left_padding_base(tmp_path / "base", tiny("bert")))
    adapter = make_adapter(classifier)
    adapter.fold(classifier, tmp_path / "plain")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain", dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    encoded = encode(classifier.tokenizer, TEXTS, max_length=32)
    with torch.no_grad():
        found = model(**tokenizer(list(TEXTS), padding=True, return_tensors="pt")).logits
        with adapter.attached(classifier):
            expected = torch.cat([classifier(encoded.batch([row])) for row in range(len(TEXTS))])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert classifier.tokenizer.padding_side == "left"


def test_features_of_prompts_do_not_depend_on_their_neighbours(tiny: Callable[..., Any], tmp_path: Path) -> None:
    """GPT-2 counts positions from the left edge of the batch."""
    base = tmp_path / "base"
    tiny("gpt2", causal=True).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    shape = Candidates(Prompt("{text} was", {"bad": " dull", "good": " fine"}), ("bad", "good"))
    compute = Compute("cpu", "fp64", 1)
    classifier = load_classifier(resolve_base(str(base)), ("bad", "good"), compute=compute, problem_type=shape)
    settings = Settings.from_mapping({"base": {"source": str(base)}, "datasets": {"films": {"max_length": 24}}})
    session = Session(classifier, settings, PreparedData({"dataset": "films"}, {}.__getitem__))

    def features(texts: tuple[str, ...]) -> torch.Tensor:
        rows = Rows([str(row) for row in range(len(texts))], list(texts), None, [0] * len(texts))
        prompts: LabelledRows = session.prompts(shape.examples(classifier.tokenizer, rows, 24))
        return extract_features(classifier, prompts.encoded, "pooled")

    together = features(TEXTS)
    alone = torch.cat([features((text,)) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
