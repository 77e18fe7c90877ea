"""The tables of benchmarks/quality/learning_rates.md."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from beft.training.rate_share import FURTHEST
from benchmarks.common.intervals import CONFIDENCE, Interval

_USUAL = "0.01"


def table(results: Mapping[str, Any]) -> str:
    """All of it, as Markdown."""
    about = results["about"]
    draws = sorted(results["draws"].values(), key=lambda one: (one["case"], one["dataset"], one["base"], one["draw"]))
    return "\n".join(
        [
            "# The default learning rate on other bases",
            "",
            f"`make learning-rates`, {about['date']}; {about['cpu']}, {about['threads']} threads, "
            f"{about['precision']}; torch {about['torch']}.",
            "",
            "Accuracy in percent on the test rows, value biases and head, mean over the draws. **Bold**: the default "
            "rate, the largest of 0.01, 0.003, 0.001 and 0.0003 at which one step of all value biases moves the "
            f"features of 24 fixed sentences by at most {FURTHEST:g} of their distance from the mean "
            "(`beft/training/rate_share.py`). *Step*: how far one of 0.01 moves them.",
            "",
            *_accuracies(draws),
            "",
            "The default rate against 0.01 and against logistic regression: means over all trainings of a base, paired "
            f"by draw, with {100 * CONFIDENCE:g} % t intervals that take the trainings as independent, those of one "
            "cell (data set and rows a label) as well. The regret of a cell: how much the best of the four rates, by "
            "its mean over the draws, is above the default rate. A failed training counts as 0.",
            "",
            *_gains(draws),
            "",
        ]
    )


def _accuracies(draws: Sequence[Mapping[str, Any]]) -> list[str]:
    rates = list(draws[0]["accuracy"])
    rows = []
    for (case, dataset, base), group in groupby(draws, lambda one: (one["case"], one["dataset"], one["base"])):
        found = list(group)
        steps = [one["step"] for one in found]
        chosen = {f"{one['rate']:g}" for one in found}
        cells = [_mean([one["accuracy"][rate] for one in found]) for rate in rates]
        marked = [f"**{cell}**" if rate in chosen else cell for rate, cell in zip(rates, cells, strict=True)]
        plain = _mean([one["logistic_regression"] for one in found])
        rows.append([base, case, dataset, len(found), f"{max(steps):.3f}", plain, *marked])
    columns = ["base", "", "data set", "draws", "step", "logistic regression", *(f"rate {rate}" for rate in rates)]
    return _markdown(columns, rows)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * statistics.mean(known):.1f}" if len(known) == len(values) else "failed"


def _gains(draws: Sequence[Mapping[str, Any]]) -> list[str]:
    """The default rate against 0.01, and against the best rate of a cell in hindsight."""
    rows = []
    for base in dict.fromkeys(one["base"] for one in draws):
        found = [one for one in draws if one["base"] == base]
        gains = [_of(one) - (one["accuracy"][_USUAL] or 0.0) for one in found]
        over = [_of(one) - one["logistic_regression"] for one in found]
        regrets = []
        for _, group in groupby(found, lambda one: (one["case"], one["dataset"])):
            cell = list(group)
            means = [statistics.mean(one["accuracy"][rate] or 0.0 for one in cell) for rate in cell[0]["accuracy"]]
            regrets.append(max(means) - statistics.mean(_of(one) for one in cell))
        rows.append([base, len(found), *(_interval(one) for one in (gains, over)), f"{100 * max(regrets):.1f}"])
    columns = ["base", "trainings", "against 0.01", "against logistic regression", "largest regret of a cell"]
    return _markdown(columns, rows)


def _of(one: Mapping[str, Any]) -> float:
    """The accuracy at the default rate."""
    return float(one["accuracy"][f"{one['rate']:g}"] or 0.0)


def _interval(values: Sequence[float]) -> str:
    return Interval.of(values).percent("+") if len(values) > 1 else f"{100 * values[0]:+.1f}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows)]
