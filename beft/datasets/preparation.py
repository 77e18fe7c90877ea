"""From the raw source to prepared data: one schema, checked values, splits that never change."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from beft.datasets.description import DatasetError, Description, canonical
from beft.datasets.headline import usual_headline
from beft.datasets.normalisation import is_blank, text_key
from beft.datasets.prepared import SPLITS, SUMMARY, Rows, save_split
from beft.datasets.reading.raw_data import RawData, RawFile, read_raw
from beft.datasets.splitting.division import Divisible, divide, numbers_of, strata_of
from beft.datasets.splitting.splits import Splits, cost_of_copies
from beft.datasets.targets import checked_targets
from beft.datasets.words import words_of, words_of_span
from beft.files import write_json
from beft.names import unknown_name
from beft.settings import SplitSettings

_SHOWN = 5
COPIES_COST = "copies_cost"
"""What ``data.json`` calls the rows that test can lack for copies of a text; it is there where they are many."""


class _Row(NamedTuple):
    """A row in the order that everything below is done in, whatever the order of the files was.

    Attributes:
        label: The number of the label or of the right choice, the numbers of the labels (of the spans' labels) in
            their order, or the value; 0 where the problem type has none.
    """

    key: str
    label: Any
    text: str
    text_pair: str | None
    own_test: bool
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    group: str = ""
    spans: tuple[tuple[int, int, int], ...] = ()
    kept: tuple[str, ...] = ()


def prepare_source(raw: Path, out: Path, *, size: int | str, settings: SplitSettings) -> dict[str, Any]:
    """Write the splits of a fetched dataset and their ``data.json``.

    Args:
        raw: The folder that ``fetch_source`` wrote.
        out: The folder to write into.
        size: Rows of the sample that train and dev share: a number, or a regime of the dataset.

    Returns:
        The content of ``data.json``.

    Raises:
        DatasetError: Columns are missing, values are not what the description says, or there are too few rows.
    """
    data = read_raw(raw)
    description = data.description
    sample = description.rows(size)
    rows = sorted(_checked_rows(data), key=lambda row: (row.own_test, *row[:3], row.text_pair or "", *row[5:]))
    labels = [row.label for row in rows]
    keys = [row.key for row in rows]
    groups = [row.group for row in rows] if description.columns.group else None
    divisible = Divisible(keys, labels, [row.own_test for row in rows], groups)
    splits = divide(description, divisible, size=sample, settings=settings)

    for split, chosen in _by_split(description, rows, splits).items():
        save_split(out, split, chosen)
    summary = _summary(data, rows, splits)
    summary["asked"] = {"size": size, "rows": sample, **settings.model_dump(), **asdict(splits.requested)}
    cost = cost_of_copies(keys, labels, strata_of(description, labels))
    if not summary["own_test"] and cost > splits.requested.test_rows // 20:
        summary[COPIES_COST] = cost
    write_json(out / SUMMARY, summary)
    return summary


def _checked_rows(data: RawData) -> list[_Row]:
    """The rows of every file, with text cleaned and labels numbered; or every problem that they have."""
    description = data.description
    problems: list[str] = []
    rows: list[_Row] = []
    for file in data.files:
        absent = [name for name in description.columns.names if name not in file.columns]
        if absent:
            problems += [f"{file.name}: {unknown_name(name, file.columns, 'column')}" for name in absent]
            continue
        texts = _texts(file, description.columns.text, description, problems)
        pair_column = description.columns.text_pair
        pairs = [None] * len(texts) if pair_column is None else _texts(file, pair_column, description, problems)
        targets = checked_targets(file, description, problems)
        kept = list(zip(*(map(_kept, file.columns[name]) for name in description.columns.keep), strict=True))
        kept = kept or [()] * len(texts)
        for text, pair, target, also in zip(texts, pairs, targets, kept, strict=True):
            if text is not None and target is not None and (pair is not None or pair_column is None):
                key = text_key(text, pair, target.choices)
                rows.append(_Row(key, target.label, text, pair, file.split == "test", *target[1:], also))
    if not problems:
        problems += _without_differences(data, rows)
    if problems:
        raise DatasetError(description.name, problems)
    return rows


def _kept(value: object) -> str:
    """A value of a column that goes with the rows, as text; nothing is the empty text."""
    return "" if value is None else canonical(value)


def _texts(file: RawFile, column: str, description: Description, problems: list[str]) -> list[str | None]:
    """The texts of a column, with the marks of the source replaced; None where there is none, and a problem said."""
    texts: list[str | None] = []
    foreign: list[int] = []
    blank: list[int] = []
    for number, value in zip(file.numbers, file.columns[column], strict=True):
        text = None
        if not isinstance(value, str):
            (blank if value is None else foreign).append(number)
        else:
            for mark, instead in description.replace.items():
                value = value.replace(mark, instead)
            if is_blank(value):
                blank.append(number)
            else:
                text = value
        texts.append(text)
    if foreign:
        problems.append(f"{file.name}, column {column!r}: no text in {file.listed(foreign)}")
    if blank:
        problems.append(f"{file.name}, column {column!r}: blank in {file.listed(blank)}")
    return texts


def _without_differences(data: RawData, rows: Sequence[_Row]) -> Iterator[str]:
    description = data.description
    names = list(description.labels)
    for split in dict.fromkeys(file.split for file in data.files):
        of_split = [row for row in rows if row.own_test == (split == "test")]
        found = sorted({row.label for row in of_split})
        if not found:
            where = f" with {description.source.where}" if description.source.where else ""
            hint = ": correct 'where', or bring such rows" if where else ""
            yield f"its {split} data has no rows{where}{hint}"
        elif description.shape == "token_classification":
            if found == [()]:
                yield f"no row of its {split} data has a span, so nothing can be learnt or measured: bring such rows"
        elif len(found) == 1 and description.shape in ("classification", "multi_label", "regression"):
            label = repr(_label_name(of_split[0], names)) if names else f"{found[0]:g}"
            other = ", or leave 'test' out of its source" if split == "test" else ""
            yield (
                f"every row of its {split} data has the label {label}, so nothing can be learnt or measured: bring "
                f"rows with another label{other}"
            )


def _by_split(description: Description, rows: Sequence[_Row], splits: Splits) -> dict[str, Rows]:
    copies: Counter[str] = Counter()
    ids = {}
    for at in sorted(at for split in SPLITS for at in getattr(splits, split)):
        key = rows[at].key
        copies[key] += 1
        ids[at] = key if copies[key] == 1 else f"{key}-{copies[key]}"
    columns = description.columns
    unlabelled = description.shape in ("generation", "token_classification")
    chosen = {}
    for split in SPLITS:
        places = getattr(splits, split)
        pairs = [rows[at].text_pair for at in places]
        chosen[split] = Rows(
            ids=[ids[at] for at in places],
            texts=[rows[at].text for at in places],
            pairs=[pair for pair in pairs if pair is not None] or None,
            labels=[] if unlabelled else [_saved(rows[at].label) for at in places],
            choices=[list(rows[at].choices) for at in places] if columns.choices else None,
            answers=[list(rows[at].answers) for at in places] if columns.answers else None,
            groups=[rows[at].group for at in places] if columns.group else None,
            kept={name: [rows[at].kept[number] for at in places] for number, name in enumerate(columns.keep)},
            spans=[list(map(list, rows[at].spans)) for at in places] if columns.spans else None,
        )
    return chosen


def _summary(data: RawData, rows: Sequence[_Row], splits: Splits) -> dict[str, Any]:
    description = data.description
    names = list(description.labels)
    by_split = {split: [rows[at] for at in getattr(splits, split)] for split in SPLITS}
    metric, why = description.metric, None
    if description.headline_by_rows:
        counts = Counter(row.label for row in rows)
        metric, why = usual_headline({name: counts[number] for number, name in enumerate(names)})
    summary: dict[str, Any] = {
        "dataset": description.name,
        "title": description.title,
        "version": description.version,
        "labels": names,
        "metric": metric,
        **({"headline": f"{metric}, for {why}"} if why else {}),
        "source": {name: data.record[name] for name in ("origin", "licence", "files")},
        "raw_rows": len(rows),
        "own_test": any(row.own_test for row in rows),
        "text_pairs": description.columns.text_pair is not None,
        "rows": {split: len(chosen) for split, chosen in by_split.items()},
        "balance": {
            split: {name: sum(number in numbers_of(row.label) for row in chosen) for number, name in enumerate(names)}
            for split, chosen in by_split.items()
        },
        "characters": {
            split: {"median": median(lengths), "longest": max(lengths)}
            for split, chosen in by_split.items()
            if (lengths := [len(row.text) + len(row.text_pair or "") for row in chosen])
        },
        "dropped": {
            reason: len(getattr(splits, reason)) for reason in ("duplicates", "conflicts", "seen_in_test", "unused")
        },
        "conflicts": _conflicts(rows, names),
    }
    if description.columns.group:
        sizes = {split: Counter(row.group for row in chosen) for split, chosen in by_split.items() if chosen}
        summary["groups"] = {split: len(of_split) for split, of_split in sizes.items()}
        summary["largest_group"] = max(Counter(row.group for row in rows).values())
    ragged = _ragged(data)
    if ragged:
        summary["dropped"] |= {"short_lines": sum(of_file["short"] for of_file in ragged.values())}
        summary["ragged"] = ragged
    return summary | _unusual(description, by_split)


def _ragged(data: RawData) -> dict[str, Any]:
    """Of each file with lines that ``ragged`` leaves out or cuts: how many, and which are the first."""
    return {
        f"{file.split}/{file.name}": {
            "short": len(file.short),
            "short_lines": list(file.short[:_SHOWN]),
            "cut": len(file.cut),
            "cut_lines": list(file.cut[:_SHOWN]),
        }
        for file in data.files
        if file.short or file.cut
    }


def _unusual(description: Description, by_split: dict[str, list[_Row]]) -> dict[str, Any]:
    """What only some datasets have: said where it is, so that the bytes of all others stay as they always were."""
    unusual: dict[str, Any] = {}
    by_split = {split: rows for split, rows in by_split.items() if rows}  # nobody may have asked for a gate
    if description.shape != "classification":
        unusual["shape"] = description.shape
    if len(description.metrics) > 1:
        unusual["metrics"] = list(description.metrics)
    if description.prompt is not None:
        unusual["prompt"] = description.prompt.completed(description.shape).model_dump(exclude_none=True)
    if description.shape == "multi_label":
        unusual["labels_a_row"] = {
            split: _least_mean_most([len(row.label) for row in rows]) for split, rows in by_split.items()
        }
    if description.shape == "token_classification":
        unusual |= _facts_of_spans(description, by_split)
    if description.shape == "regression":
        unusual["label_range"] = description.label_range
        unusual["values"] = {split: _least_mean_most([row.label for row in rows]) for split, rows in by_split.items()}
    if description.columns.choices:
        unusual["choices"] = {
            split: _least_mean_most([len(row.choices) for row in rows]) for split, rows in by_split.items()
        }
    if description.columns.answers:
        unusual["answers"] = {
            split: _least_mean_most([len(row.answers) for row in rows]) for split, rows in by_split.items()
        }
    return unusual


def _facts_of_spans(description: Description, by_split: dict[str, list[_Row]]) -> dict[str, Any]:
    """What divides texts into words, how many spans there are, and how many that no tags of words can say."""
    rule, names = description.word_rule, list(description.labels)
    counts = {split: Counter(label for row in rows for *_, label in row.spans) for split, rows in by_split.items()}
    apart = [
        row.text[start:end][:80]
        for rows in by_split.values()
        for row in rows
        if row.spans and (words := words_of(row.text, rule))
        for start, end, _ in row.spans
        if not words_of_span(words, start, end)[2]
    ]
    return {
        "words": rule,
        "spans": {split: _least_mean_most([len(row.spans) for row in rows]) for split, rows in by_split.items()},
        "entities": {split: {name: of[number] for number, name in enumerate(names)} for split, of in counts.items()},
        "within_words": len(apart),
        **({"within_words_examples": list(dict.fromkeys(apart))[:_SHOWN]} if apart else {}),
    }


def _least_mean_most(numbers: Sequence[int | float]) -> dict[str, float]:
    return {"least": min(numbers), "mean": round(fmean(numbers), 4), "most": max(numbers)}


def _conflicts(rows: Iterable[_Row], names: Sequence[str]) -> dict[str, Any]:
    """Texts that stand in the data with more than one label, test included, and examples of them."""
    by_key: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_key[row.key].append(row)
    torn = [by_key[key] for key in sorted(by_key) if len({row.label for row in by_key[key]}) > 1]
    return {
        "texts": len(torn),
        "rows": sum(map(len, torn)),
        "examples": [
            {
                "text": group[0].text[:200],
                "text_pair": group[0].text_pair and group[0].text_pair[:200],
                "labels": dict(sorted(Counter(_label_name(row, names) for row in group).items())),
            }
            for group in torn[:_SHOWN]
        ],
    }


def _saved(label: Any) -> Any:
    """A label as ``Rows`` has it."""
    return list(label) if isinstance(label, tuple) else label


def _label_name(row: _Row, names: Sequence[str]) -> str:
    if isinstance(row.label, tuple):
        return ", ".join(names[number] for number in row.label) or "no label"
    return names[int(row.label)] if names else row.choices[int(row.label)] if row.choices else f"{row.label:g}"
