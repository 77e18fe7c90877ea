"""Divide the rows of a dataset, once and for all: by hashes of their texts, never by their order.

Rows are given by the key of their text and the number of their label. Every choice below takes, for each label, the
rows whose keyed hash is smallest, so that it is the same for every order of the rows, and as random as the hash.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from beft.settings import SplitSettings


class TooFewRows(ValueError):
    """There are fewer rows than the splits ask for; the message counts them."""


@dataclass(frozen=True)
class Splits:
    """Which rows are in which split, in a fixed random order, and why the others are in none.

    Attributes:
        duplicates: Further copies of a text (with the same label) outside of test.
        conflicts: Rows outside of test whose text stands in the data with two labels: none of them can be believed.
        seen_in_test: Rows outside of test whose text is in test.
        unused: Rows that the sample did not need.
    """

    train: list[int]
    dev: list[int]
    gate: list[int]
    test: list[int]
    duplicates: list[int]
    conflicts: list[int]
    seen_in_test: list[int]
    unused: list[int]


def split_rows(
    keys: Sequence[str],
    labels: Sequence[int],
    own_test: Sequence[bool],
    *,
    size: int | None,
    settings: SplitSettings,
) -> Splits:
    """Divide rows into train, dev, gate and test.

    Test is the dataset's own evaluation split, whole. Without one it is ``test_rows`` rows, stratified, all copies of a
    text together (where copies do not fit, a few rows fewer). From what is left, each text once: ``gate_rows`` rows,
    then the sample of ``size`` rows, and of it ``dev_fraction`` as dev; all of them stratified.

    Args:
        keys: ``text_key`` of each row.
        labels: The number of each row's label.
        own_test: Whether a row is of the dataset's own evaluation split.
        size: Rows of the sample that train and dev share; None for all that are left.

    Raises:
        TooFewRows: There are not enough rows.
    """
    copies: dict[str, list[int]] = defaultdict(list)
    for row in sorted(range(len(keys)), key=lambda row: labels[row]):
        copies[keys[row]].append(row)

    def ordered(rows: Iterable[int], purpose: str) -> list[int]:
        return sorted(rows, key=lambda row: (_keyed_hash(purpose, keys[row]), labels[row], row))

    if any(own_test):
        test = [row for row, own in enumerate(own_test) if own]
    else:
        test = _whole_texts(copies, labels, settings.test_rows)
    test_keys = {keys[row] for row in test}
    in_test = set(test)
    seen_in_test = [row for row in range(len(keys)) if keys[row] in test_keys and row not in in_test]

    left: list[int] = []
    duplicates: list[int] = []
    conflicts: list[int] = []
    for key, rows in copies.items():
        if key in test_keys:
            continue
        if len({labels[row] for row in rows}) > 1:
            conflicts += rows
        else:
            left.append(rows[0])
            duplicates += rows[1:]

    wanted = settings.gate_rows + (2 if size is None else size)
    if len(left) < wanted:
        asked = "at least 2" if size is None else f"{size:,}"
        raise TooFewRows(
            f"gate ({settings.gate_rows:,} rows) and the sample ({asked} rows) need {wanted:,} rows, but of "
            f"{len(keys):,} only {len(left):,} are left after test ({len(test):,}), duplicates and conflicts"
        )
    gate, left = _stratified(ordered(left, "gate"), labels, settings.gate_rows)
    sample_order = ordered(left, f"sample {settings.draw}")
    sample, unused = _stratified(sample_order, labels, len(left) if size is None else size)
    dev_rows = max(1, round(settings.dev_fraction * len(sample)))
    dev, _ = _stratified(ordered(sample, f"dev {settings.draw}"), labels, dev_rows)
    in_dev = set(dev)
    return Splits(
        train=[row for row in sample if row not in in_dev],
        dev=dev,
        gate=gate,
        test=ordered(test, "test"),
        duplicates=duplicates,
        conflicts=conflicts,
        seen_in_test=seen_in_test,
        unused=unused,
    )


def quotas(counts: Sequence[int], total: int) -> list[int]:
    """Share ``total`` among strata in proportion to their counts, by the largest remainders.

    Args:
        counts: Rows of each stratum; ``total`` is at most their sum.
    """
    rows = sum(counts)
    shares = [total * count // rows if rows else 0 for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda at: (-(total * counts[at] % rows) if rows else 0, at))
    for at in by_remainder[: total - sum(shares)]:
        shares[at] += 1
    return shares


def _stratified(ordered: list[int], labels: Sequence[int], total: int) -> tuple[list[int], list[int]]:
    """The first rows of each label, as many as its quota; and the rest. Both keep their order."""
    counts = Counter(labels[row] for row in ordered)
    names = sorted(counts)
    need = dict(zip(names, quotas([counts[name] for name in names], total), strict=True))
    taken, rest = [], []
    for row in ordered:
        if need[labels[row]]:
            need[labels[row]] -= 1
            taken.append(row)
        else:
            rest.append(row)
    return taken, rest


def _whole_texts(copies: dict[str, list[int]], labels: Sequence[int], total: int) -> list[int]:
    """Stratified rows for test, all copies of a text or none: texts in the order of their hash, while they fit."""
    counts = Counter(labels)
    rows_in_all = sum(counts.values())
    if rows_in_all < total:
        raise TooFewRows(f"test needs {total:,} rows, but there are only {rows_in_all:,}")
    names = sorted(counts)
    need = dict(zip(names, quotas([counts[name] for name in names], total), strict=True))
    taken = []
    for key in sorted(copies, key=lambda key: _keyed_hash("test", key)):
        asked = Counter(labels[row] for row in copies[key])
        if all(need[label] >= rows for label, rows in asked.items()):
            for label, rows in asked.items():
                need[label] -= rows
            taken += copies[key]
    return taken


def _keyed_hash(purpose: str, key: str) -> bytes:
    return hashlib.blake2b(key.encode(), key=purpose.encode(), digest_size=16).digest()
