"""PROMOTE, HOLD or REJECT, with a sentence for each thing that was looked at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beft.evaluation.bootstrap import percentile_interval
from beft.evaluation.promotion.rules import PromotionRules
from beft.evaluation.promotion.slices import MOST_VALUES
from beft.evaluation.records import Gain

Outcome = Literal["PROMOTE", "HOLD", "REJECT"]

_USUAL_RISK = 0.05
"""The risk of a wrong decision that the first decisions on a gate split may be taken at."""


@dataclass(frozen=True)
class Side:
    """One of the two versions, on the gate rows.

    Attributes:
        name: How the sentences call it.
        score: The headline metric.
        flips: Perturbation -> the share of changed texts whose answer changed.
        seconds_a_row: Median over repetitions; None: it was not measured.
        adapter_bytes: What its adapter takes on disk.
    """

    name: str
    score: float
    flips: Mapping[str, float]
    seconds_a_row: float | None
    adapter_bytes: int


@dataclass(frozen=True)
class SliceGain:
    """The challenger's share of right answers minus the champion's on a part of the rows, with a paired interval."""

    name: str
    rows: int
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class GateEvidence:
    """Everything that a verdict is made of; the champion's part is empty where there is none.

    Attributes:
        metric: The headline metric.
        rows: Rows of the gate split.
        floor: The least value of the metric.
        gain: The challenger's over the champion, on the same rows.
        decisions: How many decisions were taken on these rows before this one.
        labels_left_out: How many labels there are, where they are too many for a slice each; else 0.
        kind: What the rows are called: ``gate``, or ``labelled traffic``.
    """

    metric: str
    rows: int
    challenger: Side
    floor: float
    decisions: int
    champion: Side | None = None
    gain: Gain | None = None
    slices: Sequence[SliceGain] = ()
    labels_left_out: int = 0
    kind: str = "gate"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what it says for the challenger, and why."""

    name: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The decision: the worst of its checks."""

    outcome: Outcome
    checks: tuple[Check, ...] = field(default=())

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences that decided; all of them where the challenger is promoted."""
        deciding = [check.reason for check in self.checks if check.outcome == self.outcome]
        return tuple(deciding)

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return {
            "outcome": self.outcome,
            "checks": [{"name": check.name, "outcome": check.outcome, "reason": check.reason} for check in self.checks],
        }


def judge(evidence: GateEvidence, rules: PromotionRules) -> Verdict:
    """Decide. A tie holds; what is certainly worse, or breaks a limit, is rejected."""
    checks = [_floor(evidence), *_gain(evidence, rules), *_slices(evidence, rules), *_flips(evidence, rules)]
    checks += [*_latency(evidence, rules), _size(evidence, rules), _spent(evidence, rules)]
    outcomes = {check.outcome for check in checks}
    worst: Outcome = "REJECT" if "REJECT" in outcomes else "HOLD" if "HOLD" in outcomes else "PROMOTE"
    return Verdict(worst, tuple(checks))


def slice_gain(
    name: str,
    challenger: NDArray[np.bool_],
    champion: NDArray[np.bool_],
    *,
    groups: Sequence[str] | None = None,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
) -> SliceGain:
    """Compare right answers on the rows of a slice, by a bootstrap over rows, or over groups of rows.

    Args:
        challenger: Whether it was right, [rows of the slice].
        champion: The same of the champion.
        groups: What each row belongs to [rows of the slice]; rows of one group are drawn together. None: every row
            stands for itself.
    """
    rows = len(challenger)
    better = challenger.astype(np.int64) - champion
    unit = np.arange(rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    of_units = np.stack([np.bincount(unit, better), np.bincount(unit)]).astype(np.int64)
    # Units that gain equally much on equally many rows are alike: a resample draws how many of each kind there are.
    (gained, size), counts = np.unique(of_units, axis=1, return_counts=True)
    drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    low, high = percentile_interval((drawn @ gained) / (drawn @ size), confidence)
    return SliceGain(name, rows, int(better.sum()) / rows, low, high)


def _floor(evidence: GateEvidence) -> Check:
    score, floor = evidence.challenger.score, evidence.floor
    said = f"{evidence.metric} {_points(score)} on {evidence.rows:,} {evidence.kind} rows, floor {_points(floor)}"
    return Check("floor", "PROMOTE" if score >= floor else "REJECT", said)


def _gain(evidence: GateEvidence, rules: PromotionRules) -> list[Check]:
    gain, champion = evidence.gain, evidence.champion
    if gain is None or champion is None:
        return []
    said = (
        f"{evidence.metric} {_signed(gain.difference)} against {champion.name} "
        f"({100 * rules.confidence:g} % interval {_signed(gain.low)} to {_signed(gain.high)}, p = {gain.p_value:.4f})"
    )
    if gain.certain:
        return [Check("gain", "PROMOTE", f"{said}: a certain gain")]
    if gain.high < 0:
        return [Check("gain", "REJECT", f"{said}: certainly worse")]
    return [Check("gain", "HOLD", f"{said}: no certain gain")]


def _slices(evidence: GateEvidence, rules: PromotionRules) -> list[Check]:
    checks = []
    for found in evidence.slices:
        said = (
            f"{found.name} ({found.rows:,} rows): right answers {_signed(found.difference)} "
            f"({_signed(found.low)} to {_signed(found.high)}), {_points(rules.slice_margin)} less are let pass"
        )
        outcome: Outcome = "PROMOTE"
        if found.rows < rules.slice_rows:
            said += f"; too few rows to judge (fewer than {rules.slice_rows})"
        elif found.difference < -rules.slice_margin:
            outcome = "REJECT" if found.high < 0 else "HOLD"
        checks.append(Check(f"slice {found.name}", outcome, said))
    if evidence.labels_left_out:
        said = f"the {evidence.labels_left_out} labels are not looked at one by one: at most {MOST_VALUES} are"
        checks.append(Check("slice label", "PROMOTE", said))
    return checks


def _flips(evidence: GateEvidence, rules: PromotionRules) -> list[Check]:
    checks = []
    for name, most in rules.flips.items():
        if name not in evidence.challenger.flips:  # it was not measured on these rows
            continue
        rate = evidence.challenger.flips[name]
        said = f"{name}: {100 * rate:.1f} % of the answers change, at most {100 * most:g} % may"
        if evidence.champion is not None:
            said += f" ({evidence.champion.name}: {100 * evidence.champion.flips[name]:.1f} %)"
        checks.append(Check(f"behaviour {name}", "PROMOTE" if rate <= most else "REJECT", said))
    return checks


def _latency(evidence: GateEvidence, rules: PromotionRules) -> list[Check]:
    if evidence.champion is None:
        return []
    ours, theirs = evidence.challenger.seconds_a_row, evidence.champion.seconds_a_row
    if ours is None or theirs is None:
        return []
    ratio = ours / theirs
    said = (
        f"{1000 * ours:.2f} ms a row, {ratio:.2f} times that of {evidence.champion.name}; at most "
        f"{rules.latency_ratio:g} times is tolerated"
    )
    return [Check("latency", "PROMOTE" if ratio <= rules.latency_ratio else "HOLD", said)]


def _size(evidence: GateEvidence, rules: PromotionRules) -> Check:
    kilobytes = evidence.challenger.adapter_bytes / 1000
    said = f"{kilobytes:,.1f} kB on disk, at most {rules.adapter_kilobytes:,g} kB"
    return Check("size", "PROMOTE" if kilobytes <= rules.adapter_kilobytes else "REJECT", said)


def _spent(evidence: GateEvidence, rules: PromotionRules) -> Check:
    """Each further score of decisions on the same rows asks for half, a third, … of the usual risk."""
    needed = 1 - _USUAL_RISK / (1 + evidence.decisions // rules.decisions_on_gate)
    needed = math.ceil(round(1e5 * needed, 4)) / 1e5  # what the message says is enough
    said = f"{evidence.decisions} decisions were taken on these {evidence.kind} rows before"
    if rules.confidence >= needed:
        return Check("gate", "PROMOTE", said)
    return Check(
        "gate",
        "HOLD",
        f"{said}: they have begun to choose by their own chance; bring fresh rows (a new version of the data, or "
        f"split.gate_rows), or decide at promotion.confidence {needed:g} or more",
    )


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"
