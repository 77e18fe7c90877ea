"""An adapter over a base: attached, refused where it does not fit, and folded into a plain model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from beft.adapters.adapter import Adapter
from beft.bank.bank import Bank
from beft.encoding.tokenization import encode
from beft.errors import InputError
from beft.models.classifier import Classifier
from tests.support.tiny_bases import LABELS, TEXTS, load, make_adapter, save_base


def test_attached_and_then_the_base_bit_for_bit(bert: Classifier) -> None:
    adapter = make_adapter(bert, ("value", "output_norm"))
    before = {name: value.clone() for name, value in bert.model.state_dict().items()}
    batch = encode(bert.tokenizer, TEXTS, max_length=24).batch(range(len(TEXTS)))
    with torch.no_grad():
        plain = bert(batch)
        with adapter.attached(bert) as same:
            assert same is bert
            assert not torch.allclose(bert(batch), plain)
            with pytest.raises(InputError, match="attached already"), adapter.attached(bert):
                pass
        assert torch.equal(bert(batch), plain)
        with pytest.raises(ZeroDivisionError), adapter.attached(bert):
            _ = 1 / 0
        assert torch.equal(bert(batch), plain)
    assert all(torch.equal(value, before[name]) for name, value in bert.model.state_dict().items())


def test_an_adapter_of_a_bf16_base_is_computed_in_fp32_over_an_fp32_base(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    # RoBERTa's inner layer was drawn in bf16; over the fp32 base its values are the same, the arithmetic is not.
    base = save_base(tmp_path / "base", tiny("roberta"))
    adapter = make_adapter(load(base, precision="bf16"))
    assert adapter.head["classifier.dense.weight"].dtype == torch.bfloat16
    classifier = load(base)
    batch = encode(classifier.tokenizer, TEXTS, max_length=24).batch(range(len(TEXTS)))
    wide = {name: value.float() for name, value in adapter.head.items()}
    with torch.no_grad():
        with Bank(classifier.model, adapter.deltas, wide):
            expected = classifier(batch)
        with adapter.attached(classifier):
            assert torch.equal(classifier(batch), expected)


def test_what_does_not_fit_is_refused_by_name(tiny: Callable[..., Any], bert: Classifier, tmp_path: Path) -> None:
    adapter = make_adapter(bert)
    other = load(save_base(tmp_path / "other", tiny("bert", seed=1)))
    deeper = load(save_base(tmp_path / "deeper", tiny("bert", num_hidden_layers=3)))
    wider = load(save_base(tmp_path / "wider", tiny("bert", hidden_size=64)))
    memory = Classifier(tiny("bert"), bert.tokenizer, None, LABELS)
    renamed = Classifier(bert.model, bert.tokenizer, bert.reference, LABELS[::-1], "model", bert.newly_initialized)
    mean = Classifier(bert.model, bert.tokenizer, bert.reference, LABELS, "mean", bert.newly_initialized)
    cased = load(save_base(tmp_path / "cased", tiny("bert"), lowercase=False))
    for classifier, message in (
        (other, r"trained over the base sha256:.*not over sha256:.*load the one that it names"),
        (deeper, "trained over the base"),
        (memory, "a model in memory"),
        (renamed, "labels are bad, so-so, good, the classifier's good, so-so, bad"),
        (mean, "pooling is model, the classifier's mean"),
    ):
        with pytest.raises(InputError, match=message), adapter.attached(classifier):
            pass
    # With the hash of the base forged, or another version of transformers, the shapes and sites still tell.
    for classifier, message in (
        (deeper, r"sites .* differ \(bert\.encoder\.layer\.2"),
        (wider, r"classifier\.weight has shape \[3, 32\], BertForSequenceClassification has \[3, 64\]"),
        (cased, r"tokenizer is not the one .*sample_sha256 differ"),
    ):
        assert classifier.reference is not None
        forged = replace(adapter, base_sha256=classifier.reference.sha256, base_contents=classifier.reference.contents)
        with pytest.raises(InputError, match=message), forged.attached(classifier):
            pass


def test_a_head_that_lacks_what_the_base_lacks_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    # Over a base that brings RoBERTa's inner layer the head is the output layer alone.
    model = tiny("roberta")
    save_base(tmp_path / "base", model)
    model.save_pretrained(tmp_path / "base")
    whole = load(tmp_path / "base")
    adapter = make_adapter(whole)
    assert set(adapter.head) == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    bare = load(save_base(tmp_path / "bare", model))
    assert bare.reference is not None
    with pytest.raises(InputError, match=r"lacks classifier\.dense\.bias, classifier\.dense\.weight"):
        replace(adapter, base_sha256=bare.reference.sha256, base_contents=bare.reference.contents).bank(bare)


def test_other_deltas_under_the_same_head(bert: Classifier, tmp_path: Path) -> None:
    value, query = make_adapter(bert, ("value",)), make_adapter(bert, ("query",))
    union = {**value.deltas, **{site: 0.5 * delta for site, delta in query.deltas.items()}}
    merged = value.with_deltas(union, others=[query], provenance={"merged": "mean"})
    merged.save(tmp_path / "merged")
    found = Adapter.load(tmp_path / "merged")
    assert found.terms == ("query", "value")
    assert all(torch.equal(found.deltas[site], delta) for site, delta in union.items())
    assert all(torch.equal(found.head[name], tensor) for name, tensor in value.head.items())
    assert (found.peft.opens, found.provenance) == ("whole", {"merged": "mean"})
    with pytest.raises(InputError, match="every site of query"):
        value.with_deltas(value.deltas, others=[query]).save(tmp_path / "half")
    with pytest.raises(InputError, match="different bases"):
        value.with_deltas(union, others=[replace(query, base_sha256="f" * 64)])


@pytest.mark.parametrize(
    ("family", "terms"),
    [
        ("bert", ("value", "output_norm", "embedding_norm")),
        ("roberta", ("value",)),
        ("distilbert", ("output",)),
        ("gpt2", ("value", "intermediate")),
        ("qwen2", ("query",)),
        ("gpt_neox", ("value", "query")),
        ("albert", ("value", "output_norm")),
        ("bart", ("value", "embedding_norm")),
        ("llama", ("value",)),
        ("llama", ("value", "output")),
    ],
)
def test_a_folded_model_gives_the_same_logits(
    family: str, terms: tuple[str, ...], tiny: Callable[..., Any], tmp_path: Path
) -> None:
    classifier = load(save_base(tmp_path / "base", tiny(family)))
    adapter = make_adapter(classifier, terms, add=family == "llama")
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    report = adapter.fold(classifier, tmp_path / "folded")
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())
    torch.manual_seed(99)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "folded").eval()
    batch = encode(classifier.tokenizer, TEXTS, max_length=24).batch(range(len(TEXTS)))
    with torch.no_grad(), adapter.attached(classifier):
        torch.testing.assert_close(plain(**batch).logits, classifier(batch), rtol=0, atol=1e-6)
    assert plain.config.id2label == dict(enumerate(LABELS))
    assert report.largest == 0.0  # deltas are fp32, and so is the model


def test_folding_into_bf16_says_what_it_rounds(tiny: Callable[..., Any], tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")), precision="bf16")
    adapter = make_adapter(classifier)
    adapter.fold(classifier, tmp_path / "folded")
    told = json.loads((tmp_path / "folded" / "beft_fold.json").read_text())
    value = classifier.model.get_submodule("bert.encoder.layer.0.attention.self.value")
    other = classifier.model.get_submodule("bert.encoder.layer.1.attention.self.value")
    sums = [module.bias.float() + delta for module, delta in zip((value, other), adapter.deltas.values(), strict=True)]
    expected = max(float((total - total.bfloat16().float()).abs().max()) for total in sums)
    assert told["precision"] == "bfloat16"
    assert told["largest_rounding_of_biases"] == expected > 0
    head = adapter.head["classifier.weight"]
    assert told["largest_rounding_of_head"] == float((head - head.bfloat16().float()).abs().max()) > 0


def test_what_cannot_be_folded_says_so(tiny: Callable[..., Any], bert: Classifier, tmp_path: Path) -> None:
    mean = Classifier(bert.model, bert.tokenizer, bert.reference, LABELS, "mean", bert.newly_initialized)
    with pytest.raises(InputError, match="pooling 'mean' cannot be folded"):
        make_adapter(mean).fold(mean, tmp_path / "folded")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="is there already"):
        make_adapter(bert).fold(bert, tmp_path / "there")
    qwen2 = load(save_base(tmp_path / "qwen2", tiny("qwen2")))
    with pytest.raises(InputError, match="no configuration with a bias at"):
        make_adapter(qwen2, ("attention_output",), add=True).fold(qwen2, tmp_path / "folded")
    assert not (tmp_path / "folded").exists()
