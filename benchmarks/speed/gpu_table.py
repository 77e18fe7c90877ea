"""What was measured on a GPU, as a table, beside what was asked."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beft.files import write_text
from benchmarks.speed.compiled_steps import AS_IT_IS

RUNS = 12
ASKED_MODEL = "BERT-base"
ASKED_PUBLISHED = 6.0
ASKED_TOGETHER = 5.0
ASKED_BYTES = 24e9

log = logging.getLogger("beft.gpu")


def write_table(result: Mapping[str, Any], out: Path | None) -> None:
    """Show the table, and write gpu.md into a folder."""
    described, scale = result["machine"], result["scale"]
    lines = [
        "# The engine on a GPU",
        "",
        f"`{result['command']}`, {described['date']}; {described.get('gpu', 'no GPU')}, {described['cpu']}, engine in "
        f"{described['precision']}; torch {described['torch']}. Random weights; value biases and head, dropout on, "
        f"batch 16, one epoch of {scale['rows']} rows of about 27 tokens. The published protocol: fp32 (TF32 off), "
        f"padded to 128 tokens, one run, {scale['published_rows']} rows; for OPT without its head. Ratio of medians, "
        "and the smallest and largest ratio of a pair.",
        "",
        "| model | parameters, millions | published, examples/s | beft, 1 run, examples/s | ratio "
        f"| {RUNS} runs in one pass, examples/s | over one after the other | its memory, GB |",
        "|---|---|---|---|---|---|---|---|",
        *(_model(name, found) for name, found in result["models"].items()),
        "",
        *_asked(result["models"]),
        "",
        _little_memory(result["little_memory"]),
        "",
        f"## {ASKED_MODEL}, one run without dropout, all batches of one shape",
        "",
        "| step | seconds | against as it is | first step, seconds |",
        "|---|---|---|---|",
        *_compiling(result["compiling"]),
    ]
    if out is not None:
        write_text(out / "gpu.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


def _model(name: str, found: Mapping[str, Any]) -> str:
    published, together = found["published"], found["together"]
    remarks = {"recompute": "layers computed again", "split": f"{RUNS} runs do not fit into one pass"}
    name = ", ".join([name, *(remark for key, remark in remarks.items() if found[key])])
    cells = [name, f"{found['parameters'] / 1e6:,.0f}"]
    cells += [*_rates(published)[::-1], _ratio(published)] if published else ["does not fit", "", ""]
    cells += [_rates(together)[0], _ratio(together)] if together else ["does not fit", ""]
    return f"| {' | '.join([*cells, _gigabytes(found['peak_bytes'], 'allocated')])} |"


def _rates(comparison: Mapping[str, Any]) -> list[str]:
    """Examples a second of beft and of the other."""
    return [f"{comparison['examples'] / comparison[side]:.0f}" for side in ("ours", "theirs")]


def _ratio(comparison: Mapping[str, Any]) -> str:
    return f"**{comparison['ratio']:.2f}** [{comparison['low']:.2f}, {comparison['high']:.2f}]"


def _asked(models: Mapping[str, Any]) -> list[str]:
    if ASKED_MODEL not in models:
        return []
    lines = []
    for name, what, asked in (
        ("published", "over the published protocol with one run", ASKED_PUBLISHED),
        ("together", f"more with {RUNS} runs together", ASKED_TOGETHER),
    ):
        found = models[ASKED_MODEL][name]
        reached = found is not None and found["ratio"] >= asked
        lines.append(f"- Asked on {ASKED_MODEL}: {asked:g}x {what}: {_verdict(reached)}.")
    return lines


def _little_memory(found: Mapping[str, Any]) -> str:
    peak = found["peak_bytes"]
    line = (
        f"OPT-6.7B, value biases, {found['rows']:,} x {found['tokens']} tokens in bf16, layers computed again, "
        f"{found['micro_batch_size']} rows at once: {found['seconds']:.0f} s; memory "
    )
    if not peak:
        return f"{line}not counted."
    return (
        f"{line}{_gigabytes(peak, 'allocated')} GB allocated, {_gigabytes(peak, 'reserved')} GB reserved. Asked: at "
        f"most {ASKED_BYTES / 1e9:.0f} GB: {_verdict(peak['reserved'] <= ASKED_BYTES)}."
    )


def _compiling(found: Mapping[str, Any]) -> list[str]:
    base = found[AS_IT_IS]["step"]
    lines = []
    for name, one in found.items():
        if one["failed"]:
            lines.append(f"| {name} | {one['failed'].replace('|', '/')} | | |")
        else:
            ratio = f"{base / one['step']:.2f}" if base else ""
            lines.append(f"| {name} | {one['step']:.4f} | {ratio} | {one['first']:.1f} |")
    return lines


def _gigabytes(peak: Mapping[str, int], kind: str) -> str:
    return f"{peak[kind] / 1e9:.1f}" if peak else "not counted"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**not reached**"
