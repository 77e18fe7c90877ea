"""The verdict on a challenger: what promotes, what holds, what rejects (laws 9 and 11)."""

import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import binomtest

from beft.evaluation.promotion.rules import PromotionRules
from beft.evaluation.promotion.verdict import GateEvidence, Side, SliceGain, Verdict, judge, slice_gain
from beft.evaluation.records import Gain
from beft.evaluation.scores import Method, evaluate_methods
from beft.settings import EvaluateSettings

RULES = PromotionRules()
CALM = {"case": 0.01, "punctuation": 0.02, "names": 0.0}


@lru_cache
def gain(right_of_challenger: int, right_of_champion: int, rows: int = 400) -> Gain:
    """The gain on rows of which the first so many are right."""
    truth = np.arange(rows) % 2

    def predicted(right: int) -> np.ndarray:
        return np.eye(2)[np.where(np.arange(rows) < right, truth, 1 - truth)]

    right = {"new": right_of_challenger, "old": right_of_champion}
    found = evaluate_methods(
        {name: Method({"gate": predicted(count)}) for name, count in right.items()},
        {"gate": truth.tolist()},
        target="new",
        baselines=["old"],
        metrics=["accuracy"],
        settings=EvaluateSettings(resamples=500),
    )
    return found.splits["gate"].gains["old"]["accuracy"]


def evidence(right: int = 340, against: int = 300, **changes: object) -> GateEvidence:
    """A challenger that is right on so many of 400 rows, and a champion."""
    found = GateEvidence(
        metric="accuracy",
        rows=400,
        challenger=Side("version 3", right / 400, CALM, 0.01, 12_000),
        floor=0.5,
        decisions=0,
        champion=Side("version 2", against / 400, CALM, 0.01, 12_000),
        gain=gain(right, against),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def outcome_of(verdict: Verdict, name: str) -> str:
    return next(check.outcome for check in verdict.checks if check.name == name)


def test_a_certain_gain_that_breaks_no_rule_promotes() -> None:
    verdict = judge(evidence(), RULES)
    assert verdict.outcome == "PROMOTE"
    assert any("+10.0" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("right", [300, 302])
def test_a_tie_and_a_gain_that_may_be_chance_hold(right: int) -> None:
    verdict = judge(evidence(right=right), RULES)
    assert verdict.outcome == "HOLD"
    assert outcome_of(verdict, "gain") == "HOLD"
    assert any("no certain gain" in reason for reason in verdict.reasons)


def test_what_is_certainly_worse_is_rejected() -> None:
    assert judge(evidence(right=260), RULES).outcome == "REJECT"


def test_a_floor_is_absolute() -> None:
    verdict = judge(evidence(floor=0.86), RULES)
    assert verdict.outcome == "REJECT"
    assert [check.name for check in verdict.checks if check.outcome == "REJECT"] == ["floor"]


@pytest.mark.parametrize(
    ("rows", "difference", "high", "outcome"),
    [
        (100, -0.04, 0.01, "PROMOTE"),  # within the margin
        (100, -0.08, 0.01, "HOLD"),  # beyond it, perhaps by chance
        (100, -0.20, -0.05, "REJECT"),  # beyond it for certain
        (20, -0.50, -0.2, "PROMOTE"),  # too few rows to say
    ],
)
def test_no_slice_may_pay_for_the_gain(rows: int, difference: float, high: float, outcome: str) -> None:
    found = SliceGain("length=long", rows, difference, difference - 0.05, high)
    assert judge(evidence(slices=[found]), RULES).outcome == outcome


def test_answers_that_change_without_a_reason_reject() -> None:
    jumpy = Side("version 3", 0.85, {**CALM, "case": 0.11}, 0.01, 12_000)
    verdict = judge(evidence(challenger=jumpy), RULES)
    assert verdict.outcome == "REJECT"
    assert outcome_of(verdict, "behaviour case") == "REJECT"
    assert outcome_of(verdict, "behaviour names") == "PROMOTE"


def test_slow_holds_and_large_rejects() -> None:
    slow = Side("version 3", 0.85, CALM, 0.0151, 12_000)
    assert judge(evidence(challenger=slow), RULES).outcome == "HOLD"
    large = Side("version 3", 0.85, CALM, 0.01, 2_000_001)
    assert judge(evidence(challenger=large), RULES).outcome == "REJECT"


@pytest.mark.parametrize(
    ("decisions", "confidence", "outcome"),
    [(19, 0.95, "PROMOTE"), (20, 0.95, "HOLD"), (20, 0.975, "PROMOTE"), (40, 0.975, "HOLD"), (40, 0.99, "PROMOTE")],
)
def test_after_twenty_decisions_fresh_rows_or_a_stricter_level(decisions: int, confidence: float, outcome: str) -> None:
    rules = PromotionRules(confidence=confidence)
    verdict = judge(evidence(decisions=decisions), rules)
    assert verdict.outcome == outcome
    if outcome == "HOLD":
        assert "fresh rows" in verdict.reasons[0]


@pytest.mark.parametrize("decisions", [20, 40, 60, 100, 700, 5_000])
def test_the_level_that_the_message_names_is_enough(decisions: int) -> None:
    named = re.search(r"promotion\.confidence (0\.\d+)", judge(evidence(decisions=decisions), RULES).reasons[0])
    assert named
    assert judge(evidence(decisions=decisions), PromotionRules(confidence=float(named[1]))).outcome == "PROMOTE"


def test_without_a_champion_only_the_challenger_is_looked_at() -> None:
    alone = evidence(champion=None, gain=None)
    verdict = judge(alone, RULES)
    assert verdict.outcome == "PROMOTE"
    assert {check.name for check in verdict.checks}.isdisjoint({"gain", "latency"})


def test_the_interval_of_a_slice_is_that_of_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    new, old = rng.random(200) < 0.8, rng.random(200) < 0.7
    found = slice_gain("all", new, old, confidence=0.95, resamples=20_000, generator=np.random.default_rng(1))
    assert found.difference == pytest.approx(new.mean() - old.mean())
    picked = rng.integers(0, 200, size=(20_000, 200))
    drawn = new[picked].mean(1) - old[picked].mean(1)
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.011)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.011)


def test_rows_of_one_group_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(1, 9, size=40)
    groups = np.repeat(np.arange(40), size)
    new = np.repeat(rng.random(40) < 0.6, size)  # the answers of a group are right or wrong together
    old = np.repeat(rng.random(40) < 0.5, size)
    names = [f"q{group}" for group in groups]
    settled = {"confidence": 0.95, "resamples": 20_000}
    found = slice_gain("all", new, old, groups=names, **settled, generator=np.random.default_rng(1))
    picked = rng.integers(0, 40, size=(20_000, 40))
    of_group = np.array([(new[groups == one].astype(int) - old[groups == one]).sum() for one in range(40)])
    drawn = of_group[picked].sum(1) / size[picked].sum(1)
    assert found.difference == pytest.approx(new.mean() - old.mean())
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.011)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.011)
    by_rows = slice_gain("all", new, old, **settled, generator=np.random.default_rng(1))
    assert by_rows.high - by_rows.low < 0.6 * (found.high - found.low)


def test_rejecting_a_slice_agrees_with_a_sign_test() -> None:
    new = np.array([False] * 30 + [True] * 70)
    old = np.array([True] * 28 + [False] * 2 + [True] * 70)
    found = slice_gain("label=x", new, old, confidence=0.95, resamples=5_000, generator=np.random.default_rng(0))
    assert found.high < 0
    assert binomtest(0, 28).pvalue < 0.001


def test_labels_that_are_left_out_are_said_and_hold_nothing_up() -> None:
    verdict = judge(evidence(labels_left_out=25), RULES)
    assert verdict.outcome == "PROMOTE"
    assert "the 25 labels are not looked at one by one: at most 20 are" in verdict.reasons
