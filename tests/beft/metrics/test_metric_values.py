"""The correlations and the metrics of groups: against SciPy and scikit-learn, on resamples, and of constants."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score

from beft.datasets.shape import METRIC_NAMES
from beft.errors import InputError
from beft.metrics.registry import METRICS, combined, known_metric, metric, score, score_predictions
from beft.metrics.truth import Truth
from beft.metrics.weighed import Weighed

BY_SCIPY = {"pearson": pearsonr, "spearman": spearmanr}


def by_scipy(name: str, truth: np.ndarray, predicted: np.ndarray) -> float:
    if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(BY_SCIPY[name](truth, predicted).statistic)


def weighed(name: str, truth: np.ndarray, predicted: np.ndarray, unit: np.ndarray | None = None) -> Weighed:
    return known_metric(name).weighed(truth, predicted, unit, labels=2)


rows = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 3)), min_size=2, max_size=30).filter(
    lambda drawn: any(weight for _, _, weight in drawn)
)


@given(rows, st.sampled_from([1.0, 1e-3, 1e6]), st.sampled_from([0.0, 3.0, -1e4]))
def test_weighted_correlations_are_scipy_s_on_repeated_rows(
    drawn: list[tuple[int, int, int]], scale: float, shift: float
) -> None:
    """Few distinct numbers, so that ties and constant resamples are common."""
    truth, predicted, weights = (np.array(column) for column in zip(*drawn, strict=True))
    predicted = predicted * scale + shift
    repeated, guesses = np.repeat(truth, weights), np.repeat(predicted, weights)
    for name in BY_SCIPY:
        found = weighed(name, truth.astype(float), predicted)(weights.astype(float))
        assert float(found) == pytest.approx(by_scipy(name, repeated, guesses), abs=1e-9)
        assert metric(name).compute(predictions=guesses, references=repeated)[name] == pytest.approx(float(found))


@given(rows)
def test_one_call_is_scipy_s_and_two_runs_side_by_side_are_one_of_all_rows(drawn: list[tuple[int, int, int]]) -> None:
    truth, predicted, weights = (np.array(column, dtype=float) for column in zip(*drawn, strict=True))
    other = np.roll(predicted, 1) - 0.5
    for name in BY_SCIPY:
        value = score_predictions(name, predicted, Truth(values=truth))
        assert value == pytest.approx(by_scipy(name, truth, predicted), abs=1e-9)
        both = weighed(name, truth, predicted).paired_with(weighed(name, truth, other))
        swapped = np.concatenate([weights > 1, weights <= 1]).astype(float)
        chosen = np.where(weights > 1, predicted, other)
        assert float(both(swapped)) == pytest.approx(by_scipy(name, truth, chosen), abs=1e-9)


@pytest.mark.parametrize("name", list(BY_SCIPY))
def test_many_weightings_at_once_and_whole_groups(name: str) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 11, 60) / 2
    predicted = truth + generator.normal(0, 2, 60)
    unit = np.sort(generator.integers(0, 15, 60))
    unit = np.unique(unit, return_inverse=True)[1]
    weights = generator.integers(0, 4, (5, 7, unit.max() + 1)).astype(float)
    found = weighed(name, truth, predicted, unit)(weights)
    both = weighed(name, truth, predicted, unit).paired_with(weighed(name, truth, predicted[::-1], unit))
    swap = generator.integers(0, 2, unit.max() + 1).astype(float)
    assert found.shape == (5, 7)
    for index in np.ndindex(5, 7):
        times = weights[index].astype(int)[unit]
        expected = by_scipy(name, np.repeat(truth, times), np.repeat(predicted, times))
        assert found[index] == pytest.approx(expected, abs=1e-9)
    exchanged = np.where(swap[unit] == 1, predicted[::-1], predicted)
    assert float(both(np.concatenate([1 - swap, swap]))) == pytest.approx(by_scipy(name, truth, exchanged))


@pytest.mark.parametrize("name", list(BY_SCIPY))
def test_what_does_not_vary_gives_0_and_nothing_gives_nan(name: str) -> None:
    varied, constant = np.array([0.1, 0.5, 0.3, 0.7]), np.full(4, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for truth, predicted in [(constant, varied), (varied, constant), (constant, constant)]:
            assert score_predictions(name, predicted, Truth(values=truth)) == 0
            assert metric(name).compute(predictions=predicted, references=truth) == {name: 0.0}
        # A resample of one row over and over, at every row.
        assert weighed(name, varied, varied[::-1])(4 * np.eye(4)).tolist() == [0, 0, 0, 0]
        for bad in (np.nan, np.inf):
            assert score_predictions(name, np.array([0.1, bad, 0.3, 0.2]), Truth(values=varied)) == -1


def test_one_far_value_does_not_hide_the_others() -> None:
    """Resamples without it are constant but for a millionth of a millionth of its distance."""
    truth = np.array([1e9, 0.0, 1.0, 2.0, 3.0])
    predicted = np.array([-1e9, 0.1, 1.2, 1.9, 3.3])
    without = np.array([0.0, 1, 1, 1, 1])
    assert float(weighed("pearson", truth, predicted)(without)) == pytest.approx(
        pearsonr(truth[1:], predicted[1:]).statistic, abs=1e-6
    )


questions = st.lists(
    st.tuples(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=5), st.integers(0, 3)),
    min_size=1,
    max_size=8,
)


@given(questions)
def test_groups_are_drawn_whole(drawn: list[tuple[list[tuple[int, int]], int]]) -> None:
    """Both MultiRC metrics under weights of questions, against plain loops over questions repeated that often."""
    assume(any(times for _, times in drawn))
    truth = np.array([true for answers, _ in drawn for true, _ in answers])
    predicted = np.array([guess for answers, _ in drawn for _, guess in answers])
    unit = np.repeat(np.arange(len(drawn)), [len(answers) for answers, _ in drawn])
    times = np.array([weight for _, weight in drawn], dtype=float)
    repeated = [(copy, question) for question, (_, weight) in enumerate(drawn) for copy in range(weight)]
    names, true_rows, guesses = [], [], []
    for copy, question in repeated:
        for true, guess in drawn[question][0]:
            names.append(f"{question}/{copy}")
            true_rows.append(true)
            guesses.append(guess)
    expected = {
        "multirc_f1": f1_score(true_rows, guesses, zero_division=0.0),
        "multirc_exact_match": np.mean([all(t == g for t, g in drawn[question][0]) for _, question in repeated]),
    }
    found = combined(list(expected)).compute(predictions=guesses, references=true_rows, groups=names)
    for name, value in expected.items():
        assert float(weighed(name, truth, predicted, unit)(times)) == pytest.approx(value, abs=1e-12)
        assert found[name] == pytest.approx(value, abs=1e-12)
        as_probabilities = np.eye(2)[guesses]
        whole = score_predictions(name, as_probabilities, Truth(labels=true_rows, groups=names))
        assert whole == pytest.approx(value, abs=1e-12)


def test_multirc_worked_by_hand() -> None:
    """Two questions: of the first one answer of three is judged wrongly, of the second none."""
    truth = Truth(labels=[1, 0, 1, 0, 1], groups=["7/1", "7/1", "7/1", "7/2", "7/2"])
    predictions = np.array([[0.2, 0.8], [0.3, 0.7], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    assert score_predictions("multirc_exact_match", predictions, truth) == 0.5
    assert score_predictions("multirc_f1", predictions, truth) == pytest.approx(2 * 0.75 * 1 / 1.75)


def test_every_metric_says_what_it_takes_and_how_it_is_shown() -> None:
    assert {kind.takes for kind in METRICS.values()} == {"labels", "label_sets", "spans", "values", "texts"}
    assert {name for name, kind in METRICS.items() if kind.sign == ""} == {"matthews", "pearson", "spearman"}
    truths = {
        "labels": Truth(labels=[0, 1]),
        "values": Truth(values=[0.0, 1.0]),
        "texts": Truth(answers=[["a"], ["b"]]),
        "label_sets": Truth(label_sets=[[1, 0], [1, 1]]),
        "spans": Truth(spans=[[(0, 2, 1)], []]),
    }
    right = {
        "labels": np.eye(2),
        "values": np.array([0.5, 0.7]),
        "texts": ["a", "b"],
        "label_sets": np.array([[0.9, 0.1], [0.7, 0.5]]),
        "spans": [[(0, 2, 1)], []],
    }
    for name, kind in METRICS.items():
        truth = truths[kind.takes]
        if kind.grouped:
            with pytest.raises(InputError, match="which rows belong together"):
                score_predictions(name, right[kind.takes], truth)
            truth = Truth(labels=truth.labels, groups=["q", "q"])
        # "a" is an article: nothing is left of it, so that SQuAD's F1 finds no word in common.
        expected = 0.5 if name in ("squad_f1", "record_f1") else 1.0
        assert score_predictions(name, right[kind.takes], truth) == pytest.approx(expected), name
        for other in truths.keys() - {kind.takes}:
            with pytest.raises(InputError, match=f"{name} compares with true"):
                score_predictions(name, right[other], truths[other])


def test_datasets_name_exactly_the_metrics_that_there_are() -> None:
    assert set(METRIC_NAMES) == set(METRICS)


def test_bad_input_is_named() -> None:
    values, labels = Truth(values=[0.0, 1.0]), Truth(labels=[0, 1])
    cases = [
        ("pearsn", [0.0, 1.0], values, "Did you mean 'pearson'"),
        ("pearson", np.eye(2), values, "of shape \\[2, 2\\] for 2 rows"),
        ("pearson", [0.5], values, "for 2 rows"),
        ("pearson", ["high", "low"], values, "pearson: predictions must be numbers"),
        ("accuracy", [[0.5, 0.5], [1.0]], labels, "the same number of them in every row"),
        ("accuracy", [0.0, 1.0], labels, "of shape \\[2\\]"),
        ("accuracy", np.ones((2, 1)), labels, "true labels of 0 to 1 for predictions of 1 labels"),
        ("multirc_f1", np.ones((2, 3)), labels, "use macro_f1"),
    ]
    for name, predictions, truth, message in cases:
        with pytest.raises(InputError, match=message):
            score_predictions(name, predictions, truth)
    with pytest.raises(InputError, match="pearson compares with true values"):
        score("pearson", [0, 1], [0, 1], 2)
    with pytest.raises(InputError, match="finite numbers"):
        metric("pearson").compute(predictions=[0.1, np.nan], references=[0.1, 0.2])
    with pytest.raises(InputError, match="2 labels, 1 groups"):
        Truth(labels=[0, 1], groups=["a"])
    with pytest.raises(InputError, match="needs labels, label sets, spans, values or answers"):
        Truth(groups=["a"])
    with pytest.raises(InputError, match="not finite"):
        Truth(values=[0.0, np.nan])
    for wrong, message in (
        ({"labels": np.eye(2)}, r"true labels must be one number a row, not of shape \[2, 2\]"),
        ({"values": np.eye(2)}, r"true values must be one number a row, not of shape \[2, 2\]"),
        ({"labels": ["good", "bad"]}, "true labels must be numbers"),
        ({"label_sets": [[1], [1, 0]]}, "true label sets must be numbers, the same number of them in every row"),
    ):
        with pytest.raises(InputError, match=message):
            Truth(**wrong)
