"""The merge matrix: every set of biases on the test rows of every dataset, each under that dataset's own head.

A row is a set of biases: none (the base's own), each dataset's adapter, each merge. A column is a dataset.
"""

import logging
from collections.abc import Callable, Mapping

import torch

from beft.adapters.adapter import Adapter
from beft.encoding.examples import Predictions
from beft.evaluation.records import SplitEvaluation
from beft.evaluation.scores import Method, evaluate_methods
from beft.merging.adapters import with_merged
from beft.merging.merged import Merged
from beft.training.session import Session

log = logging.getLogger("beft.merging")

NONE = "none"
"""The row of the base's own biases, under the head that was trained with the dataset's adapter."""


def merge_matrix(
    adapters: Mapping[str, Adapter],
    merged: Mapping[str, Merged],
    open_dataset: Callable[[str], Session],
    known: Mapping[str, Mapping[str, Predictions]],
) -> dict[str, SplitEvaluation]:
    """Evaluate every set of biases on the test rows of every dataset, one dataset after the other.

    Args:
        adapters: The adapters, by the names of their datasets.
        merged: The merges, by their methods; gains are those of the last one.
        open_dataset: Opens the classifier of a dataset on its rows.
        known: Dataset -> row -> what is known to be predicted on its test rows: by its own adapter, and perhaps others.

    Returns:
        Dataset -> the scores of every row of the matrix.
    """
    return {name: _column(open_dataset(name), name, adapters, merged, known[name]) for name in adapters}


def _column(
    session: Session,
    name: str,
    adapters: Mapping[str, Adapter],
    merged: Mapping[str, Merged],
    known: Mapping[str, Predictions],
) -> SplitEvaluation:
    session = session.with_pooling(adapters[name].pooling)
    test = session.rows("test")
    predictions = dict(known)
    of_biases: dict[str, Predictions] = {}
    for row, adapter in _rows(name, adapters, merged).items():
        if row in known:
            continue
        if adapter.sha256 not in of_biases:  # two merges can be the same biases
            log.info("merge: the biases of %s on the test rows of %s", row, name)
            of_biases[adapter.sha256] = session.predict(adapter, test)
        predictions[row] = of_biases[adapter.sha256]
    evaluation = evaluate_methods(
        {row: Method({"test": predictions[row]}) for row in (NONE, *adapters, *merged)},
        {"test": test.truth},
        target=list(merged)[-1],
        baselines=[name, NONE],
        metrics=[session.metric],
        settings=session.settings.evaluate,
        seed=session.settings.seed,
    )
    return evaluation.splits["test"]


def _rows(name: str, adapters: Mapping[str, Adapter], merged: Mapping[str, Merged]) -> dict[str, Adapter]:
    """Every set of biases but the dataset's own, under its head."""
    own = adapters[name]
    untouched = {site: torch.zeros_like(delta) for site, delta in own.deltas.items()}
    rows = {NONE: own.with_deltas(untouched)}
    rows |= {
        other: own.with_deltas({**untouched, **adapter.deltas}, others=[adapter])
        for other, adapter in adapters.items()
        if other != name
    }
    return rows | {method: with_merged(adapters, name, result) for method, result in merged.items()}
