"""Two-sample tests: exact where a closed form is known, uniform p-values on equal samples, alarms on shifted ones."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest

from beft.evaluation import drift
from beft.evaluation.drift import compare_features, compare_labels, compare_numbers, holm

RANDOM = np.random.default_rng(0)


def test_distances_by_hand() -> None:
    labels = compare_labels("x", [0, 0, 1, 1], [0, 1, 1, 1], permutations=10, generator=RANDOM)
    assert labels.statistic == pytest.approx(0.25)
    assert (labels.reference, labels.current) in ((0.5, 0.75), (0.5, 0.25))
    first, second = RANDOM.normal(size=80), RANDOM.normal(0.3, size=50)
    numbers = compare_numbers("x", first, second, permutations=10, generator=RANDOM)
    assert numbers.statistic == pytest.approx(ks_2samp(first, second).statistic)
    assert numbers.rows == (80, 50)


def test_the_discrepancy_is_that_of_two_loops() -> None:
    first, second = RANDOM.normal(size=(7, 3)), RANDOM.normal(1, size=(5, 3))
    found = compare_features("x", first, second, permutations=10, generator=RANDOM)
    pooled = np.concatenate([first, second])
    squared = [((one - other) ** 2).sum() for one, other in combinations(pooled, 2)]
    width = np.median(squared)

    def mean(side: np.ndarray, other: np.ndarray | None) -> float:
        pairs = [(a, b) for a in side for b in other] if other is not None else list(combinations(side, 2))
        return float(np.mean([np.exp(-((a - b) ** 2).sum() / width) for a, b in pairs]))

    assert found.statistic == pytest.approx(mean(first, None) + mean(second, None) - 2 * mean(first, second))


def test_the_p_value_is_the_share_of_all_divisions(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = [0, 0, 0, 1], [1, 1, 1]
    values = np.array([*first, *second])
    real = abs(np.mean(second) - np.mean(first))
    divisions = list(combinations(range(7), 3))
    far = 0
    for chosen in divisions:
        rest = [at for at in range(7) if at not in chosen]
        far += abs(values[list(chosen)].mean() - values[rest].mean()) >= real - 1e-12
    monkeypatch.setattr(drift, "_ENOUGH", 10**9)  # drawn to the end
    found = compare_labels("x", first, second, permutations=40_000, generator=np.random.default_rng(1))
    assert found.p_value == pytest.approx(far / len(divisions), abs=0.01)
    features = compare_features(
        "x",
        np.array(first)[:, None],
        np.array(second)[:, None],
        permutations=20_000,
        generator=np.random.default_rng(1),
    )
    assert features.p_value == pytest.approx(far / len(divisions), abs=0.02)


@pytest.mark.parametrize("kind", ["labels", "numbers", "features"])
def test_equal_samples_alarm_as_often_as_allowed(kind: str) -> None:
    random = np.random.default_rng(3)
    found = []
    for _ in range(300):
        if kind == "labels":
            sides = [random.integers(0, 3, rows) for rows in (60, 40)]
            found.append(compare_labels("x", *sides, permutations=199, generator=random).p_value)
        elif kind == "numbers":
            sides = [random.normal(size=rows) for rows in (60, 40)]
            found.append(compare_numbers("x", *sides, permutations=199, generator=random).p_value)
        else:
            sides = [random.normal(size=(rows, 4)) for rows in (30, 20)]
            found.append(compare_features("x", *sides, permutations=99, generator=random).p_value)
    assert np.mean(np.array(found) <= 0.05) < 0.09
    if kind != "labels":  # their p-values are nearly continuous
        assert kstest(found, "uniform").pvalue > 1e-3


def test_shifts_are_seen() -> None:
    random = np.random.default_rng(4)
    how = {"permutations": 999, "generator": random}
    assert compare_labels("x", random.integers(0, 2, 300), np.zeros(300), **how).p_value == 0.001  # type: ignore[arg-type]
    assert compare_numbers("x", random.normal(size=300), random.normal(1, size=300), **how).p_value == 0.001  # type: ignore[arg-type]
    sides = [random.normal(shift, size=(200, 16)) for shift in (0, 0.5)]
    assert compare_features("x", *sides, **how).p_value == 0.001  # type: ignore[arg-type]


def test_permutations_end_early_where_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [RANDOM.normal(size=200) for _ in range(2)]
    short = compare_numbers("x", *sides, permutations=10**6, generator=np.random.default_rng(2))
    monkeypatch.setattr(drift, "_ENOUGH", 10**9)
    long = compare_numbers("x", *sides, permutations=20_000, generator=np.random.default_rng(3))
    # The standard error of a p-value of twenty hits is about 22 % of it.
    assert short.p_value == pytest.approx(long.p_value, rel=0.8)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.04, 0.001], 0.05) == [True, True]
    assert holm([], 0.05) == []
