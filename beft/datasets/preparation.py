"""From the raw source to prepared data: one schema, checked values, splits that never change."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from beft.datasets.description import DatasetError, Description, canonical
from beft.datasets.normalisation import normalised, text_key
from beft.datasets.prepared import SPLITS, SUMMARY, Rows, save_split
from beft.datasets.reading import RawData, RawFile, read_raw
from beft.datasets.splitting import Splits, TooFewRows, split_rows
from beft.files import write_json
from beft.names import unknown_name
from beft.settings import SplitSettings

_SHOWN = 5


class _Row(NamedTuple):
    """A row in the order that everything below is done in, whatever the order of the files was."""

    key: str
    label: int
    text: str
    text_pair: str | None
    own_test: bool


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
    rows = sorted(_checked_rows(data), key=lambda row: (row.own_test, *row[:3], row.text_pair or ""))
    try:
        splits = split_rows(
            [row.key for row in rows],
            [row.label for row in rows],
            [row.own_test for row in rows],
            size=sample,
            settings=settings,
        )
    except TooFewRows as error:
        advice = f"lower datasets.{description.name}.size, split.gate_rows or split.test_rows, or bring more data"
        raise DatasetError(description.name, [f"{error}: {advice}"]) from None
    _require_classes(description, rows, splits)

    for split, chosen in _by_split(rows, splits).items():
        save_split(out, split, chosen)
    summary = _summary(data, rows, splits)
    summary["asked"] = {"size": size, "rows": sample, **settings.model_dump()}
    write_json(out / SUMMARY, summary)
    return summary


def _checked_rows(data: RawData) -> list[_Row]:
    """The rows of every file, with text cleaned and labels numbered; or every problem that they have."""
    description = data.description
    problems: list[str] = []
    rows: list[_Row] = []
    for file in data.files:
        absent = [name for name in description.columns.by_role.values() if name not in file.columns]
        if absent:
            problems += [f"{file.name}: {unknown_name(name, file.columns, 'column')}" for name in absent]
            continue
        texts = _texts(file, description.columns.text, description, problems)
        pair_column = description.columns.text_pair
        pairs = [None] * len(texts) if pair_column is None else _texts(file, pair_column, description, problems)
        labels = _labels(file, description, problems)
        for text, pair, label in zip(texts, pairs, labels, strict=True):
            if text is not None and label is not None and (pair is not None or pair_column is None):
                rows.append(_Row(text_key(text, pair), label, text, pair, file.split == "test"))
    if not problems:
        problems += _without_classes(data, rows)
    if problems:
        raise DatasetError(description.name, problems)
    return rows


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
            if normalised(value):
                text = value
            else:
                blank.append(number)
        texts.append(text)
    if foreign:
        problems.append(f"{file.name}, column {column!r}: no text in {_listed(foreign)}")
    if blank:
        problems.append(f"{file.name}, column {column!r}: blank in {_listed(blank)}")
    return texts


def _labels(file: RawFile, description: Description, problems: list[str]) -> list[int | None]:
    """The number of each row's label; None where its value is none of the declared ones, and a problem said."""
    numbers = description.label_numbers
    outside: dict[str, list[int]] = defaultdict(list)
    labels: list[int | None] = []
    for number, value in zip(file.numbers, file.columns[description.columns.label], strict=True):
        label = None if value is None else numbers.get(canonical(value))
        if label is None:
            outside["nothing" if value is None else repr(value)].append(number)
        labels.append(label)
    declared = ", ".join(f"{value} ({name})" for name, group in description.labels.items() for value in group)
    for text, where in list(outside.items())[:_SHOWN]:
        problems.append(
            f"{file.name}, column {description.columns.label!r}: {text} is none of the labels {declared}; it stands in "
            f"{_listed(where)}"
        )
    if len(outside) > _SHOWN:
        problems.append(f"{file.name}: {len(outside) - _SHOWN:,} more values that are none of the labels")
    return labels


def _without_classes(data: RawData, rows: Sequence[_Row]) -> Iterator[str]:
    names = list(data.description.labels)
    for split in data.description.source.splits:
        found = sorted({row.label for row in rows if row.own_test == (split == "test")})
        if not found:
            where = f" with {data.description.source.where}" if data.description.source.where else ""
            yield f"its {split} data has no rows{where}"
        elif len(found) == 1:
            yield f"every row of its {split} data has the label {names[found[0]]!r}: nothing can be learnt or measured"


def _require_classes(description: Description, rows: Sequence[_Row], splits: Splits) -> None:
    """Each split must show at least two labels, and train all of them."""
    names = list(description.labels)
    problems = []
    for split in SPLITS:
        found = {rows[at].label for at in getattr(splits, split)}
        wanted = len(names) if split == "train" else 2
        if len(found) < wanted:
            absent = ", ".join(repr(name) for number, name in enumerate(names) if number not in found)
            problems.append(f"{split} ({len(getattr(splits, split)):,} rows) has no row with the label {absent}")
    if problems:
        problems[-1] += f": raise datasets.{description.name}.size or split.dev_fraction, or bring more such rows"
        raise DatasetError(description.name, problems)


def _by_split(rows: Sequence[_Row], splits: Splits) -> dict[str, Rows]:
    copies: Counter[str] = Counter()
    ids = {}
    for at in sorted(at for split in SPLITS for at in getattr(splits, split)):
        key = rows[at].key
        copies[key] += 1
        ids[at] = key if copies[key] == 1 else f"{key}-{copies[key]}"
    chosen = {}
    for split in SPLITS:
        places = getattr(splits, split)
        pairs = [rows[at].text_pair for at in places]
        chosen[split] = Rows(
            ids=[ids[at] for at in places],
            texts=[rows[at].text for at in places],
            pairs=[pair for pair in pairs if pair is not None] or None,
            labels=[rows[at].label for at in places],
        )
    return chosen


def _summary(data: RawData, rows: Sequence[_Row], splits: Splits) -> dict[str, Any]:
    description = data.description
    names = list(description.labels)
    by_split = {split: [rows[at] for at in getattr(splits, split)] for split in SPLITS}
    return {
        "dataset": description.name,
        "title": description.title,
        "version": description.version,
        "labels": names,
        "metric": description.metric,
        "source": {name: data.record[name] for name in ("origin", "licence", "files")},
        "raw_rows": len(rows),
        "own_test": any(row.own_test for row in rows),
        "text_pairs": description.columns.text_pair is not None,
        "rows": {split: len(chosen) for split, chosen in by_split.items()},
        "balance": {
            split: {name: sum(row.label == number for row in chosen) for number, name in enumerate(names)}
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
                "labels": dict(sorted(Counter(names[row.label] for row in group).items())),
            }
            for group in torn[:_SHOWN]
        ],
    }


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(f"{number:,}" for number in numbers[:_SHOWN])
    if len(numbers) == 1:
        return f"row {shown}"
    return f"{len(numbers):,} rows: {shown}" + (", …" if len(numbers) > _SHOWN else "")
