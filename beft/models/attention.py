"""Attention in bf16 on a CPU: batched matrix products in place of torch's flash kernel.

The kernel behind ``scaled_dot_product_attention`` takes seven times as long for a forward and a backward pass over
texts of 28 tokens in bf16, and three times over 128 (AMD EPYC with AVX-512; benchmarks/attention.md). In fp32 it is the
faster one, and on GPUs, so that there nothing is changed.
"""

from typing import Any

import torch
from torch import Tensor, nn

NAME = "beft_batched_products"
"""The name of this attention among those of transformers."""

_MAX_LENGTH = 512
"""The most tokens of a text: the probabilities are kept for the backward pass, which the kernel does not need."""

_SHORT = 64
"""Below so many tokens a softmax is faster that gives fp32, which is then rounded."""


def use_batched_products(model: Any) -> None:
    """Let a model of bf16 weights on the CPU compute its attention so, where it can be chosen.

    Models whose attention is their own code (DeBERTa) compute as before.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    weight = next(model.parameters())
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        return
    if model.config._attn_implementation != "sdpa" or not model._supports_attention_backend:
        return
    AttentionInterface.register(NAME, batched_products)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def batched_products(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: two batched products, and a softmax in fp32 between them.

    Args:
        query: [rows, heads, tokens, width of a head].
        key: [rows, heads of keys, tokens, width of a head]; fewer heads are shared by groups of the query's.
        value: Like key.
        attention_mask: What each token sees, [rows, 1, tokens, tokens]: true, or a number that is added. None: all,
            or what is before it where ``is_causal``.
        others: Where there are some that are not known here, torch's own kernel computes.

    Returns:
        [rows, tokens, heads, width of a head], and no probabilities.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    queries, keys = query.shape[2], key.shape[2]
    special = any(others.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))
    if special or query.dtype != torch.bfloat16 or queries != keys or queries > _MAX_LENGTH:
        known = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
        computed: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **known, **others
        )
        return computed
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    seen = _added(attention_mask, scores, causal=causal)
    if seen is not None:
        scores = scores + seen
    # Computed in fp32 either way; torch's softmax of few numbers in bf16 is slow.
    wide = torch.float32 if keys < _SHORT else None
    probabilities = torch.softmax(scores, -1, dtype=wide).to(value.dtype)
    probabilities = nn.functional.dropout(probabilities, dropout, training=dropout > 0)
    return (probabilities @ value).transpose(1, 2).contiguous(), None


def _added(mask: Tensor | None, scores: Tensor, *, causal: bool) -> Tensor | None:
    """What is added to the scores so that each token sees what it may; None where it sees all."""
    if mask is None:
        if not causal:
            return None
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
