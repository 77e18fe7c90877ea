"""Versions of an adapter, freshly on the gate rows that none of them was trained on: what promotion is decided by."""

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from beft.adapters.adapter import Adapter
from beft.adapters.checks import check_inputs
from beft.commands import own_command
from beft.datasets.prepared import Rows
from beft.encoding.examples import Predictions
from beft.errors import InputError
from beft.evaluation.promotion.behaviour import flip_rate, perturb
from beft.evaluation.promotion.rules import PromotionRules
from beft.evaluation.promotion.slices import row_slices, too_many_labels
from beft.evaluation.promotion.verdict import Side, SliceGain, slice_gain
from beft.evaluation.records import NO_GATE, Gain
from beft.evaluation.scores import Method, evaluate_methods
from beft.metrics.label_sets import SET_FROM
from beft.metrics.registry import known_metric, score_predictions
from beft.metrics.truth import Truth
from beft.settings import Settings
from beft.training.opening import open_session
from beft.training.session import Session

log = logging.getLogger("beft.comparison")

CHALLENGER, CHAMPION = "challenger", "champion"
_TIMED_ROWS = 200
_REPETITIONS = 3


@dataclass(frozen=True)
class Version:
    """A saved adapter, and what is known of it.

    Attributes:
        name: ``challenger`` or ``champion``.
        adapter_bytes: What the adapter takes on disk.
        training_ids: The ids of the rows that it was trained on.
    """

    name: str
    adapter: Adapter
    adapter_bytes: int
    training_ids: frozenset[str]


@dataclass(frozen=True)
class VersionComparison:
    """Versions on the same gate rows; gain and slices are there where a challenger meets a champion.

    Attributes:
        metric: The headline metric.
        rows: Gate rows that are new to every version.
        seen_before: Gate rows that a version was trained on, which are left out.
        floor: What always answering the majority class scores.
        sides: Each version by its name.
        gain: The challenger's over the champion.
        slices: The challenger's gain on each slice of the rows.
        labels_left_out: How many labels there are, where they are too many for a slice each; else 0.
    """

    metric: str
    rows: int
    seen_before: int
    floor: float
    sides: Mapping[str, Side]
    gain: Gain | None = None
    slices: Sequence[SliceGain] = ()
    labels_left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """The content of ``comparison.json``."""
        return {
            "metric": self.metric,
            "rows": self.rows,
            "seen_before": self.seen_before,
            "floor": self.floor,
            "sides": {name: asdict(side) for name, side in self.sides.items()},
            "gain": self.gain.model_dump(mode="json") if self.gain else None,
            "slices": [asdict(one) for one in self.slices],
            "labels_left_out": self.labels_left_out,
        }


def compare_versions(session: Session, versions: Sequence[Version], rules: PromotionRules) -> VersionComparison:
    """Compare a challenger with a champion, or measure it alone, on the gate rows that are new to both.

    Args:
        session: The base on the dataset; another is opened for a version that was trained over it quantised otherwise.
        versions: The challenger and, where there is one, the champion.
        rules: Confidence, slices and perturbations.

    Raises:
        InputError: A version does not fit the base or the rows, or there is no gate row that is new to all of them.
    """
    sessions = _sessions(session, versions)
    whole = session.data.rows("gate")
    gate = _fresh_rows(session.dataset, whole, versions)
    truth = session.classifier.examples(gate, session.max_length).truth
    log.info("compare: %d gate rows, %s", len(gate), " and ".join(version.name for version in versions))
    predictions = {version.name: _predict(sessions[version.name], version, gate) for version in versions}
    seconds = _seconds_a_row(sessions, versions, gate)
    sides = {
        version.name: Side(
            name=version.name,
            score=score_predictions(session.metric, predictions[version.name], truth),
            flips=_flips(sessions[version.name], version, gate, predictions[version.name], rules),
            seconds_a_row=seconds[version.name],
            adapter_bytes=version.adapter_bytes,
        )
        for version in versions
    }
    floor = majority_score(session.metric, len(session.classifier.labels), truth)
    alone = VersionComparison(session.metric, len(gate), len(whole) - len(gate), floor, sides)
    if len(versions) == 1:
        return alone
    gain = paired_gain(session.metric, predictions, truth, rules, session.settings)
    slices, left_out = _slice_gains(session, gate, predictions, rules)
    return replace(alone, gain=gain, slices=slices, labels_left_out=left_out)


def _sessions(session: Session, versions: Sequence[Version]) -> dict[str, Session]:
    """By version, the base quantised as its adapter was trained over it, each way opened once."""
    settings = session.settings
    opened = {settings.base.quantization: session}
    found = {}
    for version in versions:
        wanted = version.adapter.quantization or settings.base.quantization
        if wanted not in opened:
            base = settings.base.model_copy(update={"quantization": wanted})
            opened[wanted] = open_session(settings.model_copy(update={"base": base}), session.data)
        found[version.name] = opened[wanted]
    return found


def _fresh_rows(dataset: str, gate: Rows, versions: Sequence[Version]) -> Rows:
    """The gate rows that no version was trained on.

    Raises:
        InputError: A version was trained on rows of another kind (a dataset may have been described anew since), or no
            row is left.
    """
    if not len(gate):
        raise InputError(
            f"{dataset}: nothing can be decided: {NO_GATE}; set it to 20 or more and run again: "
            f"{own_command('beft', 'run')}"
        )
    for version in versions:
        try:
            check_inputs(version.adapter, pairs=gate.pairs is not None, choices=gate.choices is not None)
        except InputError as error:
            raise InputError(f"the {version.name} does not fit the gate rows of {dataset}: {error}") from None
    seen = frozenset().union(*(version.training_ids for version in versions))
    fresh = gate.select([at for at, name in enumerate(gate.ids) if _text_of(name) not in seen])
    if not len(fresh):
        raise InputError(f"every gate row of {dataset} was trained on by one of the versions: bring fresh rows")
    return fresh


def _text_of(row_id: str) -> str:
    """What the ids of all copies of a text begin with."""
    return row_id.split("-", 1)[0]


def _predict(session: Session, version: Version, rows: Rows) -> Predictions:
    own = session.with_pooling(version.adapter.pooling)
    return own.predict(version.adapter, own.classifier.examples(rows, version.adapter.max_length))


def _seconds_a_row(sessions: Mapping[str, Session], versions: Sequence[Version], gate: Rows) -> dict[str, float]:
    """The median time of a row, the versions in turns; the tokenizer is the same and is not timed."""
    some = gate.select(range(min(len(gate), _TIMED_ROWS)))
    taken: dict[str, list[float]] = {version.name: [] for version in versions}
    for _ in range(_REPETITIONS):
        for version in versions:
            session = sessions[version.name].with_pooling(version.adapter.pooling)
            examples = session.classifier.examples(some, version.adapter.max_length)
            with version.adapter.attached(session.classifier):
                began = time.perf_counter()
                session.predictions(examples)
                taken[version.name].append(time.perf_counter() - began)
    return {name: statistics.median(of) / len(some) for name, of in taken.items()}


def _flips(
    session: Session, version: Version, gate: Rows, before: Predictions, rules: PromotionRules
) -> dict[str, float]:
    """How many answers change with each perturbation of the first text; only texts that change are computed again."""
    rates: dict[str, float] = {}
    for name in rules.flips:
        texts, changed = perturb(name, gate.texts)
        places = np.flatnonzero(changed).tolist()
        rates[name] = 0.0
        if places:
            after = _predict(session, version, replace(gate, texts=texts).select(places))
            old: Any = [before[at] for at in places] if isinstance(before, list) else before[places]
            sets = version.adapter.problem_type.has_thresholds
            rates[name] = flip_rate(old, after, changed[places], sets=sets)
    return rates


def majority_score(metric: str, labels_known: int, truth: Truth) -> float:
    """What always answering the majority class scores; where there are no labels, the metric's zero.

    Where a row can have several labels, the answer is always the label that most rows have, and every other that half
    of them have.

    Args:
        labels_known: How many labels there are.
    """
    if truth.label_sets is not None:
        shares = np.asarray(truth.label_sets).mean(0)
        always = (shares >= min(0.5, shares.max())).astype(np.float64)
        return score_predictions(metric, np.tile(always, (truth.rows, 1)), truth)
    if known_metric(metric).takes != "labels" or truth.labels is None:
        return 0.0
    labels = np.asarray(truth.labels, dtype=np.int64)
    width = max(labels_known, int(labels.max()) + 1)
    return score_predictions(metric, np.eye(width)[np.full_like(labels, np.bincount(labels).argmax())], truth)


def paired_gain(
    metric: str, predictions: Mapping[str, Predictions], truth: Truth, rules: PromotionRules, settings: Settings
) -> Gain:
    """The challenger's gain over the champion by the headline metric, at the confidence of the rules."""
    found = evaluate_methods(
        {name: Method({"gate": of_version}) for name, of_version in predictions.items()},
        {"gate": truth},
        target=CHALLENGER,
        baselines=[CHAMPION],
        metrics=[metric],
        settings=settings.evaluate.model_copy(update={"confidence": rules.confidence}),
        seed=settings.seed,
    )
    return found.splits["gate"].gains[CHAMPION][metric]


def _slice_gains(
    session: Session, gate: Rows, predictions: Mapping[str, Predictions], rules: PromotionRules
) -> tuple[list[SliceGain], int]:
    """The right answers on every slice; values and texts are right or wrong by degrees, and are not sliced.

    Also how many labels there are, where they are asked for as slices and are too many.
    """
    labels = session.classifier.labels
    rows = session.classifier.examples(gate, session.max_length)
    names: list[Any] = [
        [labels[number] for number in label]
        if isinstance(label, list)
        else labels[int(label)]
        if labels
        else str(label)
        for label in gate.labels
    ]
    return sliced_gains(
        predictions,
        rows.labels if session.problem_type.has_thresholds else gate.labels,
        names,
        rows.lengths,
        rules,
        session.settings,
        groups=gate.groups,
        columns={**({"group": gate.groups} if gate.groups else {}), **gate.kept},
    )


def sliced_gains(
    predictions: Mapping[str, Predictions],
    truth: Sequence[Any] | np.ndarray,
    names: Sequence[str] | Sequence[Sequence[str]],
    lengths: np.ndarray,
    rules: PromotionRules,
    settings: Settings,
    *,
    groups: Sequence[str] | None,
    columns: Mapping[str, Sequence[object]],
) -> tuple[list[SliceGain], int]:
    """The challenger's gain in right answers on every slice; values and texts are not sliced.

    Args:
        predictions: Of challenger and champion.
        truth: The number of each row's true label; or where a row can have several, 1 or 0 for each [rows, labels].
        names: Its name; or the names of its labels.
        lengths: Tokens of each row.
        groups: What each row belongs to, where rows are resampled together.
        columns: Further columns to slice by.

    Returns:
        The gains, and how many labels there are where they are asked for as slices and are too many.
    """
    if any(isinstance(found, list) or found.ndim != 2 for found in predictions.values()):
        return [], 0
    true = np.asarray(truth)
    right = {
        name: ((np.asarray(found) >= SET_FROM) == true).all(-1)
        if true.ndim == 2
        else np.asarray(found).argmax(-1) == true
        for name, found in predictions.items()
    }
    left_out = too_many_labels(names) if "label" in rules.slices else 0
    slices = row_slices(
        # A column that only other datasets of the settings have is none of this one.
        [name for name in rules.slices if name in ("length", "label", *columns)],
        lengths=lengths,
        labels=names,
        columns=columns,
    )
    gains = [
        slice_gain(
            name,
            right[CHALLENGER][rows],
            right[CHAMPION][rows],
            groups=None if groups is None else np.asarray(groups)[rows].tolist(),
            confidence=rules.confidence,
            resamples=settings.evaluate.resamples,
            generator=np.random.default_rng([settings.seed, *name.encode()]),
        )
        for name, rows in slices.items()
    ]
    return gains, left_out
