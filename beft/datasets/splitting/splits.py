"""Divide the rows of a dataset, once and for all: by hashes of their texts, never by their order.

Rows are given by the key of their text, their label and their stratum. Every choice below takes, for each stratum, the
rows whose keyed hash is smallest, so that it is the same for every order of the rows, and as random as the hash. Rows
that belong together go together: then whole groups are taken, in the order of the keyed hash of their name, and nothing
is stratified.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from beft.datasets.splitting.strata import RESERVES, Reserve, rows_of_strata
from beft.settings import SplitSettings

MOST_AUTO_ROWS = 1000
LEAST_ROWS_FOR_GATE = 200
"""With fewer different texts ``auto`` keeps none for a gate: a decision on so few rows would be chance."""


class TooFewRows(ValueError):
    """There are fewer rows than the splits ask for; the message counts them.

    Attributes:
        split: The split that no group is left for; None where rows are missing.
    """

    def __init__(self, message: str, split: str | None = None) -> None:
        super().__init__(message)
        self.split = split


@dataclass(frozen=True)
class SplitSizes:
    """How many rows test and gate are to have."""

    test_rows: int
    gate_rows: int

    @classmethod
    def of(
        cls,
        settings: SplitSettings,
        rows: int,
        texts: int,
        *,
        most_test_rows: int | None = None,
        most_gate_rows: int | None = None,
    ) -> Self:
        """The sizes that settings mean, with numbers in the place of ``auto``.

        Args:
            rows: Rows that test is taken from.
            texts: Different texts that gate and the sample are taken from, before test is.
            most_test_rows: The most that test can have; None for no limit; likewise ``most_gate_rows``.
        """
        test = min(MOST_AUTO_ROWS, max(rows // 5, min(20, rows // 3)))
        gate = 0 if texts < LEAST_ROWS_FOR_GATE else min(MOST_AUTO_ROWS, texts // 5)
        if settings.test_rows != "auto":
            test = settings.test_rows
        if settings.gate_rows != "auto":
            gate = settings.gate_rows
        return cls(
            test if most_test_rows is None else min(test, most_test_rows),
            gate if most_gate_rows is None else min(gate, most_gate_rows),
        )


@dataclass(frozen=True)
class Splits:
    """Which rows are in which split, in a fixed random order, and why the others are in none.

    Attributes:
        requested: The rows of test and gate that were requested, as numbers.
        duplicates: Further copies of a text (with the same label) outside of test.
        conflicts: Rows outside of test whose text stands in the data with two labels: none of them can be believed.
        seen_in_test: Rows outside of test whose text is in test.
        unused: Rows that the sample did not need.
    """

    train: list[int]
    dev: list[int]
    gate: list[int]
    test: list[int]
    requested: "SplitSizes"
    duplicates: list[int]
    conflicts: list[int]
    seen_in_test: list[int]
    unused: list[int]


def split_rows(
    keys: Sequence[str],
    labels: Sequence[Any],
    own_test: Sequence[bool],
    *,
    size: int | None,
    settings: SplitSettings,
    strata: Sequence[int] | None = None,
    groups: Sequence[str] | None = None,
    most_test_rows: int | None = None,
    most_gate_rows: int | None = None,
) -> Splits:
    """Divide rows into train, dev, gate and test.

    Test is the dataset's own evaluation split, whole. Without one it is ``test_rows`` rows, stratified, all copies of a
    text together (where copies do not fit, a few rows fewer). From what is left, each text once: ``gate_rows`` rows,
    then the sample of ``size`` rows, and of it ``dev_fraction`` as dev; all of them stratified. Of groups, as many are
    taken as fit: a split has fewer rows than asked for, by less than one group; or one group alone that is larger.

    Args:
        keys: ``text_key`` of each row.
        labels: Each row's label, a number, several numbers or a value: copies of a text that differ in it
            contradict each other.
        own_test: Whether a row is of the dataset's own evaluation split.
        size: Rows of the sample that train and dev share; None for all that are left.
        strata: The number of each row's stratum; None: of each row's label.
        groups: The name of each row's group, where rows belong together.
        most_test_rows: The most rows that test can have; None for no limit; likewise ``most_gate_rows``.

    Raises:
        TooFewRows: There are not enough rows.
    """
    rows = _Rows(keys, labels, [int(label) for label in labels] if strata is None else strata, groups)
    texts = rows.usable_texts(outside={key for key, own in zip(keys, own_test, strict=True) if own})
    requested = SplitSizes.of(settings, len(keys), texts, most_test_rows=most_test_rows, most_gate_rows=most_gate_rows)
    test = [row for row, own in enumerate(own_test) if own] or rows.take_test(requested.test_rows)
    rest = _Rest.of(rows, test)
    _check_enough(requested, size, rows, test, rest)
    gate, left = rows.take(rest.left, "gate", requested.gate_rows)
    sample, unused = rows.take(left, f"sample {settings.draw}", len(left) if size is None else size)
    dev, _ = rows.take(sample, f"dev {settings.draw}", max(1, round(settings.dev_fraction * len(sample))))
    in_dev = set(dev)
    splits = Splits(
        train=[row for row in sample if row not in in_dev],
        dev=dev,
        gate=gate,
        test=rows.ordered(test, "test"),
        requested=requested,
        duplicates=rest.duplicates,
        conflicts=rest.conflicts,
        seen_in_test=rest.seen_in_test,
        unused=unused,
    )
    wanted = ("train", "dev", *(["gate"] if requested.gate_rows else []), "test")
    empty = [name for name in wanted if not getattr(splits, name)]
    if groups is not None and empty:
        raise TooFewRows(f"too few groups are left for {empty[0]}: rows of one group stay together", empty[0])
    return splits


@dataclass(frozen=True)
class _Rows:
    """The rows that are divided, as the arguments of ``split_rows`` describe them."""

    keys: Sequence[str]
    labels: Sequence[Any]
    strata: Sequence[int]
    groups: Sequence[str] | None

    @cached_property
    def copies(self) -> dict[str, list[int]]:
        """The rows of each text, in the order of their labels."""
        copies: dict[str, list[int]] = defaultdict(list)
        for row in sorted(range(len(self.keys)), key=lambda row: self.labels[row]):
            copies[self.keys[row]].append(row)
        return copies

    @cached_property
    def by_label(self) -> bool:
        """Whether the strata are labels: each row's own, or of several the rarest."""
        return list(self.strata) == list(self.labels) or any(isinstance(label, tuple) for label in self.labels)

    def contradict(self, rows: Iterable[int]) -> bool:
        """Whether copies of a text have two labels."""
        return len({self.labels[row] for row in rows}) > 1

    def usable_texts(self, *, outside: Container[str]) -> int:
        """How many different texts have one label, those ``outside`` not counted."""
        return sum(key not in outside and not self.contradict(rows) for key, rows in self.copies.items())

    def ordered(self, rows: Iterable[int], purpose: str) -> list[int]:
        """Rows in the order of their keyed hash."""
        return sorted(rows, key=lambda row: (_keyed_hash(purpose, self.keys[row]), self.labels[row], row))

    def take(self, rows: Iterable[int], purpose: str, total: int) -> tuple[list[int], list[int]]:
        """Rows for a split, stratified or in whole groups; and the rest."""
        ordered = self.ordered(rows, purpose)
        if self.groups is not None:
            return _whole_groups(ordered, self.groups, purpose, total)
        return _stratified(ordered, self.strata, total, self.reserve(purpose))

    def take_test(self, total: int) -> list[int]:
        """Rows for test, all copies of a text or none."""
        if self.groups is not None:
            return self.take(range(len(self.keys)), "test", total)[0]
        torn = {row for copies in self.copies.values() if self.contradict(copies) for row in copies}
        usable = Counter(stratum for row, stratum in enumerate(self.strata) if row not in torn)
        return _whole_texts(self.copies, self.strata, usable, total, self.reserve("test"))

    def reserve(self, purpose: str) -> Reserve:
        """What a split must have of rare labels; nothing where rows are not stratified by label."""
        return RESERVES[purpose.split()[0]] if self.by_label else Reserve()


@dataclass(frozen=True)
class _Rest:
    """The rows outside of test: the first of each text that can be learnt from, and why the others cannot."""

    left: list[int]
    duplicates: list[int]
    conflicts: list[int]
    seen_in_test: list[int]

    @classmethod
    def of(cls, rows: _Rows, test: Sequence[int]) -> Self:
        test_keys, in_test = {rows.keys[row] for row in test}, set(test)
        seen_in_test = [row for row, key in enumerate(rows.keys) if key in test_keys and row not in in_test]
        rest = cls([], [], [], seen_in_test)
        for key, copies in rows.copies.items():
            if key in test_keys:
                continue
            if rows.contradict(copies):
                rest.conflicts.extend(copies)
            else:
                rest.left.append(copies[0])
                rest.duplicates.extend(copies[1:])
        return rest


def _check_enough(requested: SplitSizes, size: int | None, rows: _Rows, test: Sequence[int], rest: _Rest) -> None:
    """Check that gate and the sample have rows.

    Raises:
        TooFewRows: They do not; the message counts where the rows are.
    """
    wanted = requested.gate_rows + (2 if size is None else size)
    if len(rest.left) >= wanted:
        return
    sample_rows = "at least 2" if size is None else f"{size:,}"
    gone = {
        "in test": len(test),
        "with a text that is in test": len(rest.seen_in_test),
        "further copies of a text": len(rest.duplicates),
        "with a text that has two labels": len(rest.conflicts),
    }
    counted = ", ".join(f"{count:,} are {what}" for what, count in gone.items() if count)
    raise TooFewRows(
        f"gate ({requested.gate_rows:,} rows) and the sample ({sample_rows} rows) need {wanted:,} rows, but of "
        f"{len(rows.keys):,} only {len(rest.left):,} are left ({counted})"
    )


def cost_of_copies(keys: Sequence[str], labels: Sequence[Any], strata: Sequence[int]) -> int:
    """How many rows fewer than asked for test can have, since all copies of a text go together.

    A stratum can lack one row less than a text has copies; a text with several labels fills no stratum alone.
    """
    copies = Counter(keys)
    label_of: dict[str, Any] = {}
    torn = {key for key, label in zip(keys, labels, strict=True) if label_of.setdefault(key, label) != label}
    return len(set(strata)) * (max(copies.values(), default=1) - 1) + sum(copies[key] for key in torn)


def _stratified(ordered: list[int], labels: Sequence[int], total: int, reserve: Reserve) -> tuple[list[int], list[int]]:
    """The first rows of each label, as many as are needed of it; and the rest. Both keep their order."""
    need = rows_of_strata(Counter(labels[row] for row in ordered), total, reserve)
    taken, rest = [], []
    for row in ordered:
        if need[labels[row]]:
            need[labels[row]] -= 1
            taken.append(row)
        else:
            rest.append(row)
    return taken, rest


def _whole_groups(ordered: list[int], groups: Sequence[str], purpose: str, total: int) -> tuple[list[int], list[int]]:
    """The rows of as many groups as fit, tried in the order of the hash of their names; and the rest.

    Where none fits, the smallest is taken, unless nothing would be left.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row in ordered:
        members[groups[row]].append(row)
    taken: list[int] = []
    rest: list[int] = []
    names = sorted(members, key=lambda name: (_keyed_hash(purpose, name), name))
    smallest = min(names, key=lambda name: len(members[name]), default="")
    if total and len(names) > 1 and len(members[smallest]) > total:
        return members[smallest], [row for name in names if name != smallest for row in members[name]]
    for name in names:
        fits = len(taken) + len(members[name]) <= total
        (taken if fits else rest).extend(members[name])
    return taken, rest


def _whole_texts(
    copies: dict[str, list[int]], labels: Sequence[int], usable: Mapping[int, int], total: int, reserve: Reserve
) -> list[int]:
    """Stratified rows for test, all copies of a text or none: texts in the order of their hash, while they fit."""
    counts = Counter(labels)
    rows_in_all = sum(counts.values())
    if rows_in_all < total:
        raise TooFewRows(f"test needs {total:,} rows, but there are only {rows_in_all:,}")
    need = rows_of_strata(counts, total, reserve, usable)
    taken = []
    for key in sorted(copies, key=lambda key: _keyed_hash("test", key)):
        requested = Counter(labels[row] for row in copies[key])
        if all(need[label] >= rows for label, rows in requested.items()):
            for label, rows in requested.items():
                need[label] -= rows
            taken += copies[key]
    return taken


def _keyed_hash(purpose: str, key: str) -> bytes:
    return hashlib.blake2b(key.encode(), key=purpose.encode(), digest_size=16).digest()
