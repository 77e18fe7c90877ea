"""Which of the compared ways of training is chosen."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from beft.errors import TrainingError
from beft.inference.runs import LabelledRows
from beft.problems.classification import Classification
from beft.training.automatic.candidates import Candidate
from beft.training.automatic.choice import Scored, choose
from tests.support.rows import random_rows


def made(name, right, *, failed=None):
    """A candidate that predicts the rows of ``right`` rightly, of 20 rows of two labels."""
    if failed:
        return Scored(Candidate(name), failed=failed)
    labels = np.arange(20) % 2
    predicted = np.where(np.isin(np.arange(20), right), labels, 1 - labels)
    outputs = np.zeros((1, 20, 2))
    outputs[0, np.arange(20), predicted] = 3.0
    return Scored(Candidate(name), accuracy_score(labels, predicted), 0.0, outputs)


def trained(name, right):
    """A candidate with biases."""
    found = made(name, right)
    return replace(found, candidate=Candidate(name, ("value",)))


def chosen_of(*compared):
    rows = LabelledRows(random_rows(20).encoded, np.arange(20) % 2)
    return choose(compared, Classification(), rows, "accuracy", folds=5, repeats=1, seed=0)


def test_the_best_is_chosen_and_of_equals_the_cheapest():
    first = chosen_of(made("frozen", range(12)), made("value", range(15)), made("all", range(3, 18)))
    assert first.chosen.candidate.name == "value"
    listed = first.to_json()["candidates"]
    assert listed[0]["behind"]["difference"] == pytest.approx(3 / 20)
    assert listed[0]["behind"]["low"] <= 3 / 20 <= listed[0]["behind"]["high"]
    assert "behind" not in listed[1] and listed[2]["behind"]["difference"] == 0
    assert listed[2]["behind"]["low"] < 0 < listed[2]["behind"]["high"]
    assert chosen_of(made("frozen", range(15)), made("value", range(5, 20))).chosen.candidate.name == "frozen"


def test_the_most_promising_way_is_left_only_for_one_that_is_better_by_a_standard_error():
    """Of 20 rows the best has k more right than the first, and as many errors of its own as that one has."""
    promising = trained("value", range(12))
    # One row better, and on eight they differ: the standard error is sqrt(9 / 20 - 1 / 400) / sqrt(20), 0.15.
    hardly = trained("all", [*range(8), *range(12, 17)])
    assert chosen_of(made("frozen", range(3)), promising, hardly).chosen.candidate.name == "value"
    # Five rows better and none worse: 0.25 with a standard error of 0.1.
    assert chosen_of(made("frozen", range(17)), promising, hardly).chosen.candidate.name == "frozen"
    equal = chosen_of(made("frozen", range(4, 16)), promising, trained("all", range(3)))
    assert equal.chosen.candidate.name == "frozen", "of equals the cheapest"


def test_what_failed_is_not_chosen():
    found = chosen_of(made("frozen", range(3)), made("value", (), failed="the loss is NaN"))
    assert found.chosen.candidate.name == "frozen"
    assert found.to_json()["candidates"][1]["failed"] == "the loss is NaN"
    with pytest.raises(TrainingError, match="value: the loss is NaN"):
        chosen_of(made("value", (), failed="the loss is NaN"))
