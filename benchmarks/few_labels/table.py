"""The results as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.common.intervals import Interval
from benchmarks.few_labels.methods import METHODS

BASELINE = "logistic_regression"


def table(results: Mapping[str, Any]) -> str:
    """Accuracy of each cell by method, then the differences to logistic regression on the same draws."""
    about = results["about"]
    found = {cell: of_cell["draws"] for cell, of_cell in results["cells"].items()}
    methods = [name for name in METHODS if any(name in draw for draws in found.values() for draw in draws.values())]
    lines = [
        "# Few labels",
        "",
        f"`make few-labels`, {about['date']}; {about['cpu']}, {about['threads']} threads, {about['precision']}; torch "
        f"{about['torch']}. Base all-MiniLM-L6-v2. Each draw has equally many rows of each label; all methods have the "
        "same draws and test rows. Accuracy on test in percent: mean over the draws [95 % t interval].",
        "",
        "| data set, rows a label | draws | " + " | ".join(name.replace("_", " ") for name in methods) + " |",
        "|---|---|" + "---|" * len(methods),
    ]
    for cell, draws in found.items():
        cells = [_interval([draw[name]["accuracy"] for draw in draws.values() if name in draw]) for name in methods]
        lines.append(f"| {cell.replace('/', ', ')} | {len(draws)} | " + " | ".join(cells) + " |")
    others = [name for name in methods if name != BASELINE]
    if BASELINE not in methods or not others:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "Points above logistic regression, draw by draw, and seconds of a draw:",
        "",
        "| data set, rows a label | " + " | ".join(name.replace("_", " ") for name in others) + " |",
        "|---|" + "---|" * len(others),
    ]
    overall: dict[str, list[float]] = {name: [] for name in others}
    for cell, draws in found.items():
        cells = []
        for name in others:
            paired = [draw for draw in draws.values() if name in draw and BASELINE in draw]
            gains = [draw[name]["accuracy"] - draw[BASELINE]["accuracy"] for draw in paired]
            overall[name].append(mean(gains) if gains else 0.0)
            seconds = mean(draw[name]["seconds"] for draw in paired) if paired else 0.0
            cells.append(f"{_interval(gains, '+')}, {seconds:.0f} s")
        lines.append(f"| {cell.replace('/', ', ')} | " + " | ".join(cells) + " |")
    lines.append("| mean over all | " + " | ".join(f"{100 * mean(gains):+.1f}" for gains in overall.values()) + " |")
    return "\n".join(lines) + "\n"


def _interval(values: Sequence[float], sign: str = "") -> str:
    if len(values) < 2:
        return f"{100 * values[0]:{sign}.1f}" if values else "-"
    return Interval.of(values).percent(sign)
