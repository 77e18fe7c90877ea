"""The evaluation: every metric of every method with an interval, and the target's gain over each baseline.

Predictions are made once, as probabilities, values or texts; everything here is computed from them, in memory. The
intervals are over rows (over whole groups of rows where rows belong together), for the runs (seeds) at hand; the spread
over runs stands beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beft.errors import InputError
from beft.evaluation.bootstrap import (
    Units,
    bootstrap,
    group_rows,
    paired_permutation_test,
    percentile_interval,
    single_units,
)
from beft.evaluation.records import Cost, Evaluation, Gain, MetricScore, SplitEvaluation
from beft.metrics.kinds import MetricKind
from beft.metrics.label_sets import SET_FROM
from beft.metrics.registry import combined, known_metric
from beft.metrics.spans import checked_spans
from beft.metrics.texts import checked_texts
from beft.metrics.truth import Truth
from beft.names import known_name
from beft.settings import EvaluateSettings

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Predictions = ArrayLike | Sequence[Any]


@dataclass(frozen=True)
class Method:
    """What one method predicted.

    Attributes:
        predictions: Split -> what it predicted: the probability of every label [rows, labels] (of label sets a score
            for every label, given from 0.5 on), a value [rows], a text [rows] or spans [rows][any number]; for several
            seeds one more axis before, [runs, rows, labels] or [runs, rows].
        cost: What it cost, if that is known.
    """

    predictions: Mapping[str, Predictions]
    cost: Cost | None = None


def evaluate_methods(
    methods: Mapping[str, Method],
    truth: Mapping[str, Sequence[int] | Truth],
    *,
    target: str,
    baselines: Sequence[str],
    metrics: Sequence[str],
    settings: EvaluateSettings | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate every method on every split, and compare the target with each baseline on the same rows.

    The predicted label is the most probable one (the first of equals). Scores come from the ``evaluate`` metrics,
    intervals from a bootstrap over rows, or over groups of rows where the truth has groups, that all methods of a split
    share. A correlation is 0 where the truth or the predictions are constant, in a resample too.

    Args:
        methods: Name -> what it predicted. The target and the baselines on every split of ``truth``; another method
            may lack a split, and is not part of it then.
        truth: Split -> true label indices [rows], or a ``Truth``.
        target: The method whose gains are computed.
        baselines: The methods that it is compared with.
        metrics: Names of metrics; the first is the headline. All take the same: labels, label sets,
            spans, values or texts.
        settings: Confidence and number of resamples; None: the defaults.
        seed: Of the resampling.

    Raises:
        InputError: Unknown names, a missing split, metrics of different kinds, predictions of another kind or of the
            wrong shape, probabilities that are none, labels outside.
    """
    settings = settings or EvaluateSettings()
    if not metrics:
        raise InputError("no metric to evaluate")
    kinds = [known_metric(name) for name in dict.fromkeys(metrics)]
    if len({kind.takes for kind in kinds}) > 1:
        listed = ", ".join(f"{kind.name} takes {kind.takes}" for kind in kinds)
        raise InputError(f"the metrics of one evaluation must take the same predictions; {listed}")
    for name in (target, *baselines):
        known_name(name, methods, "method")
    if target in baselines:
        raise InputError(f"{target!r} is the target and cannot be its own baseline")
    if not truth:
        raise InputError("no split to evaluate")
    splits = {}
    for split, true in truth.items():
        of_rows = true if isinstance(true, Truth) else Truth(labels=true)
        predicted, labels = _predicted(methods, split, of_rows, kinds, required={target, *baselines})
        splits[split] = _evaluate_split(
            of_rows,
            predicted,
            _units(of_rows, kinds, [run for runs in predicted.values() for run in runs], labels),
            kinds=kinds,
            target=target,
            baselines=list(baselines),
            settings=settings,
            entropy=[seed, *split.encode()],
        )
    return Evaluation(
        target=target,
        baselines=tuple(baselines),
        metrics=tuple(kind.name for kind in kinds),
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=seed,
        costs={name: method.cost for name, method in methods.items() if method.cost is not None},
        splits=splits,
    )


def _evaluate_split(
    truth: Truth,
    predicted: dict[str, list[Any]],
    units: Units,
    *,
    kinds: list[MetricKind],
    target: str,
    baselines: list[str],
    settings: EvaluateSettings,
    entropy: list[int],
) -> SplitEvaluation:
    runs_of: dict[str, list[int]] = {}
    for name, runs in predicted.items():
        start = sum(len(others) for others in runs_of.values())
        runs_of[name] = list(range(start, start + len(runs)))
    draws = bootstrap(units, kinds, resamples=settings.resamples, generator=np.random.default_rng(entropy))
    modules = combined([kind.name for kind in kinds])
    true = kinds[0].of_truth(truth)
    groups = {"groups": truth.groups} if any(kind.grouped for kind in kinds) else {}
    values = {
        name: [modules.compute(predictions=run, references=true, **groups) for run in runs]
        for name, runs in predicted.items()
    }
    scores = {
        name: {
            kind.name: _score(
                [value[kind.name] for value in values[name]], draws[kind.name][:, runs_of[name]], settings.confidence
            )
            for kind in kinds
        }
        for name in predicted
    }
    gains = {
        name: {
            kind.name: _gain(
                units,
                kind,
                draws[kind.name],
                runs_of[target],
                runs_of[name],
                scores[target][kind.name],
                scores[name][kind.name],
                settings,
                np.random.default_rng([*entropy, *name.encode(), *kind.name.encode()]),
            )
            for kind in kinds
        }
        for name in baselines
    }
    return SplitEvaluation(rows=truth.rows, scores=scores, gains=gains)


def _score(runs: list[float], draws: Floats, confidence: float) -> MetricScore:
    low, high = percentile_interval(draws.mean(1), confidence)
    return MetricScore(value=float(np.mean(runs)), low=low, high=high, runs=tuple(runs), spread=_spread(runs))


def _gain(
    units: Units,
    kind: MetricKind,
    draws: Floats,
    target_runs: list[int],
    baseline_runs: list[int],
    target: MetricScore,
    baseline: MetricScore,
    settings: EvaluateSettings,
    generator: np.random.Generator,
) -> Gain:
    differences = draws[:, target_runs].mean(1) - draws[:, baseline_runs].mean(1)
    differences[np.abs(differences) < 1e-12] = 0.0
    low, high = percentile_interval(differences, settings.confidence)
    p_value = paired_permutation_test(
        units, kind, target_runs, baseline_runs, resamples=settings.resamples, generator=generator
    )
    count = max(len(target.runs), len(baseline.runs))
    runs = [target.runs[i % len(target.runs)] - baseline.runs[i % len(baseline.runs)] for i in range(count)]
    return Gain(
        difference=target.value - baseline.value,
        low=low,
        high=high,
        probability=float((differences > 0).mean()),
        p_value=p_value,
        certain=low > 0 and p_value <= (1 - settings.confidence) / 2,
        runs=tuple(runs),
        spread=_spread(runs),
    )


def _spread(runs: Sequence[float]) -> float | None:
    return float(np.std(runs, ddof=1)) if len(runs) > 1 else None


def _units(truth: Truth, kinds: Sequence[MetricKind], runs: list[Any], labels: int) -> Units:
    """What a resample of the split draws.

    Raises:
        InputError: The truth lacks what a metric compares with, there are no rows, or label indices lie outside.
    """
    true, *_ = (kind.of_truth(truth) for kind in kinds)
    unit = truth.group_of_row()
    if labels and true.ndim == 1:
        alike = group_rows(true, np.stack(runs), labels)
        return alike if unit is None else single_units(true, runs, unit, labels)
    return single_units(true, runs, unit, labels)


def _predicted(
    methods: Mapping[str, Method], split: str, truth: Truth, kinds: Sequence[MetricKind], *, required: set[str]
) -> tuple[dict[str, list[Any]], int]:
    """What every method predicted on the split, run by run, as the metrics compare it; and the number of labels.

    A run is label indices [rows], label sets [rows, labels], values [rows], a list of texts or a list of rows of spans;
    the number of labels is 0 for the latter three.
    """
    predicted: dict[str, list[Any]] = {}
    widths: dict[str, int] = {}
    rows = truth.rows
    for name, method in methods.items():
        if split not in method.predictions:
            if name not in required:
                continue
            raise InputError(f"method {name!r} has no predictions on split {split!r}")
        given, where = method.predictions[split], f"method {name!r}, split {split!r}"
        if kinds[0].takes == "texts":
            predicted[name], widths[name] = _text_runs(given, rows, where), 0
        elif kinds[0].takes == "spans":
            predicted[name], widths[name] = _span_runs(given, rows, where), 0
        elif kinds[0].takes == "values":
            predicted[name], widths[name] = list(_runs(given, rows, where, "values", axes=2)), 0
        elif kinds[0].takes == "label_sets":
            scores = _runs(given, rows, where, "scores", axes=3)
            if scores.min() < 0 or scores.max() > 1:
                raise InputError(f"{where}: the score of each label must lie in 0 to 1")
            if scores.shape[2] != (labels := kinds[0].of_truth(truth).shape[1]):
                raise InputError(f"{where}: scores of {scores.shape[2]} labels for true sets of {labels}")
            predicted[name], widths[name] = list((scores >= SET_FROM).astype(np.int64)), scores.shape[2]
        else:
            probabilities = _runs(given, rows, where, "probabilities", axes=3)
            if probabilities.min() < 0 or np.abs(probabilities.sum(-1) - 1).max() > 1e-3:
                raise InputError(f"{where}: each row's probabilities must be 0 or more and sum to 1")
            predicted[name], widths[name] = list(probabilities.argmax(-1)), probabilities.shape[2]
    if len(set(widths.values())) != 1:
        raise InputError(f"split {split!r}: the methods know different numbers of labels: {widths}")
    labels = next(iter(widths.values()))
    if labels:
        for kind in kinds:
            kind.check_labels(labels)
    return predicted, labels


def _runs(given: Any, rows: int, where: str, what: str, *, axes: int) -> Floats:
    """Numbers with an axis of runs before the one of rows."""
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {what} must be numbers, the same number of them in every row") from None
    if numbers.ndim == axes - 1:
        numbers = numbers[None]
    if numbers.ndim != axes or numbers.shape[1] != rows or 0 in numbers.shape:
        raise InputError(f"{where}: {what} of shape {numbers.shape} for {rows} rows")
    if not np.isfinite(numbers).all():
        raise InputError(f"{where}: some {what} are not finite")
    return numbers


def _text_runs(given: Any, rows: int, where: str) -> list[list[str]]:
    """Texts of every run, from those of one run or of several."""
    several = isinstance(given, Sequence) and len(given) > 0 and not isinstance(given[0], str)
    try:
        runs = [checked_texts(run) for run in (given if several else [given])]
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if not rows or any(len(run) != rows for run in runs):
        raise InputError(f"{where}: {' and '.join(str(len(run)) for run in runs)} texts for {rows} rows")
    return runs


def _span_runs(given: Any, rows: int, where: str) -> list[list[list[tuple[int, int, int]]]]:
    """Spans of every row of every run, from those of one run or of several."""
    try:
        # Of one run, what a row holds are spans, which begin with a number; of several, rows, which may be empty.
        item = next((item for one in given for item in one), (0,))
        several = not isinstance(item, str) and (not len(item) or not isinstance(item[0], int | float | np.number))
        runs = [checked_spans(run) for run in (given if several else [given])]
    except TypeError:
        raise InputError(f"{where}: spans must be a list for each row") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if not rows or any(len(run) != rows for run in runs):
        raise InputError(f"{where}: spans of {' and '.join(str(len(run)) for run in runs)} rows for {rows} rows")
    return runs
