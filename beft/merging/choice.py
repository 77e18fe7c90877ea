"""Which options a merge gets, and which weights: tried on dev rows, method by method."""

import itertools
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beft.adapters.adapter import Adapter
from beft.adapters.checks import check_one_base
from beft.errors import InputError
from beft.merging.dev import DevRows, DevScore
from beft.merging.merged import Merged, merge
from beft.merging.methods.searched_weights import Score, Weights, search_weights
from beft.merging.registry import options
from beft.settings import MergeMethod, MergeSettings
from beft.training.session import Session

log = logging.getLogger("beft.merging")

SEARCHED: MergeMethod = "searched_weights"
_KEEP = "to keep them for this, train with method: fixed and learn_from_dev: false"
_TRIED = {"scale": "scales", "density": "densities", "drop_rate": "drop_rates"}
"""Option of a merge method -> the setting that names the values to try."""


@dataclass(frozen=True)
class Tried:
    """A merge that was tried on dev."""

    merged: Merged
    score: DevScore

    def to_json(self) -> dict[str, Any]:
        """Its options, its weights and its score, as JSON values."""
        return {
            "options": dict(self.merged.options),
            "weights": dict(self.merged.weights),
            **self.score.to_json(),
        }


@dataclass(frozen=True)
class MergeSelection:
    """The merge of a method, and what it was chosen among; nothing where there was no choice."""

    merged: Merged
    trials: tuple[Tried, ...] = ()


def choose_merges(
    settings: MergeSettings,
    adapters: Mapping[str, Adapter],
    open_dataset: Callable[[str], Session] | None,
    *,
    given: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = log.info,
) -> dict[str, MergeSelection]:
    """Merge adapters by every method of the settings, with the options and weights that are best on dev.

    The best has the largest mean over the datasets of the dev metric relative to that of each dataset's own adapter; of
    equally good ones the smaller loss, then the first. Dev rows that one of the adapters was trained on would choose
    what it knows by heart, so that then they choose nothing.

    Args:
        adapters: The adapters, by the names of their datasets.
        open_dataset: Opens the classifier of a dataset on its rows; None: there are no dev rows, so that every method
            has its default options, and no weights are searched.
        given: Options that are not chosen.
        seed: Of the search for weights.
        progress: Gets a line about the cost before it is spent.

    Raises:
        InputError: The adapters have different bases, a method or an option is unknown, or weights are to be searched
            without held-out dev rows or with too small a budget.
    """
    given = dict(given or {})
    check_one_base(adapters)
    learnt = [name for name, adapter in adapters.items() if adapter.provenance.get("learns_from_dev")]
    if SEARCHED in settings.methods and (open_dataset is None or learnt):
        raise InputError(
            f"{SEARCHED} needs dev rows to search on, and "
            + (f"the adapter of {learnt[0]} was trained on its dataset's: {_KEEP}" if learnt else "there are none")
        )
    if learnt and open_dataset is not None:
        progress(
            f"merge: the dev rows of {', '.join(learnt)} were trained on, so each method has its default options; "
            + _KEEP
        )
        open_dataset = None
    candidates: dict[MergeMethod, list[Merged]] = {}
    for method in settings.methods:
        if method != SEARCHED:
            grid = [given] if open_dataset is None else _grid(method, settings, given)
            candidates[method] = [merge(method, adapters, **each) for each in grid]
    compared = [merged for merges in candidates.values() if len(merges) > 1 for merged in merges]
    choices: dict[str, MergeSelection] = {method: MergeSelection(merges[0]) for method, merges in candidates.items()}
    if open_dataset is not None and (compared or SEARCHED in settings.methods):
        budget = settings.search_budget if SEARCHED in settings.methods else 0
        dev = DevRows(adapters, open_dataset, planned=len(compared) + budget, progress=progress)
        scores = iter(dev.measure(compared) if compared else ())
        for method, merges in candidates.items():
            if len(merges) > 1:
                choices[method] = _best([Tried(merged, next(scores)) for merged in merges])
        if budget:
            choices[SEARCHED] = _search(settings, adapters, dev, given, seed)
    return {method: choices[method] for method in settings.methods}


def _grid(method: str, settings: MergeSettings, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of a method that are tried: every combination of the values of the settings."""
    trials = {name: getattr(settings, _TRIED[name]) for name in options(method) if name in _TRIED and name not in given}
    return [{**given, **dict(zip(trials, values, strict=True))} for values in itertools.product(*trials.values())]


def _search(
    settings: MergeSettings, adapters: Mapping[str, Adapter], dev: DevRows, given: Mapping[str, Any], seed: int
) -> MergeSelection:
    # In an order of their contents, so that the order in which the adapters are given decides nothing.
    names = sorted(adapters, key=lambda name: (adapters[name].sha256, name))
    trials: list[Tried] = []

    def measure(several: Sequence[Weights]) -> list[Score]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            merges = [
                merge(SEARCHED, adapters, weights=dict(zip(names, weights, strict=True)), **given)
                for weights in several
            ]
        here = [Tried(merged, score) for merged, score in zip(merges, dev.measure(merges), strict=True)]
        trials.extend(here)
        return [Score(one.score.relative, one.score.loss) for one in here]

    starts = (*settings.scales, 1 / len(names))
    search_weights(measure, len(names), starts=starts, budget=settings.search_budget, seed=seed)
    return _best(trials)


def _best(trials: Sequence[Tried]) -> MergeSelection:
    return MergeSelection(max(trials, key=lambda one: one.score.rank).merged, tuple(trials))
