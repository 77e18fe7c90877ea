"""The bootstrap against plain resampling of rows, SciPy, exact tests, and its coverage on simulated data."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, kstest
from sklearn.metrics import f1_score, matthews_corrcoef

from beft.errors import InputError
from beft.evaluation.bootstrap import (
    bootstrap,
    group_rows,
    metric_values,
    paired_permutation_test,
    percentile_interval,
)
from beft.metrics.registry import METRICS

NAMES = ("accuracy", "f1", "macro_f1", "matthews")
KINDS = [METRICS[name] for name in NAMES]


def simulated(rows: int, generator: np.random.Generator, labels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """True labels [rows] and the predictions of two methods that are right in three of four rows [2, rows]."""
    truth = generator.integers(0, labels, rows)
    wrong = (truth + generator.integers(1, labels, (2, rows))) % labels
    return truth, np.where(generator.random((2, rows)) < 0.75, truth, wrong)


def test_grouping_loses_no_row() -> None:
    truth, predicted = simulated(500, np.random.default_rng(0), labels=3)
    groups = group_rows(truth, predicted, 3)
    assert groups.total == 500
    assert len(groups.counts) <= 3**3
    for row in range(500):
        alike = (groups.truth == truth[row]) & (np.array(groups.predicted) == predicted[:, [row]]).all(0)
        assert groups.counts[alike].tolist() == [
            int(((truth == truth[row]) & (predicted == predicted[:, [row]]).all(0)).sum())
        ]


def test_groups_resample_like_rows() -> None:
    """The distribution of every metric is that of drawing row indices and asking scikit-learn."""
    generator = np.random.default_rng(1)
    truth, predicted = simulated(60, generator)
    draws = bootstrap(group_rows(truth, predicted, 2), KINDS, resamples=20_000, generator=np.random.default_rng(2))
    functions = {
        "accuracy": lambda t, p: float((t == p).mean()),
        "f1": f1_score,
        "macro_f1": lambda t, p: f1_score(t, p, average="macro"),
        "matthews": matthews_corrcoef,
    }
    index = generator.integers(0, 60, (150, 60))
    for name, function in functions.items():
        by_rows = np.array([function(truth[rows], predicted[0][rows]) for rows in index])
        differences = by_rows - np.array([function(truth[rows], predicted[1][rows]) for rows in index])
        assert kstest(by_rows, draws[name][:, 0]).pvalue > 1e-3, name
        assert kstest(differences, draws[name][:, 0] - draws[name][:, 1]).pvalue > 1e-3, name


def test_accuracy_interval_is_the_binomial_one() -> None:
    """A resampled accuracy is a binomial share, so its percentiles are known."""
    truth = np.ones(200, dtype=int)
    predicted = (np.arange(200) < 150).astype(int)[None]
    draws = bootstrap(
        group_rows(truth, predicted, 2), [METRICS["accuracy"]], resamples=100_000, generator=np.random.default_rng(0)
    )
    low, high = percentile_interval(draws["accuracy"][:, 0], 0.95)
    assert low == pytest.approx(binom.ppf(0.025, 200, 0.75) / 200, abs=0.0051)
    assert high == pytest.approx(binom.ppf(0.975, 200, 0.75) / 200, abs=0.0051)


def test_the_interval_is_seeded_and_does_not_depend_on_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, predicted = simulated(100, np.random.default_rng(5))
    groups = group_rows(truth, predicted, 2)

    def draw(seed: int) -> dict[str, np.ndarray]:
        return bootstrap(groups, KINDS, resamples=500, generator=np.random.default_rng(seed))

    whole, p_whole = (
        draw(7),
        paired_permutation_test(groups, KINDS[0], [0], [1], resamples=500, generator=np.random.default_rng(7)),
    )
    monkeypatch.setattr("beft.evaluation.bootstrap._NUMBERS_AT_ONCE", 100)
    portions, p_portions = (
        draw(7),
        paired_permutation_test(groups, KINDS[0], [0], [1], resamples=500, generator=np.random.default_rng(7)),
    )
    for name in NAMES:
        assert np.array_equal(whole[name], portions[name])
        assert not np.array_equal(whole[name], draw(8)[name])
    assert p_whole == p_portions


def test_percentiles_are_taken_outwards() -> None:
    values = np.arange(101) / 100
    assert percentile_interval(values, 0.95) == (0.02, 0.98)
    assert percentile_interval(np.full(50, 0.5), 0.95) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("rows", "prior", "right", "other"),
    [(200, 0.5, (0.8, 0.7), (0.75, 0.65)), (150, 0.3, (0.85, 0.6), (0.85, 0.6))],
    ids=["balanced", "skewed"],
)
def test_coverage(rows: int, prior: float, right: tuple[float, float], other: tuple[float, float]) -> None:
    """Intervals of 95 % hold the true value in 95 % of simulated data sets, within four binomial standard errors."""
    generator = np.random.default_rng(11)
    cells = list(itertools.product((0, 1), (0, 1), (0, 1)))
    shares = []
    for truth, *predictions in cells:
        share = prior if truth else 1 - prior
        for predicted, rates in zip(predictions, (right, other), strict=True):
            share *= rates[truth] if predicted == truth else 1 - rates[truth]
        shares.append(share)
    truth, predicted = np.array(cells).T[0], np.array(cells).T[1:]
    # The true values: those of a population so large that its shares are exact.
    population = group_rows(truth, predicted, 2)
    true_values = {kind.name: metric_values(population, kind, np.array(shares)) for kind in KINDS}
    repetitions = 400
    held = {(name, what): 0 for name in NAMES for what in ("value", "difference")}
    for _ in range(repetitions):
        sample = np.repeat(np.arange(8), generator.multinomial(rows, shares))
        groups = group_rows(truth[sample], predicted[:, sample], 2)
        draws = bootstrap(groups, KINDS, resamples=400, generator=generator)
        for name, values in draws.items():
            target = true_values[name]
            low, high = percentile_interval(values[:, 0], 0.95)
            held[name, "value"] += int(low <= target[0] <= high)
            low, high = percentile_interval(values[:, 0] - values[:, 1], 0.95)
            held[name, "difference"] += int(low - 1e-12 <= target[0] - target[1] <= high + 1e-12)
    allowed = 4 * math.sqrt(0.95 * 0.05 / repetitions)
    for case, count in held.items():
        assert abs(count / repetitions - 0.95) < allowed, (case, count / repetitions)


@pytest.mark.parametrize(("better", "worse", "same"), [(30, 14, 100), (9, 2, 40), (5, 0, 15), (4, 0, 500), (3, 3, 9)])
def test_exchange_test_of_accuracy_is_the_exact_sign_test(better: int, worse: int, same: int) -> None:
    rows = better + worse + same
    predicted = np.ones((2, rows), dtype=int)
    predicted[1, :better] = 0
    predicted[0, better : better + worse] = 0
    groups = group_rows(np.ones(rows, dtype=int), predicted, 2)
    found = paired_permutation_test(
        groups, METRICS["accuracy"], [0], [1], resamples=50_000, generator=np.random.default_rng(0)
    )
    exact = binomtest(better, better + worse, alternative="greater").pvalue
    assert found == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 50_000) + 2e-5)


def test_false_gains_are_as_rare_as_promised() -> None:
    """Two equally good methods, few rows that differ: a gain is called certain in at most 2.5 % of data sets."""
    generator = np.random.default_rng(3)
    repetitions, by_interval, by_both = 600, 0, 0
    kind = METRICS["matthews"]
    for _ in range(repetitions):
        truth = generator.integers(0, 2, 60)
        shared = np.where(generator.random(60) < 0.8, truth, 1 - truth)
        predicted = np.where(generator.random((2, 60)) < 0.85, shared, 1 - shared)
        groups = group_rows(truth, predicted, 2)
        draws = bootstrap(groups, [kind], resamples=300, generator=generator)["matthews"]
        low, _ = percentile_interval(draws[:, 0] - draws[:, 1], 0.95)
        p_value = paired_permutation_test(groups, kind, [0], [1], resamples=300, generator=generator)
        by_interval += low > 0
        by_both += low > 0 and p_value <= 0.025
    assert by_both <= by_interval
    assert by_both / repetitions <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / repetitions)


def test_equal_methods_tie() -> None:
    truth, predicted = simulated(50, np.random.default_rng(0))
    groups = group_rows(truth, np.stack([predicted[0], predicted[0]]), 2)
    draws = bootstrap(groups, KINDS, resamples=200, generator=np.random.default_rng(0))
    for kind in KINDS:
        assert np.array_equal(draws[kind.name][:, 0], draws[kind.name][:, 1])
        assert paired_permutation_test(groups, kind, [0], [1], resamples=200, generator=np.random.default_rng(0)) == 1.0


@pytest.mark.parametrize("truth", [np.zeros(1, dtype=int), np.zeros(30, dtype=int), np.arange(30) % 2])
@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_give_finite_numbers(truth: np.ndarray, constant: int) -> None:
    groups = group_rows(truth, np.stack([np.full(len(truth), constant), truth]), 2)
    draws = bootstrap(groups, KINDS, resamples=200, generator=np.random.default_rng(0))
    assert all(np.isfinite(values).all() for values in draws.values())
    p_value = paired_permutation_test(
        groups, METRICS["f1"], [0], [1], resamples=200, generator=np.random.default_rng(0)
    )
    assert 0 < p_value <= 1


def test_runs_are_exchanged_in_pairs() -> None:
    truth, predicted = simulated(80, np.random.default_rng(0))
    groups = group_rows(truth, np.stack([truth, truth, predicted[0], predicted[1], predicted[1]]), 2)

    def p_value(first: list[int], second: list[int]) -> float:
        return paired_permutation_test(
            groups, KINDS[0], first, second, resamples=500, generator=np.random.default_rng(0)
        )

    assert p_value([0, 1], [2]) == p_value([0], [2])  # equal runs count as one
    assert p_value([0, 1], [2, 3]) < 0.01 < 0.9 < p_value([2, 3], [0, 1])
    with pytest.raises(InputError, match="2 runs cannot be paired with 3"):
        p_value([0, 1], [2, 3, 4])


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="no rows"):
        group_rows(np.zeros(0, dtype=int), np.zeros((1, 0), dtype=int), 2)
    with pytest.raises(InputError, match="for 3 rows"):
        group_rows(np.zeros(3, dtype=int), np.zeros((1, 4), dtype=int), 2)
    with pytest.raises(InputError, match="0 to 1, got 0 to 2"):
        group_rows(np.array([0, 2]), np.zeros((1, 2), dtype=int), 2)
