"""The trap of the key bias: it can do nothing, yet after a probe in half precision it looks like the busiest term.

Its gradient is zero but for rounding, which Adam scales up to full steps, and a pre-trained key bias is near zero, so
the noise turns it round. Selection must not fall for it, in any precision.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from beft.bank.bank import Bank
from beft.bank.inertness import inert_terms, measure_inertness
from beft.importance.registry import score
from beft.importance.selection import choose_target
from beft.sites.site import find_sites, read_bias

torch.set_num_threads(1)

CANDIDATES = ("query", "key", "value")


@pytest.mark.parametrize(
    ("dtype", "epsilon", "expected_key"),
    [(torch.bfloat16, 1e-8, 0.9), (torch.float32, 1e-8, 0.2), (torch.float64, 1e-6, 0.0)],
)
def test_value_is_chosen_though_the_key_bias_leads(
    tiny: Callable[..., Any], dtype: torch.dtype, epsilon: float, expected_key: float
) -> None:
    model = tiny("bert", dtype=dtype).requires_grad_(False)
    for layer in model.bert.encoder.layer:
        layer.attention.self.key.bias.mul_(0.01)  # as small as pre-training leaves it
    sites = find_sites(model, CANDIDATES)
    wide = torch.promote_types(dtype, torch.float32)
    deltas = {site: torch.zeros(site.width, dtype=wide, requires_grad=True) for site in sites}
    ids = torch.randint(3, 128, (32, 8), generator=torch.Generator().manual_seed(0))
    labels = ids[:, 1] % 3
    optimizer = torch.optim.AdamW(deltas.values(), lr=2e-3, eps=epsilon, weight_decay=0.0)
    with Bank(model, deltas):
        for step in range(60):
            rows = slice(8 * (step % 4), 8 * (step % 4) + 8)
            logits = model(input_ids=ids[rows], attention_mask=torch.ones_like(ids[rows])).logits
            optimizer.zero_grad()
            functional.cross_entropy(logits.to(wide), labels[rows]).backward()
            optimizer.step()
    before = {site: read_bias(model, site) for site in sites}
    after = {site: before[site] + deltas[site].detach() for site in sites}
    tables = [score(name, before=before, after=after) for name in ("projection_ratio", "magnitude")]
    ratios = tables[0].mean
    assert ratios["key"] is not None and ratios["value"] is not None
    if expected_key:
        assert ratios["key"] > max(expected_key, ratios["value"]), "the trap is there"
        assert tables[0].ranking()[0] == "key"
    else:
        assert ratios["key"] < 1e-6

    inert = inert_terms(
        measure_inertness(model, sites, batch={"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    )
    chosen = choose_target(tables, CANDIDATES, inert)

    assert inert == {"query": False, "key": True, "value": False}
    assert chosen.term == "value"
    assert chosen.inert == ("key",)
    assert choose_target(tables, CANDIDATES, {}).term == ("key" if expected_key else "value"), "the paper's protocol"
