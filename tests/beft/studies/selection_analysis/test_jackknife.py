"""Of means, the jackknife's intervals are the t-intervals of scipy; of one seed there is none."""

import math

import numpy as np
import pytest
from scipy import stats

from beft.studies.selection_analysis.cells import Cell
from beft.studies.selection_analysis.jackknife import Jackknifed, jackknife, mean_estimate, mean_over_cells
from beft.tables import ScoreInterval

GENERATOR = np.random.default_rng(0)


def interval(estimate: ScoreInterval) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def test_of_a_mean_it_is_the_t_interval() -> None:
    values = GENERATOR.normal(size=5)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = mean_estimate(values, confidence=0.9)
    assert found.value == pytest.approx(values.mean())
    assert interval(found) == pytest.approx((expected.low, expected.high))


def test_of_a_difference_of_paired_means_it_is_the_paired_t_interval() -> None:
    first, second = GENERATOR.normal(size=(2, 6))
    one, other = (jackknife(lambda kept, of=of: float(of[kept].mean()), 6) for of in (first, second))
    expected = stats.ttest_rel(first, second).confidence_interval()
    assert interval((one - other).estimate()) == pytest.approx((expected.low, expected.high))


def test_of_two_groups_it_is_welchs_interval() -> None:
    first, second = GENERATOR.normal(size=7), GENERATOR.normal(scale=3, size=4)
    found = jackknife(lambda one, other: float(first[one].mean() - second[other].mean()), 7, 4)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert interval(found.estimate()) == pytest.approx((expected.low, expected.high))


def test_over_three_datasets_it_is_the_t_interval_over_datasets() -> None:
    cells = [Cell("", dataset, "low") for dataset in ("cola", "rte", "sst2", "stsb")]
    values = [0.1, 0.4, 0.2, 0.35]
    found = mean_over_cells(cells, [Jackknifed(value) for value in values])
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert interval(found) == pytest.approx((expected.low, expected.high))


def test_cells_of_one_dataset_are_left_out_together() -> None:
    cells = [Cell("", dataset, regime) for dataset in ("a", "b", "c") for regime in ("low", "high")]
    values = np.array([0.1, 0.1, 0.5, 0.5, 0.9, 0.9])
    found = mean_over_cells(cells, [Jackknifed(value) for value in values])
    expected = stats.ttest_1samp(values[::2], 0).confidence_interval()
    assert interval(found) == pytest.approx((expected.low, expected.high)), "not as if there were six of them"


def test_over_two_datasets_the_seeds_give_the_interval() -> None:
    cells = [Cell("", dataset, "low") for dataset in ("a", "b")]
    first, second = GENERATOR.normal(size=5), GENERATOR.normal(size=5)
    figures = [jackknife(lambda kept, of=of: float(of[kept].mean()), 5) for of in (first, second)]
    # The mean of two means is Welch's difference with the sign of the second turned, halved.
    expected = stats.ttest_ind(first, -second, equal_var=False).confidence_interval()
    found = mean_over_cells(cells, figures)
    assert interval(found) == pytest.approx((expected.low / 2, expected.high / 2))
    assert mean_over_cells(cells, [figures[0], Jackknifed(0.5)]).low is None


def test_one_seed_has_no_interval_and_equal_seeds_have_one_of_no_width() -> None:
    assert mean_estimate(np.array([0.5])) == ScoreInterval(0.5)
    assert mean_estimate(np.full(4, 0.5)) == ScoreInterval(0.5, 0.5, 0.5)
    assert jackknife(lambda kept: float(len(kept)), 2, min_units=2) == Jackknifed(2.0)


def test_the_interval_is_cut_to_what_is_possible() -> None:
    found = jackknife(lambda kept: float(np.array([0.9, 1.0, 0.4])[kept].mean()), 3)
    low, high = interval(found.estimate(bounds=(0.0, 1.0)))
    assert high == 1.0 and low >= 0.0
    assert not math.isinf(interval(found.estimate())[1]) and interval(found.estimate())[1] > 1
