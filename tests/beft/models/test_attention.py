"""Attention in bf16 by batched products: the numbers of the definition, and of torch's own kernel."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from beft.models.attention import NAME, attention, use_batched_products
from tests.conftest import FAMILIES
from tests.support.rows import random_rows, tiny_classifier


def defined(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """Attention in fp64, by its definition."""
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    return (torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ value).transpose(1, 2)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from((1, 2, 5, 17, 63, 64, 90, 257)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_values_and_gradients_are_those_of_the_definition(
    rows: int, groups: int, tokens: int, causal: bool, padded: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    heads, width = 2 * groups, 8
    shapes = [(rows, tokens, count, width) for count in (heads, 2, 2)]
    leaves = [torch.randn(shape, generator=draw).bfloat16().requires_grad_() for shape in shapes]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    seen = torch.ones(tokens, tokens, dtype=torch.bool)
    seen = (seen.tril() if causal else seen).expand(rows, 1, tokens, tokens).clone()
    if padded:
        seen[0, :, :, tokens // 2 + 1 :] = False
    module = nn.Module()
    module.num_key_value_groups = groups
    query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
    found, _ = attention(module, query, key, value, seen if padded else None, is_causal=causal)
    query, key, value = (leaf.transpose(1, 2) for leaf in wide)
    key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    expected = defined(query, key, value, seen)
    torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0.03)
    weights = torch.randn(found.shape, generator=draw)
    gradients = torch.autograd.grad((found.float() * weights).sum(), leaves)
    right = torch.autograd.grad((expected * weights.double()).sum(), wide)
    for gradient, of_wide in zip(gradients, right, strict=True):
        torch.testing.assert_close(gradient.double(), of_wide, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_as_near_to_fp32_as_with_torchs_kernel(family: str) -> None:
    kernel = tiny_classifier(family, dtype=torch.bfloat16)
    batch = random_rows(6, longest=20, ended=True).encoded.batch(range(6), torch.device("cpu"))
    ours, exact = (kernel.with_model(copy.deepcopy(kernel.model)) for _ in range(2))
    exact.model.float()
    use_batched_products(ours.model)
    for classifier in (ours, kernel, exact):
        classifier.model.eval()
    with torch.no_grad():
        right = exact(batch)
        assert (ours(batch) - right).abs().max() <= 2 * (kernel(batch) - right).abs().max() + 2e-3


def test_it_is_chosen_for_bf16_alone() -> None:
    for dtype, chosen in ((torch.bfloat16, NAME), (torch.float32, "sdpa")):
        model = tiny_classifier(dtype=dtype).model
        use_batched_products(model)
        assert model.config._attn_implementation == chosen
        assert "attn_implementation" not in str(model.config.to_dict())


def test_a_converted_copy_computes_with_torchs_kernel() -> None:
    model = tiny_classifier(dtype=torch.bfloat16).model
    use_batched_products(model)
    wide = copy.deepcopy(model).double().eval()
    expected = tiny_classifier(dtype=torch.float64)
    expected.model.load_state_dict(wide.state_dict())
    expected.model.eval()
    batch = random_rows(6).encoded.batch(range(6), torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(expected.with_model(wide)(batch), expected(batch))
