"""The study in few lines: what each method gives for so many rows a label, over all data sets; the README shows it."""

from collections.abc import Mapping
from statistics import mean

from benchmarks.few_labels.comparisons import DEFAULT, Draws, mean_gains, share, values

BASELINE = "logistic_regression"

METHODS = {
    DEFAULT: "beft",
    "auto": "beft, `train.method: auto`",
    "setfit": "SetFit",
    "lora": "LoRA",
    "full_fine_tuning": "full fine-tuning",
}
"""Those that are compared with logistic regression, and how a reader knows them."""


def summary(cells: Mapping[str, Draws]) -> list[str]:
    """A table in Markdown, one line a number of rows; nothing without logistic regression.

    A method is shown where every data set with so many rows has a draw of it: else its mean would be one over others.

    Args:
        cells: By data set and rows a label, such as ``sst2/8``, with ``default`` (``comparisons.with_default``).
    """
    by_rows: dict[int, dict[str, Draws]] = {}
    for name, draws in cells.items():
        if values(draws, BASELINE):
            by_rows.setdefault(int(name.rpartition("/")[2]), {})[name] = draws
    if not by_rows:
        return []
    shown = [method for method in METHODS if any(values(draws, method) for draws in cells.values())]
    titles = ["rows a label", "data sets", "logistic regression", *(METHODS[method] for method in shown)]
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---|" * (len(titles) - 1)]
    for rows, found in sorted(by_rows.items()):
        accuracy = mean(mean(values(draws, BASELINE)) for draws in found.values())
        gained = [mean_gains(found, method, BASELINE) for method in shown]
        points = [f"{100 * mean(one.values()):+.1f}" if len(one) == len(found) else "-" for one in gained]
        lines.append(f"| {rows} | {len(found)} | {100 * accuracy:.1f} | {' | '.join(points)} |")
    for title, figure, digits in (("seconds", "seconds", ".2g"), ("numbers trained", "trained", ",.0f")):
        times = [_times(cells, method, figure, digits) for method in shown]
        lines.append(f"| {title}, times beft's | | {_times(cells, BASELINE, figure, '.2g')} | {' | '.join(times)} |")
    return lines


def _times(cells: Mapping[str, Draws], method: str, figure: str, digits: str) -> str:
    """A figure of a method, over all draws that have both, divided by that of the default."""
    found = share(cells, method, DEFAULT, figure)
    return "-" if found is None else f"{found:{digits}}"
