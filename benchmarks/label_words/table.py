"""The results as Markdown."""

from collections.abc import Mapping
from typing import Any

from benchmarks.common.intervals import Interval
from benchmarks.label_words.mask_base import BATCH, STEPS, TOKENS
from benchmarks.label_words.study import DRAWS, LABEL_WORDS, METHODS, ROWS, TRAINED


def table(results: Mapping[str, Any]) -> str:
    """How the base was made, accuracy of each method, and the gain of label words over each other one."""
    about, base = results["about"], results["base"]
    order = [f"{dataset}/{rows}" for dataset in LABEL_WORDS for rows in ROWS]
    cells = {cell: results["cells"][cell] for cell in order if cell in results["cells"]}
    words = "; ".join(f"{name}: {', '.join(by_label.values())}" for name, by_label in LABEL_WORDS.items())
    others = [name for name in METHODS if name != TRAINED]
    lines = [
        "# Label words",
        "",
        f"`make label-words`, {about['date']}; {about['cpu']}, {about['precision']}; torch {about['torch']}. Does a "
        "mask token with a word for each label (`head.pooling: mask`) help with few labels?",
        "",
        "No package that is known here carries a base with its masked-language-model head. So one is made first: "
        f"all-MiniLM-L6-v2 with a new head, both trained on {base['texts']:,} unlabelled film reviews of IMDB, "
        f"{STEPS:,} steps of {BATCH} parts of {TOKENS} tokens. Its loss for a masked word is {base['loss']:.2f} at the "
        "end, so it is a weak language model beside BERT, and knows films best. All methods have this base, the same "
        f"{DRAWS} draws and the same test rows; `contrastive` is the default with few labels. Words: {words}.",
        "",
        "## Accuracy on test, in percent",
        "",
        "With 95 % t intervals over the draws.",
        "",
        *_rows(METHODS, {cell: [_of(draws, name) for name in METHODS] for cell, draws in cells.items()}, ""),
        "",
        f"## Points of {TRAINED} above each other method",
        "",
        "Paired by draw.",
        "",
        *_rows(
            others,
            {
                cell: [
                    [one - other for one, other in zip(_of(draws, TRAINED), _of(draws, name), strict=True)]
                    for name in others
                ]
                for cell, draws in cells.items()
            },
            "+",
        ),
    ]
    return "\n".join(lines) + "\n"


def _of(draws: Mapping[str, Mapping[str, float]], method: str) -> list[float]:
    return [of_draw[method] for of_draw in draws.values()]


def _rows(columns: tuple[str, ...] | list[str], cells: Mapping[str, list[list[float]]], sign: str) -> list[str]:
    titles = [name.replace("_", " ") for name in columns]
    lines = [f"| data set, rows a label | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    for cell, values in cells.items():
        shown = [Interval.of(one).percent(sign) if len(one) > 1 else f"{100 * one[0]:{sign}.1f}" for one in values]
        lines.append(f"| {cell.replace('/', ', ')} | {' | '.join(shown)} |")
    return lines
