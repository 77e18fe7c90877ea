"""What a prepared dataset holds, as text for a terminal."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from beft.cli.output import print_table

_LONGEST_NAME = 40
_SHOWN = 5


def show_facts(facts: Mapping[str, Any]) -> None:
    """Print the content of ``data.json``: where the rows come from, the splits, and what was left out."""
    typer.echo(f"{facts['dataset']}: {facts['raw_rows']:,} rows, {facts['title']}\nFrom {facts['source']['origin']}")
    for file in facts["source"]["files"]:
        if "note" in file:
            typer.echo(f"Note: {file['name']} is {file['note']}.")
    if "headline" in facts:
        typer.echo(f"Headline: {facts['headline']}.")
    typer.echo()
    _show_splits(facts)
    dropped = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in facts["dropped"].items())
    typer.echo(f"\nLeft out: {dropped}. Texts with two labels: {facts['conflicts']['texts']:,}.")
    for sentence in (*rare_labels(facts), *spans_within_words(facts)):
        typer.echo(f"{sentence[0].upper()}{sentence[1:]}.")
    for name, lines in facts.get("ragged", {}).items():
        for what, kind in (("lines with too few fields, left out", "short"), ("lines that were cut", "cut")):
            if lines[kind]:
                first = ", ".join(f"{line:,}" for line in lines[f"{kind}_lines"])
                more = ", …" if lines[kind] > len(lines[f"{kind}_lines"]) else ""
                typer.echo(f"{name}: {what}: {lines[kind]:,} (line {first}{more})")


def rare_labels(facts: Mapping[str, Any]) -> list[str]:
    """A sentence for each split that lacks labels: which, the rarest first, and how many rows they have in all."""
    balance: Mapping[str, Mapping[str, int]] = facts["balance"]
    in_all = {name: sum(of_split[name] for of_split in balance.values()) for name in facts["labels"]}
    found = []
    for split, of_split in balance.items():
        absent = sorted((name for name in in_all if not of_split[name]), key=lambda name: in_all[name])
        if not absent or not facts["rows"][split]:
            continue
        shown = ", ".join(f"{_short(name)!r} ({in_all[name]:,} in all)" for name in absent[:_SHOWN])
        others = f" and {len(absent) - _SHOWN:,} others" if len(absent) > _SHOWN else ""
        found.append(f"too rare for {split}, which has no row of them: {shown}{others}")
    return found


def spans_within_words(facts: Mapping[str, Any]) -> list[str]:
    """A sentence about spans that begin or end within a word, which no tags of words can say; none without any."""
    count = facts.get("within_words", 0)
    if not count:
        return []
    shown = ", ".join(repr(text) for text in facts["within_words_examples"])
    advice = " ('words: punctuation' divides words at punctuation marks)" if facts["words"] == "spaces" else ""
    spans = "span begins or ends" if count == 1 else "spans begin or end"
    return [f"{count:,} {spans} within a word, and can never be found exactly: {shown}{advice}"]


def _show_splits(facts: Mapping[str, Any]) -> None:
    """A line a split; a line a label, where that fits the terminal and the other does not."""
    splits = list(facts["rows"])
    columns = [["rows", *(f"{facts['rows'][split]:,}" for split in splits)]]
    columns += [[name, *(f"{facts['balance'][split][name]:,}" for split in splits)] for name in facts["labels"]]
    if "groups" in facts:
        columns.append(["groups", *(f"{facts['groups'].get(split, 0):,}" for split in splits)])
    for label in facts["labels"] if "entities" in facts else ():
        counts = (f"{facts['entities'].get(split, {}).get(label, 0):,}" for split in splits)
        columns.append([f"spans {label}", *counts])
    for name in ("values", "labels_a_row", "choices", "answers"):
        if name in facts:
            columns.append([name.replace("_", " "), *(_range(facts[name].get(split)) for split in splits)])
    by_split = [["split", *splits], *columns]
    if _width(by_split) <= shutil.get_terminal_size().columns:
        headers, *rows = zip(*by_split, strict=True)
        print_table(headers, rows)
    else:
        print_table(["", *splits], [[_short(name), *values] for name, *values in columns])


def _range(found: Mapping[str, float] | None) -> str:
    """The least, greatest and mean of some numbers; nothing of a split without rows."""
    return "{least:g} to {most:g}, mean {mean:g}".format(**found) if found else ""


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
