"""Attention by batched products against torch's kernel, forward and backward, by type and length: part of `make bench`.

Both take turns in one process on the same queries, keys and values of MiniLM's shape, some of them padded. Writes
benchmarks/speed/attention.json and .md.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from beft.files import write_json, write_text
from beft.models.attention import batched_products
from beft.models.device import resolve_compute, set_threads
from beft.settings import BaseSettings
from benchmarks.common import machine
from benchmarks.common.timing import Comparison, compare
from benchmarks.common.work import SOURCE

HERE = Path(__file__).parent
HEADS, WIDTH, TOKENS = 12, 32, 2048
LENGTHS = (16, 32, 64, 128, 256, 512)

log = logging.getLogger("beft.bench")

Attention = Callable[..., Tensor]


def work(attention: Attention, leaves: list[Tensor], mask: Tensor, *, backward: bool) -> None:
    """One layer's attention over the leaves, [rows, tokens, heads, width] each."""
    query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
    with torch.set_grad_enabled(backward):
        found = attention(query, key, value, mask).transpose(1, 2).contiguous()
        if backward:
            torch.autograd.grad(found.sum(), leaves)


def comparisons(dtype: torch.dtype, repetitions: int) -> list[Comparison]:
    """Both ways for every length, without and with the backward pass."""
    found = []
    for length in LENGTHS:
        rows = TOKENS // length
        draw = torch.Generator().manual_seed(0)
        shape = (rows, length, HEADS, WIDTH)
        leaves = [torch.randn(shape, generator=draw).to(dtype).requires_grad_() for _ in range(3)]
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool)
        mask[0, :, :, -length // 4 :] = False
        for backward in (False, True):
            found.append(
                compare(
                    f"{str(dtype).removeprefix('torch.')}, {length} tokens a row, "
                    + ("forward and backward" if backward else "forward"),
                    partial(work, batched_products, leaves, mask, backward=backward),
                    partial(work, nn.functional.scaled_dot_product_attention, leaves, mask, backward=backward),
                    asked="",
                    repetitions=repetitions,
                    examples=rows,
                )
            )
    return found


def main() -> None:
    """Measure, and write the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compute = resolve_compute(BaseSettings(source=SOURCE))
    set_threads(compute)
    repetitions = 9
    found = comparisons(torch.bfloat16, repetitions)
    about = machine.describe(compute)
    write_json(HERE / "attention.json", {"machine": about, "comparisons": [asdict(one) for one in found]})
    lines = [
        "# Attention: batched products against torch's kernel",
        "",
        f"`make bench`, {about['date']}; {about['cpu']}, {about['threads']} threads; torch {about['torch']}. {HEADS} "
        f"heads of {WIDTH} numbers, {TOKENS} tokens at once. Both in turns, {repetitions} repetitions after one that "
        "does not count; the ratio of the medians, above 1 where the products are faster, with the smallest and the "
        "largest of a pair. In bf16 beft computes up to 256 tokens a row by products, up to 128 where there is no "
        "backward pass, and all else with torch's kernel.",
        "",
        "| | ratio | products, ms | torch's kernel, ms |",
        "|---|---|---|---|",
        *(
            f"| {one.title} | **{one.ratio:.2f}** [{one.low:.2f}, {one.high:.2f}] | {1e3 * one.ours:.2f} "
            f"| {1e3 * one.theirs:.2f} |"
            for one in found
        ),
    ]
    write_text(HERE / "attention.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
