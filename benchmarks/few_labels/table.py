"""The results as Markdown."""

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from beft.training_settings import FEW_ROWS_A_LABEL
from benchmarks.common.intervals import Interval
from benchmarks.few_labels.cells import CELLS
from benchmarks.few_labels.comparisons import (
    DEFAULT,
    Draws,
    gains,
    mean_gains,
    regret,
    share,
    shared_draws,
    values,
    with_default,
)
from benchmarks.few_labels.methods import METHODS
from benchmarks.few_labels.peers import MAX_PAIRS, PEERS, SEARCH_DRAW
from benchmarks.few_labels.summary import BASELINE, summary

OF_ALL = "cross_entropy_of_all"
_OF_ALL_NAME = "default with 500 rows a label and `train.learn_from_dev: true`"
COMPARED = (DEFAULT, "auto")
"""beft's methods that are compared with each peer."""


def table(results: Mapping[str, Any]) -> str:
    """Accuracy, differences to logistic regression and each peer, seconds, numbers trained, searched settings."""
    order = [cell.name for cell in CELLS]
    stored = dict(sorted(results["cells"].items(), key=lambda item: order.index(item[0])))
    cells = with_default({name: cell["draws"] for name, cell in stored.items()})
    known = (*METHODS, DEFAULT, *PEERS)
    methods = [name for name in known if any(values(draws, name) for draws in cells.values())]
    peers = [name for name in methods if name in PEERS]
    lines = [*_introduction(results["about"], peers), *_by_rows(cells), *_required(cells, methods)]
    lines += _accuracies(stored, [name for name in methods if name != DEFAULT])
    others = [name for name in methods if name != BASELINE]
    if BASELINE in methods and others:
        lines += ["", "## Points above logistic regression", "", "Paired by draw.", ""]
        lines += _gains(cells, {name: (name, BASELINE) for name in others})
    for method in COMPARED:
        if method in methods and peers:
            lines += ["", f"## Points of {_title(method)} above each peer", "", "Paired by draw.", ""]
            lines += _gains(cells, {peer: (method, peer) for peer in peers})
    lines += _regrets(cells, [name for name in methods if name in METHODS])
    lines += _costs(cells, [name for name in methods if name != DEFAULT])
    lines += [*_shares(cells, methods), *_searched(stored)]
    return "\n".join(lines) + "\n"


def _introduction(about: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    lines = [
        "# Few labels",
        "",
        f"`make few-labels`, {about['date']}; {about['cpu']}, {about['precision']}; torch {about['torch']}. Base "
        "all-MiniLM-L6-v2. Each draw has equally many rows of each label; all methods have the same draws and test "
        "rows (of Banking77 1,000, chosen at random once). Intervals are 95 % t intervals over the draws.",
    ]
    return [*lines, *_PEERS] if peers else lines


_PEERS = (
    "",
    "The peers run as their users run them, by their own libraries: SetFit with its defaults and with searched "
    "settings, PEFT's LoRA (rank 8, on query and value) and full fine-tuning under transformers' Trainer, both with a "
    "head on the mean of the tokens, as beft has it, and for as many epochs as beft trains by default. Their weights "
    "are fp32; where beft computes in bf16, their matrix products are bf16 as well "
    '(`torch.set_float32_matmul_precision("medium")`).',
    "",
    "SetFit pairs each text with each other: 122,880 pairs for 64 rows of each of TREC's labels. From 64 rows a label, "
    f"and wherever its defaults would make more than {MAX_PAIRS:,} pairs, `num_iterations` is 20, as in its paper, or "
    f"what gives {MAX_PAIRS:,} pairs, if that is less.",
    "",
    f"Searched settings are found once a cell, on draw {SEARCH_DRAW}, by the accuracy on 1,000 labelled rows of train "
    "that this draw lacks: at least as many labels as any of beft's methods has to choose by. SetFit's were searched "
    "where an epoch has at most 10,000 pairs, and measured on three draws: with more, a cell's six trainings take a "
    "processor core one to two hours.",
    "",
    "Most seconds were taken beside other work; those of draws that were trained beside much of it are left out. Where "
    "two processors are named, which of them trained a draw was not kept.",
)


def _by_rows(cells: Mapping[str, Draws]) -> list[str]:
    found = summary(cells)
    if not found:
        return []
    return [
        "",
        "## By rows a label",
        "",
        "Accuracy on test of logistic regression, in percent, and the points of the others above it, paired by draw; "
        "means over the data sets. Seconds and numbers are sums over all draws that have both, divided by beft's sum.",
        "",
        *found,
    ]


def _required(cells: Mapping[str, Draws], methods: Sequence[str]) -> list[str]:
    """What the study is to show, and what it shows, on the draws that were measured."""
    regrets = [one for draws in cells.values() if (one := regret(draws, "auto", list(METHODS))) is not None]
    above = mean_gains(cells, DEFAULT, BASELINE)
    largest = {name: draws for name, draws in cells.items() if name.endswith("/500")}
    lines = []
    if above:
        lines += [
            f"| default above logistic regression, mean of the cells | +2 | {100 * mean(above.values()):+.1f} |",
            f"| the same, lowest cell | -0.5 | {100 * min(above.values()):+.1f} |",
        ]
    fewest = {name: draws for name, draws in cells.items() if name.endswith(("/8", "/16"))}
    over_first = mean_gains(fewest, DEFAULT, "cross_entropy")
    if over_first:
        figure = f"{100 * mean(over_first.values()):+.1f} (lowest cell {100 * min(over_first.values()):+.1f})"
        lines.append(f"| default above cross-entropy, as the first version trained, at 8 and 16 rows | +3 | {figure} |")
    of_all = mean_gains(largest, OF_ALL, BASELINE)
    if of_all:
        lines.append(
            f"| {_OF_ALL_NAME}, above logistic regression, lowest cell | -0.5 | {100 * min(of_all.values()):+.1f} |"
        )
    for peer, title, of_cells in (
        ("setfit", "SetFit as it comes", cells),
        ("setfit_tuned", "SetFit, tuned", cells),
        ("lora", "LoRA at 500 rows a label", largest),
        ("full_fine_tuning", "full fine-tuning at 500 rows a label", largest),
    ):
        for method, name in ((DEFAULT, "default"), (OF_ALL, _OF_ALL_NAME)):
            points = mean_gains(of_cells if method == DEFAULT else largest, method, peer)
            if points:
                figure = f"{100 * mean(points.values()):+.1f} (in {len(points)} of {len(of_cells)} cells)"
                lines.append(f"| {name} above {title}, mean of the cells | -1 | {figure} |")
    seconds, numbers = (share(cells, DEFAULT, "setfit", name) for name in ("seconds", "trained"))
    if seconds is not None and numbers:
        lines += [
            f"| seconds of the default, as a share of SetFit's | 0.5 at most | {seconds:.2f} |",
            f"| numbers trained, as a share of SetFit's | 1/500 at most | 1/{1 / numbers:,.0f} |",
        ]
    if regrets:
        figure = f"{100 * mean(regrets):.1f} (in {len(regrets)} of {len(cells)} cells)"
        lines.append(f"| regret of auto, mean of the cells | 1 at most | {figure} |")
    if not lines:
        return []
    return [
        "",
        "## Required and found",
        "",
        f"The default is the contrastive loss below {FEW_ROWS_A_LABEL} rows a label, else cross-entropy, whose epoch a "
        'fifth of the rows chooses; "of all" trains on these as well (`train.learn_from_dev: true`), as the peers do. '
        "Points of accuracy on the draws that both sides have; the tables below say how many those are.",
        "",
        "| | required | found |",
        "|---|---|---|",
        *lines,
    ]


def _accuracies(stored: Mapping[str, Any], methods: Sequence[str]) -> list[str]:
    lines = ["", "## Accuracy on test, in percent", "", *_header(["test rows", "draws", *map(_title, methods)])]
    for name, cell in stored.items():
        draws = cell["draws"]
        of_methods = [_interval(values(draws, method)) + _count(draws, method) for method in methods]
        lines.append(_row(name, [f"{cell['test_rows']:,}", str(len(draws)), *of_methods]))
    return lines


def _gains(cells: Mapping[str, Draws], pairs: Mapping[str, tuple[str, str]]) -> list[str]:
    """One column a pair of methods: its gain in each cell, their mean and the lowest."""
    lines = _header(list(map(_title, pairs)))
    for name, draws in cells.items():
        lines.append(_row(name, [_interval(gains(draws, *pair), "+") for pair in pairs.values()]))
    means = [mean_gains(cells, *pair) for pair in pairs.values()]
    for title, figure in (("mean of the cells", mean), ("lowest cell", min)):
        lines.append(_row(title, [f"{100 * figure(one.values()):+.1f}" if one else "-" for one in means]))
    return lines


def _regrets(cells: Mapping[str, Draws], own: Sequence[str]) -> list[str]:
    found = {name: regret(draws, "auto", own) for name, draws in cells.items()}
    known = {name: one for name, one in found.items() if one is not None}
    if not known or len(own) < 2:
        return []
    return [
        "",
        "## Regret of auto",
        "",
        "Points by which the best mean of a cell among beft's own methods is above that of `auto`, over the draws that "
        "all of them have. What `auto` compares first from 100 rows a label on was changed after draw 0 of the cells "
        "with 500 had been read (it had compared the contrastive loss alone with frozen features, and reached 77.8 and "
        "73.7 there); draws 1 and 2 were not.",
        "",
        *_header(["regret", "over draws", "chosen in all draws"]),
        *(
            _row(name, [f"{100 * one:.1f}", _numbers(shared_draws(cells[name], own)), _chosen(cells[name])])
            for name, one in known.items()
        ),
        _row("mean of the cells", [f"{100 * mean(known.values()):.1f}", "", ""]),
    ]


def _numbers(draws: Sequence[str]) -> str:
    """The numbers of draws: ``0 to 9`` where none between is missing, else each."""
    numbers = sorted(map(int, draws))
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _chosen(draws: Draws) -> str:
    chosen = [str(draw["auto"]["chosen"]) for draw in draws.values() if draw.get("auto", {}).get("chosen")]
    return "; ".join(f"{name} ({chosen.count(name)})" for name in dict.fromkeys(chosen))


def _costs(cells: Mapping[str, Draws], methods: Sequence[str]) -> list[str]:
    threads = sorted({one["threads"] for draws in cells.values() for draw in draws.values() for one in draw.values()})
    which = " and ".join(f"{count} thread{'s' * (count > 1)}" for count in threads)

    def seconds(draws: Draws, method: str) -> str:
        found = values(draws, method, "seconds")
        return f"{mean(found):.1f}" if found else "-"

    def numbers(draws: Draws, method: str) -> str:
        found = values(draws, method, "trained")
        return f"{round(mean(found)):,}" if found else "-"

    return [
        *_section(f"Seconds of training, mean of the draws, with {which}", cells, methods, seconds),
        *_section("Numbers trained, the head's among them, mean of the draws", cells, methods, numbers),
    ]


def _section(
    title: str, cells: Mapping[str, Draws], methods: Sequence[str], figure: Callable[[Draws, str], str]
) -> list[str]:
    rows = [_row(name, [figure(draws, method) for method in methods]) for name, draws in cells.items()]
    return ["", f"## {title}", "", *_header(list(map(_title, methods))), *rows]


def _shares(cells: Mapping[str, Draws], methods: Sequence[str]) -> list[str]:
    """Seconds and numbers of beft's methods as shares of each peer's, over all draws that have both."""
    pairs = [(method, peer) for method in COMPARED for peer in PEERS if {method, peer} <= set(methods)]
    if not pairs:
        return []
    lines = ["", "## Against each peer, all draws together", ""]
    lines += ["| | points, mean of the cells | seconds, times the peer's | numbers trained, the peer's divided by |"]
    lines += ["|---|---|---|---|"]
    for method, peer in pairs:
        points = mean_gains(cells, method, peer)
        seconds, numbers = (share(cells, method, peer, name) for name in ("seconds", "trained"))
        if points and seconds is not None and numbers:
            figures = [f"{100 * mean(points.values()):+.1f}", f"{seconds:.2f}", f"{1 / numbers:,.0f}"]
            lines.append(f"| {_title(method)} against {_title(peer)} | {' | '.join(figures)} |")
    return lines


def _searched(stored: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, cell in stored.items():
        for peer, found in cell["searched"].items():
            tried = ", ".join(f"{100 * one['accuracy']:.1f}" for one in found["tried"])
            settings = json.dumps(found["settings"])[1:-1].replace('"', "") or "its defaults"
            lines.append(f"| {name.replace('/', ', ')} | {_title(peer)} | {settings} | {tried or 'not searched'} |")
    if not lines:
        return []
    heading = [
        "",
        "## Settings of the peers",
        "",
        "| data set, rows a label | peer | settings | accuracy of each setting tried |",
    ]
    return [*heading, "|---|---|---|---|", *lines]


def _header(columns: Sequence[str]) -> list[str]:
    return [f"| data set, rows a label | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]


def _row(cell: str, columns: Sequence[str]) -> str:
    return f"| {cell.replace('/', ', ')} | {' | '.join(columns)} |"


def _title(method: str) -> str:
    names = {"setfit": "SetFit", "setfit_tuned": "SetFit, tuned", "lora": "LoRA"}
    return names.get(method, method.replace("_", " "))


def _count(draws: Draws, method: str) -> str:
    """How many draws a method has, where it lacks some."""
    found = len(values(draws, method))
    return f" ({found} draw{'s' * (found > 1)})" if 0 < found < len(draws) else ""


def _interval(found: Sequence[float], sign: str = "") -> str:
    if len(found) < 2:
        return f"{100 * found[0]:{sign}.1f}" if found else "-"
    return Interval.of(found).percent(sign)
