"""Metrics of label sets against scikit-learn, on whole data and on resamples; thresholds against every cut."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from beft.errors import InputError
from beft.metrics.label_sets import choose_thresholds, probabilities_from, scores_at_best, scores_from
from beft.metrics.registry import known_metric, metric, score_predictions
from beft.metrics.truth import Truth

NAMES = ("micro_f1", "multi_label_macro_f1", "subset_accuracy")


def _scikit_learn(name, truth, predicted):
    if name == "subset_accuracy":
        return sklearn.metrics.accuracy_score(truth, predicted)
    average = {"micro_f1": "micro", "multi_label_macro_f1": "macro"}[name]
    if not truth.any() and not predicted.any():
        return 0.0
    zero = 0.0 if average == "micro" else np.nan
    return sklearn.metrics.f1_score(truth, predicted, average=average, zero_division=zero)


@st.composite
def _sets(draw):
    rows, labels = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    sets = arrays(np.int64, (rows, labels), elements=st.integers(0, 1))
    return draw(sets), draw(sets), draw(arrays(np.int64, rows, elements=st.integers(0, 3)))


@pytest.mark.parametrize("name", NAMES)
@given(found=_sets())
def test_both_forms_equal_scikit_learn_on_resamples(name, found):
    truth, predicted, times = found
    kind = known_metric(name)
    scores = np.where(predicted == 1, 0.5, 0.499)
    assert score_predictions(name, scores, Truth(label_sets=truth)) == pytest.approx(
        _scikit_learn(name, truth, predicted)
    )
    assert kind.value(truth, predicted) == pytest.approx(_scikit_learn(name, truth, predicted))
    if times.sum():
        resampled = np.repeat(np.arange(len(truth)), times)
        expected = _scikit_learn(name, truth[resampled], predicted[resampled])
        assert float(kind.weighed(truth, predicted)(times.astype(float))) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_evaluate_metric_gives_the_same(name):
    truth = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]
    predicted = [[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 1]]
    found = metric(name).compute(predictions=predicted, references=truth)[name]
    assert found == pytest.approx(_scikit_learn(name, np.array(truth), np.array(predicted)))


def test_what_is_no_label_set_is_refused():
    with pytest.raises(InputError, match="0 or 1"):
        Truth(label_sets=[[0, 2]])
    with pytest.raises(InputError, match="true label sets"):
        score_predictions("micro_f1", [[0.5, 0.5]], Truth(labels=[0]))
    with pytest.raises(InputError, match="2 labels for true sets of 3"):
        score_predictions("micro_f1", [[0.5, 0.5]], Truth(label_sets=[[0, 1, 0]]))


@given(
    st.integers(1, 20).flatmap(
        lambda rows: st.tuples(
            arrays(np.float64, (rows, 2), elements=st.sampled_from([0.001, 0.1, 0.3, 0.49, 0.5, 0.7, 0.999])),
            arrays(np.int64, (rows, 2), elements=st.integers(0, 1)),
        )
    )
)
def test_thresholds_have_the_best_f1_of_all_cuts(found):
    probabilities, truth = found
    thresholds = choose_thresholds(probabilities, truth)
    for label in range(2):
        of_label = truth[:, label]
        if not of_label.any():
            assert thresholds[label] == 0.5
            continue
        given_to = probabilities[:, label] >= thresholds[label]
        every = [
            sklearn.metrics.f1_score(of_label, probabilities[:, label] >= cut, zero_division=0.0)
            for cut in [*probabilities[:, label], 0.5, 1.1]
        ]
        assert sklearn.metrics.f1_score(of_label, given_to, zero_division=0.0) == pytest.approx(max(every))
        if every[-2] == max(every):
            assert thresholds[label] == 0.5
    scores = scores_from(probabilities, thresholds)
    assert ((scores >= 0.5) == (probabilities >= thresholds)).all()
    assert probabilities_from(scores, thresholds) == pytest.approx(probabilities)
    assert scores_at_best(probabilities, truth) == pytest.approx(scores)


def test_a_threshold_lies_between_the_logits_that_it_divides():
    # Logits -2, -1 and 1, 3: the best F1 is at the cut between -2 and -1.
    logits = np.array([[3.0], [1.0], [-1.0], [-2.0]])
    probabilities = 1 / (1 + np.exp(-logits))
    [threshold] = choose_thresholds(probabilities, np.array([[1], [1], [1], [0]]))
    assert np.log(threshold / (1 - threshold)) == pytest.approx(-1.5)


def test_nothing_is_chosen_on_nan():
    broken = np.array([[np.nan, 0.5], [0.2, 0.5]])
    assert scores_at_best(broken, np.array([[1, 0], [0, 1]])) is broken
    assert score_predictions("micro_f1", broken, Truth(label_sets=[[1, 0], [0, 1]])) == 0.0
