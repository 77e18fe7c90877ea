"""The batches of a run: those of ordinary training, or balanced ones in which rows meet others of their label."""

from collections.abc import Sequence

import numpy as np

from beft.encoding.tokenization import training_batches
from beft.inference.runs import LabelledRows, Run
from beft.problems.class_weights import example_weights
from beft.problems.problem_type import ProblemType

_MIN_PAIR = 2  # rows of a label, so that each has another one


def run_batches(rows: LabelledRows, run: Run, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch of a run, as numbers of rows; each epoch of a run has equally many."""
    own = np.arange(len(rows)) if run.rows is None else np.asarray(run.rows)
    batch_size = run.settings.batch_size
    if not run.settings.contrastive:
        batches = training_batches(rows.lengths[own], batch_size, seed=run.seed, epoch=epoch)
    else:
        labels = rows.labels[own]
        groups = labels if labels.ndim == 1 and labels.dtype == np.int64 else np.zeros(len(own), dtype=np.int64)
        batches = balanced_batches(groups, batch_size, seed=run.seed, epoch=epoch)
    return batches if run.rows is None else [own[batch] for batch in batches]


def steps_of_epoch(rows: LabelledRows, run: Run) -> int:
    """How many batches an epoch of a run has."""
    return -(-(len(rows) if run.rows is None else len(run.rows)) // run.settings.batch_size)


def run_weights(rows: LabelledRows, run: Run, problem_type: ProblemType) -> np.ndarray:
    """The factor of each row's loss in a run, fp64, [rows]; 0 for those that the run does not learn from."""
    own = np.arange(len(rows)) if run.rows is None else np.asarray(run.rows)
    weights = np.zeros(len(rows))
    weights[own] = example_weights(run.settings.class_weights, problem_type, rows.labels[own])
    return weights


def balanced_batches(labels: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch in which labels have equally many rows, two or more where they have so many.

    They are a function of the labels, the seed and the epoch alone. There are as many batches as an ordinary epoch has,
    of equal size, and no row is twice in one of them. Where labels have equally many rows, each row is in one batch;
    else rows of rare labels are in several. Labels that do not fit into a batch take turns.

    Args:
        labels: [rows], int64.
        batch_size: Rows of a batch at most.
    """
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    count = -(-len(labels) // batch_size)
    rows = -(-len(labels) // count)
    decks = [_Deck(np.flatnonzero(labels == label), random) for label in np.unique(labels)]
    turns = _Deck(np.arange(len(decks)), random)
    at_once = max(1, min(2, rows - 1), rows // _MIN_PAIR)  # three rows are of two labels: without another, none differ
    return [_batch(decks, turns.deal(at_once), rows) for _ in range(count)]


def _batch(decks: Sequence["_Deck"], turns: np.ndarray, rows: int) -> np.ndarray:
    """One batch: level shares of the labels whose turn it is, and of others where these have too few rows."""
    chosen = turns.tolist()
    others = [at for at in range(len(decks)) if at not in chosen]
    while sum(len(decks[at]) for at in chosen) < rows:
        chosen.append(others.pop(0))
    sizes = dict.fromkeys(chosen, 0)
    left = rows
    while left:
        open_decks = [at for at, size in sizes.items() if size < len(decks[at])]
        for at in open_decks[:left]:
            sizes[at] += 1
        left -= min(left, len(open_decks))
    return np.concatenate([decks[at].deal(size) for at, size in sizes.items()])


class _Deck:
    """Numbers dealt in a random order, none again before all others were, and none twice in one hand."""

    def __init__(self, numbers: np.ndarray, random: np.random.Generator) -> None:
        self._numbers, self._random = numbers, random
        self._left: list[int] = random.permutation(numbers).tolist()

    def __len__(self) -> int:
        return len(self._numbers)

    def deal(self, count: int) -> np.ndarray:
        """The next ones; all of them where there are no more than ``count``."""
        count = min(count, len(self._numbers))
        hand, self._left = self._left[:count], self._left[count:]
        if len(hand) < count:
            fresh = self._random.permutation(self._numbers).tolist()
            more = [number for number in fresh if number not in hand][: count - len(hand)]
            self._left = [number for number in fresh if number not in more]
            hand += more
        return np.array(hand, dtype=np.int64)
