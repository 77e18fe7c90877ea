"""What an evaluation found: scores, gains, costs and the decision, as data."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, FiniteFloat

from beft.names import known_name

NO_GATE = "no rows are kept for a gate: there are too few for one (fewer than 200), or split.gate_rows is 0"
"""Why nothing is decided."""


class Record(BaseModel):
    """A part of the result: typed, immutable, without NaN, and plain JSON on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cost(Record):
    """What a method cost to train and takes to store.

    Attributes:
        seconds: Wall time of the training; None: it was interrupted, and how long all of it took is not known.
    """

    trainable_parameters: int
    seconds: FiniteFloat | None
    peak_memory_bytes: int | None = None
    bias_bytes: int = 0
    head_bytes: int = 0


class MetricScore(Record):
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
    scores: dict[str, dict[str, MetricScore]]
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

    @property
    def has_gate(self) -> bool:
        """Whether rows were kept for the decision."""
        return "gate" in self.splits

    def decision(self, split: str = "gate") -> Decision:
        """Decide by the headline metric whether the target's gain over EACH baseline is certain.

        Demanding it of each baseline needs no correction for their number: all must be beaten, so the risk of a wrong
        "passed" is at most that of a single comparison. Without a baseline or a gate nothing passes.

        Raises:
            InputError: The split was not evaluated.
        """
        metric = self.metrics[0]
        if split == "gate" and not self.has_gate:
            return Decision(split=split, metric=metric, passed=False, reasons=(NO_GATE,))
        gains = self.splits[known_name(split, self.splits, "split")].gains
        reasons = [_sentence(metric, name, gains[name][metric], self.confidence) for name in self.baselines]
        passed = bool(reasons) and all(gains[name][metric].certain for name in self.baselines)
        return Decision(split=split, metric=metric, passed=passed, reasons=tuple(reasons or ["there is no baseline"]))


def _sentence(metric: str, baseline: str, gain: Gain, confidence: float) -> str:
    verdict = "certain" if gain.certain else "not certain"
    return (
        f"{metric}: {100 * gain.difference:+.2f} points over {baseline} ({100 * confidence:g} % interval "
        f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f}, p = {gain.p_value:.4f}): {verdict}"
    )
