"""The evaluation: every metric of every method with an interval, and the target's gain over each baseline.

Predictions are made once, as probabilities; everything here is computed from them, in memory. The intervals are over
rows, for the runs (seeds) at hand; the spread over runs stands beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat

from beft.bootstrap import Units, bootstrap, exchange_test, group_rows, percentile_interval
from beft.errors import InputError
from beft.metrics import MetricKind, combined, known_metric
from beft.names import known_name
from beft.settings import EvaluateSettings

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Record(BaseModel):
    """A part of the result: typed, immutable, without NaN, and plain JSON on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cost(Record):
    """What a method cost to train and takes to store."""

    trainable_parameters: int
    seconds: FiniteFloat
    peak_memory_bytes: int | None = None
    bias_bytes: int = 0
    head_bytes: int = 0


class Score(Record):
    """A metric of one method on one split: the mean over its runs, and the interval over rows.

    Attributes:
        runs: The value of every run (seed).
        spread: The standard deviation over runs; none for a single run.
    """

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    runs: tuple[FiniteFloat, ...]
    spread: FiniteFloat | None = None


class Gain(Record):
    """How much better the target is than a baseline on the same rows.

    Attributes:
        difference: The target's metric minus the baseline's.
        low: Lower end of its interval.
        high: Upper end of its interval.
        probability: The share of resamples in which the target is better; a tie is no gain.
        p_value: One-sided, of the exchange test.
        certain: The interval lies above zero AND the exchange test agrees at the same confidence.
        runs: The difference of every run (seed by seed).
        spread: The standard deviation over runs; none for a single run.
    """

    difference: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    probability: FiniteFloat
    p_value: FiniteFloat
    certain: bool
    runs: tuple[FiniteFloat, ...]
    spread: FiniteFloat | None = None


class SplitEvaluation(Record):
    """One split: scores by method and metric, gains by baseline and metric."""

    rows: int
    scores: dict[str, dict[str, Score]]
    gains: dict[str, dict[str, Gain]]


class Decision(Record):
    """Whether the target beats every baseline for certain, and one sentence a baseline that says by how much."""

    split: str
    metric: str
    passed: bool
    reasons: tuple[str, ...]


class Evaluation(Record):
    """The whole result; ``metrics[0]`` is the headline metric."""

    target: str
    baselines: tuple[str, ...]
    metrics: tuple[str, ...]
    confidence: FiniteFloat
    resamples: int
    seed: int
    costs: dict[str, Cost]
    splits: dict[str, SplitEvaluation]

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON value."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave."""
        return cls.model_validate(value)

    def decision(self, split: str = "gate") -> Decision:
        """Decide by the headline metric whether the target's gain over EACH baseline is certain.

        Demanding it of each baseline needs no correction for their number: all must be beaten, so the risk of a wrong
        "passed" is at most that of a single comparison. Without a baseline nothing passes.

        Raises:
            InputError: The split was not evaluated.
        """
        gains = self.splits[known_name(split, self.splits, "split")].gains
        metric = self.metrics[0]
        reasons = [_sentence(metric, name, gains[name][metric], self.confidence) for name in self.baselines]
        passed = bool(reasons) and all(gains[name][metric].certain for name in self.baselines)
        return Decision(split=split, metric=metric, passed=passed, reasons=tuple(reasons or ["there is no baseline"]))


@dataclass(frozen=True)
class Method:
    """What one method predicted.

    Attributes:
        probabilities: Split -> probability of every label, [rows, labels], or [runs, rows, labels] for several seeds.
        cost: What it cost, if that is known.
    """

    probabilities: Mapping[str, ArrayLike]
    cost: Cost | None = None


def evaluate_methods(
    methods: Mapping[str, Method],
    truth: Mapping[str, Sequence[int]],
    *,
    target: str,
    baselines: Sequence[str],
    metrics: Sequence[str],
    settings: EvaluateSettings | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate every method on every split, and compare the target with each baseline on the same rows.

    The predicted label is the most probable one (the first of equals). Values come from the ``evaluate`` metrics,
    intervals from a bootstrap over rows that all methods of a split share.

    Args:
        methods: Name -> what it predicted. The target and the baselines on every split of ``truth``; another method
            may lack a split, and is not part of it then.
        truth: Split -> true label indices [rows].
        target: The method whose gains are computed.
        baselines: The methods that it is compared with.
        metrics: Names of metrics; the first is the headline.
        settings: Confidence and number of resamples; none: the defaults.
        seed: Of the resampling.

    Raises:
        InputError: Unknown names, a missing split, probabilities that are none or of the wrong shape, labels outside.
    """
    settings = settings or EvaluateSettings()
    if not metrics:
        raise InputError("no metric to evaluate")
    kinds = [known_metric(name) for name in dict.fromkeys(metrics)]
    for name in (target, *baselines):
        known_name(name, methods, "method")
    if target in baselines:
        raise InputError(f"{target!r} is the target and cannot be its own baseline")
    if not truth:
        raise InputError("no split to evaluate")
    splits = {}
    for split, labels_of_rows in truth.items():
        true = np.asarray(labels_of_rows, dtype=np.int64)
        predicted, labels = _predicted_labels(methods, split, len(true), required={target, *baselines})
        for kind in kinds:
            kind.check_labels(labels)
        splits[split] = _evaluate_split(
            true,
            predicted,
            labels,
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
    truth: Integers,
    predicted: dict[str, Integers],
    labels: int,
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
    groups = group_rows(truth, np.concatenate(list(predicted.values())), labels)
    draws = bootstrap(groups, kinds, resamples=settings.resamples, generator=np.random.default_rng(entropy))
    modules = combined([kind.name for kind in kinds])
    values = {
        name: [modules.compute(predictions=run, references=truth) for run in runs] for name, runs in predicted.items()
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
                groups,
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
    return SplitEvaluation(rows=len(truth), scores=scores, gains=gains)


def _score(runs: list[float], draws: Floats, confidence: float) -> Score:
    low, high = percentile_interval(draws.mean(1), confidence)
    return Score(value=float(np.mean(runs)), low=low, high=high, runs=tuple(runs), spread=_spread(runs))


def _gain(
    groups: Units,
    kind: MetricKind,
    draws: Floats,
    target_runs: list[int],
    baseline_runs: list[int],
    target: Score,
    baseline: Score,
    settings: EvaluateSettings,
    generator: np.random.Generator,
) -> Gain:
    differences = draws[:, target_runs].mean(1) - draws[:, baseline_runs].mean(1)
    differences[np.abs(differences) < 1e-12] = 0.0
    low, high = percentile_interval(differences, settings.confidence)
    p_value = exchange_test(groups, kind, target_runs, baseline_runs, resamples=settings.resamples, generator=generator)
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


def _predicted_labels(
    methods: Mapping[str, Method], split: str, rows: int, *, required: set[str]
) -> tuple[dict[str, Integers], int]:
    """The predicted label of every method on the split, run and row [runs, rows], and the number of labels."""
    predicted: dict[str, Integers] = {}
    widths: dict[str, int] = {}
    for name, method in methods.items():
        if split not in method.probabilities:
            if name not in required:
                continue
            raise InputError(f"method {name!r} has no predictions on split {split!r}")
        probabilities = np.asarray(method.probabilities[split], dtype=np.float64)
        if probabilities.ndim == 2:
            probabilities = probabilities[None]
        where = f"method {name!r}, split {split!r}"
        if probabilities.ndim != 3 or probabilities.shape[1] != rows or 0 in probabilities.shape:
            raise InputError(f"{where}: probabilities of shape {probabilities.shape} for {rows} rows")
        if not np.isfinite(probabilities).all():
            raise InputError(f"{where}: some probabilities are not finite")
        if probabilities.min() < 0 or np.abs(probabilities.sum(-1) - 1).max() > 1e-3:
            raise InputError(f"{where}: each row's probabilities must be 0 or more and sum to 1")
        predicted[name] = probabilities.argmax(-1)
        widths[name] = probabilities.shape[2]
    if len(set(widths.values())) != 1:
        raise InputError(f"split {split!r}: the methods know different numbers of labels: {widths}")
    return predicted, next(iter(widths.values()))


def _sentence(metric: str, baseline: str, gain: Gain, confidence: float) -> str:
    verdict = "certain" if gain.certain else "not certain"
    return (
        f"{metric}: {100 * gain.difference:+.2f} points over {baseline} ({100 * confidence:g} % interval "
        f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f}, p = {gain.p_value:.4f}): {verdict}"
    )
