"""Attention in bf16 on a CPU: batched matrix products in place of torch's flash kernel.

The kernel behind ``scaled_dot_product_attention`` takes six times as long for a forward and a backward pass over texts
of 32 tokens in bf16, and twice as long over 128 (AMD EPYC with AVX-512; benchmarks/speed/attention.md). Without a
backward pass it is the faster one for longer texts. In fp32 and on GPUs nothing is changed.
"""

from typing import Any

import torch
from torch import Tensor, nn

NAME = "beft_batched_products"
"""The name of this attention among those of transformers."""

_MAX_LENGTH = 256
"""The most tokens of a text: the probabilities are kept for the backward pass, which the kernel does not need."""

_MAX_PREDICTED_LENGTH = 128
"""The most tokens of a text without a backward pass, where the kernel is the faster one for longer texts."""

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
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attention(
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
    """Attention as transformers calls it: by products where they are faster, else by torch's kernel.

    Args:
        query: [rows, heads, tokens, width of a head].
        key: [rows, heads of keys, tokens, width of a head]; fewer heads are shared by groups of the query's.
        value: Like key.
        attention_mask: What each token sees, [rows, 1, tokens, tokens]: true, or a number that is added. None: all,
            or what is before it where ``is_causal``.
        others: Where there are some that are not known here, torch's kernel computes.

    Returns:
        [rows, tokens, heads, width of a head], and no probabilities.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    queries, keys = query.shape[2], key.shape[2]
    differentiated = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    special = any(others.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))
    longest = _MAX_LENGTH if differentiated else _MAX_PREDICTED_LENGTH
    if special or query.dtype != torch.bfloat16 or queries != keys or queries > longest:
        known = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
        computed: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **known, **others
        )
        return computed
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    found = batched_products(query, key, value, attention_mask, scaling=scaling, dropout=dropout, causal=causal)
    return found.transpose(1, 2).contiguous(), None


def batched_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """Attention as two batched products with a softmax between them, which is computed in fp32.

    Args:
        query: [rows, heads, tokens, width of a head], like key and value.
        mask: As ``attention`` takes it; ``causal`` counts where it is None.

    Returns:
        [rows, heads, tokens, width of a head].
    """
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    seen = _added(mask, scores, causal=causal)
    if seen is not None:
        scores = scores + seen
    wide = torch.float32 if key.shape[2] < _SHORT else None  # torch's softmax of few numbers in bf16 is slow
    probabilities = torch.softmax(scores, -1, dtype=wide).to(value.dtype)
    return nn.functional.dropout(probabilities, dropout, training=dropout > 0) @ value


def _added(mask: Tensor | None, scores: Tensor, *, causal: bool) -> Tensor | None:
    """What is added to the scores so that each token sees what it may; None where it sees all."""
    if mask is None:
        if not causal:
            return None
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
