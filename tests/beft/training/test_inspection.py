"""What is said of a base of each kind: where its terms are, how many sites they have, how wide these are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beft.training.inspection import inspect_base
from tests.beft.models.test_base_files import entries
from tests.conftest import ENCODER_DECODER, FAMILIES
from tests.support.tiny_bases import save_base

# Family: sites of the term, width of a site, module.
VALUES = {
    "albert": (1, 32, "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.value"),
    "gpt2": (2, 32, "transformer.h.*.attn.c_attn[64:96]"),
    "gpt_neox": (2, 32, "gpt_neox.layers.*.attention.query_key_value[16:96:8/24]"),
    "phi3": (2, 16, "model.layers.*.self_attn.qkv_proj[48:64]"),
    "bart": (
        6,
        32,
        "model.encoder.layers.*.self_attn.v_proj, model.decoder.layers.*.self_attn.v_proj, "
        "model.decoder.layers.*.encoder_attn.v_proj",
    ),
    "t5": (
        6,
        32,
        "transformer.encoder.block.*.layer.0.SelfAttention.v, transformer.decoder.block.*.layer.0.SelfAttention.v, "
        "transformer.decoder.block.*.layer.1.EncDecAttention.v",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_inspected(family: str, tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny(family, num_labels=2)
    found = inspect_base(str(save_base(tmp_path / "base", model)))
    assert found.model == type(model).__name__
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.stacks == ({"encoder": 2, "decoder": 2} if family in ("bart", "t5") else {})
    existing = sum(term.parameters for term in found.terms if term.exists)
    biases = {name: value for name, value in model.named_parameters() if name.endswith(".bias")}
    ours = sum(value.numel() for name, value in biases.items() if not _of_head_or_embeddings(name))
    assert existing == ours
    if family in VALUES:
        [value] = [term for term in found.terms if term.term == "value"]
        assert (value.layers, value.width, value.module) == VALUES[family]


def _of_head_or_embeddings(name: str) -> bool:
    parts = ("classifi", "pooler", "score", "embeddings_project", "embedding_hidden_mapping_in")
    return any(part in name for part in parts)


@pytest.mark.parametrize(("family", "inert"), [("deberta-v2", 0), ("t5", 192), ("gpt_neox", 32)])
def test_inertness_is_counted_in_components(family: str, inert: int, tiny: Callable[..., Any], tmp_path: Path) -> None:
    found = inspect_base(str(save_base(tmp_path / "base", tiny(family))), inertness=True)
    counts = {term.term: term.inert for term in found.terms}
    assert counts["key"] == inert
    assert counts["value"] == counts["query"] == 0


@pytest.mark.parametrize("family", ENCODER_DECODER)
def test_inertness_needs_no_end_token(family: str, tiny: Callable[..., Any], tmp_path: Path) -> None:
    """The own head of an encoder and decoder reads at one; here the tokenizer puts none behind a text."""
    usual, other = (save_base(tmp_path / name, tiny(family)) for name in ("usual", "other"))
    entries(eos_token_id=9)(other)
    expected, found = (inspect_base(str(folder), inertness=True).terms for folder in (usual, other))
    assert found == expected
    assert {term.term: term.inert for term in found}["key"] == 192
