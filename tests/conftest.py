"""What the tests share: tiny random models of every family, never downloaded."""

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)

# A machine that is busy with something else makes no example wrong, so hypothesis does not watch the clock; fifty
# examples each keep the suite within its minutes.
hypothesis.settings.register_profile("beft", deadline=None, max_examples=50)
hypothesis.settings.load_profile("beft")

LAYERS = 2
HIDDEN = 32
HEADS = 4
INTERMEDIATE = 48
VOCABULARY = 128
LABELS = 3
PAD = 1

FAMILIES = ("bert", "roberta", "mpnet", "distilbert", "opt", "gpt2", "qwen2", "llama")
"""The families that every part is tested with; ``tiny("phi")`` works too."""

# What a family calls the sizes that the others call by the names of BERT.
_NAMES: dict[str, dict[str, str]] = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    },
    "opt": {"intermediate_size": "ffn_dim"},
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
    },
}


def build_tiny(
    family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, causal: bool = False, **overrides: Any
) -> Any:
    """A tiny random sequence-classification model of a family, in eval mode, its biases not zero.

    Args:
        family: One of FAMILIES.
        seed: Seed of the weights; the global generator is left as it was.
        dtype: Type of the parameters.
        causal: Whether it is a language model, without a head.
        overrides: Entries of the family's configuration, under the names of BERT's or its own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 64,
        "num_labels": LABELS,
        "pad_token_id": PAD,
        "bos_token_id": 2,
        "eos_token_id": 2,
    }
    if family == "opt":
        values["word_embed_proj_dim"] = overrides.get("hidden_size", HIDDEN)
    if family in ("qwen2", "llama"):
        values["num_key_value_heads"] = 2
    values.update(overrides)
    names = _NAMES.get(family, {})
    config = AutoConfig.for_model(family, **{names.get(name, name): value for name, value in values.items()})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (AutoModelForCausalLM if causal else AutoModelForSequenceClassification).from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(".bias"):
                    parameter.normal_(std=0.3)
                elif parameter.dim() > 1:
                    parameter.normal_(std=0.2)
                else:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(dtype).eval()


def from_config(family: str, **values: Any) -> Any:
    """A tiny random model of a family that the shared fixture does not build, in fp64."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {
        "vocab_size": 128,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 16,
        "num_labels": 3,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **{**sizes, **values}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
    return model.double().eval()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """``tiny(family, seed=0, dtype=torch.float32, **configuration)``: see ``build_tiny``."""
    return build_tiny


@pytest.fixture(scope="session")
def tiny_batch() -> Callable[..., dict[str, Tensor]]:
    """``tiny_batch(rows=3, length=7, seed=0)``: random token ids padded on the right, and their attention mask."""

    def build(rows: int = 3, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
        lengths = torch.randint(max(2, length // 2), length + 1, (rows, 1), generator=generator)
        lengths[0] = length
        mask = (torch.arange(length) < lengths).long()
        return {"input_ids": ids.where(mask.bool(), PAD), "attention_mask": mask}

    return build


@pytest.fixture(scope="session")
def bare() -> Callable[[Any], nn.Module]:
    """``bare(model)``: the base model under the classification head."""

    def base_model(model: Any) -> nn.Module:
        base: nn.Module = model.base_model
        return base

    return base_model
