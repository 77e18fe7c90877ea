"""Divisions of a sample into folds: the same for every candidate and every baseline."""

import warnings

import numpy as np
from numpy.typing import NDArray

from beft.encoding.examples import LabelledRows
from beft.errors import InputError

MAX_FOLDS = 5


def fold_count(rows: LabelledRows) -> int:
    """Five, or fewer where there are fewer rows, or fewer of the second most frequent label of a classification.

    Where words have tags, as many as there are rows with a span at most.

    Raises:
        InputError: Not even two folds leave two labels, two rows, or two rows with a span, to train on.
    """
    enough = len(rows) if rows.words is None else int(_has_span(rows).sum())
    if _has_one_label_a_row(rows):
        counts = np.sort(np.unique(rows.labels, return_counts=True)[1])
        enough = int(counts[-2]) if len(counts) > 1 else 0
    if enough < 2:
        raise InputError(
            "cross-validation needs two rows of two labels at least, or two rows with spans; label more rows, or keep "
            "dev rows to choose with (train.method: fixed, train.learn_from_dev: null)"
        )
    return min(MAX_FOLDS, enough)


def check_divisible(rows: LabelledRows) -> None:
    """Check that there are enough rows, labels and groups for cross-validation.

    Raises:
        InputError: There are not.
    """
    repeated_folds(rows, fold_count(rows), 1, 0)


def can_divide(rows: LabelledRows) -> bool:
    """Whether there are enough rows, labels and groups for cross-validation."""
    try:
        check_divisible(rows)
    except InputError:
        return False
    return True


def repeated_folds(rows: LabelledRows, folds: int, repeats: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row in each division, [repeats, rows].

    Labels are spread evenly over the folds, where a row has one, and rows with spans; rows of one group, or of one
    text, are in one fold.

    Raises:
        InputError: The rows have fewer groups than there are to be folds.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    groups = _groups(rows)
    if len(np.unique(groups)) < folds:
        raise InputError(
            f"the {len(rows)} rows are of {len(np.unique(groups))} groups, too few for {folds} folds; keep dev rows to "
            "choose with (train.method: fixed, train.learn_from_dev: null)"
        )
    spread = rows.labels if _has_one_label_a_row(rows) else None if rows.words is None else _has_span(rows)
    found = np.zeros((repeats, len(rows)), dtype=np.int64)
    for repeat in range(repeats):
        kind = GroupKFold if spread is None else StratifiedGroupKFold
        division = kind(folds, shuffle=True, random_state=(seed + repeat) % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels with fewer rows than folds: some folds then lack them
            for fold, (_, held_out) in enumerate(division.split(np.zeros(len(rows)), spread, groups)):
                found[repeat, held_out] = fold
    return found


def _has_one_label_a_row(rows: LabelledRows) -> bool:
    return rows.labels.dtype == np.int64 and rows.labels.ndim == 1


def _has_span(rows: LabelledRows) -> NDArray[np.int64]:
    """1 for each row that has a word with another tag than O (0), else 0."""
    return np.asarray((rows.labels > 0).any(-1), dtype=np.int64)


def _groups(rows: LabelledRows) -> NDArray[np.int64]:
    """A number for each row; equal for rows that must not be divided."""
    source = rows.source
    names: list[object] = list(range(len(rows)))
    if source is not None:
        pairs = source.pairs or [""] * len(rows)
        names = list(source.groups) if source.groups is not None else list(zip(source.texts, pairs, strict=True))
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])
