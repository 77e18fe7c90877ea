"""What ``train.method: auto`` compares, in which order, and how much of it fits into the minutes."""

import numpy as np
import pytest

from beft.heads.by_problem_type import path_operations
from beft.problems.classification import Classification
from beft.problems.regression import Regression
from beft.training.automatic.candidates import (
    FROZEN,
    MAX_REPEATS,
    NOMINAL_LINEAR_OPERATIONS,
    NOMINAL_OPERATIONS,
    Candidate,
    candidates,
    has_rare_label,
    plan_search,
)
from beft.training_settings import Loss, TrainingSettings

BALANCED = "value, contrastive, balanced, rate 0.01"


def test_the_plan_keeps_to_its_minutes():
    both: dict[Loss, TrainingSettings] = {"cross_entropy": TrainingSettings(epochs=10)}
    both["contrastive"] = TrainingSettings(epochs=10, loss="contrastive")
    ways = candidates(both, "value", ["query", "value"])
    assert ways[0] == Candidate(FROZEN) and len(ways) == 7
    tokens, operations = 1000, NOMINAL_OPERATIONS / 4000  # an epoch over all rows takes a quarter of a second
    # Six trainings of 10 epochs over four fifths of the rows, five times: 6 x 10 x 4 x 0.25 s = a minute.
    whole = plan_search(ways, tokens, operations, 2.5, folds=5)
    assert (len(whole.candidates), whole.repeats, whole.seconds) == (7, 2, pytest.approx(120))
    assert plan_search(ways, tokens, operations, 1000, folds=5).repeats == MAX_REPEATS
    less = plan_search(ways, tokens, operations, 0.4, folds=5)
    assert (len(less.candidates), less.repeats, less.seconds) == (3, 1, pytest.approx(20))
    assert less.candidates == tuple(ways[:3])
    assert less.folds == 5
    # Both losses over three folds, 2 x 10 x 2 x 0.25 s, rather than one over five.
    fewer_folds = plan_search(ways, tokens, operations, 10.1 / 60, folds=5)
    assert (fewer_folds.candidates, fewer_folds.folds, fewer_folds.seconds) == (tuple(ways[:3]), 3, pytest.approx(10))
    one_loss = plan_search(ways, tokens, operations, 9.9 / 60, folds=5)
    assert (len(one_loss.candidates), one_loss.folds, one_loss.seconds) == (2, 4, pytest.approx(7.5))
    least = plan_search(ways, tokens, operations, 0.01, folds=5)
    assert [one.name for one in least.candidates] == [FROZEN, "value, contrastive, rate 0.01"]
    assert (least.folds, least.repeats) == (3, 1)
    assert plan_search(ways, tokens, operations, 0.01, folds=2).folds == 2


def test_the_linear_models_count_in_the_minutes():
    """With 77 labels they take longer than the trainings; the minutes did not see them."""
    ways = [Candidate(FROZEN), Candidate("one", ("value",), TrainingSettings(epochs=10))]
    tokens, operations = 1000, NOMINAL_OPERATIONS / 4000
    without = plan_search(ways, tokens, operations, 1, folds=5)
    assert (without.repeats, without.seconds) == (MAX_REPEATS, pytest.approx(40))
    # Five fits on four fifths of the rows, 4 x 5 s, beside five trainings, 4 x 10 x 0.25 s.
    many = plan_search(ways, tokens, operations, 1, folds=5, linear=5 * NOMINAL_LINEAR_OPERATIONS)
    assert (many.repeats, many.seconds) == (2, pytest.approx(60))
    operations = path_operations(Classification(), 77, 1232, 384)
    assert 0.5 < operations / NOMINAL_LINEAR_OPERATIONS / 7.1 < 2  # seconds, measured
    assert path_operations(Regression(), 0, 1000, 384) == 0


def test_the_linear_models_that_heads_start_at_count_in_the_minutes():
    """Once for all candidates that start alike: the two of cross-entropy, not the balanced one or the contrastive."""
    training = TrainingSettings(epochs=10)
    changes = ({}, {"learning_rate": 0.03}, {"class_weights": "balanced"}, {"loss": "contrastive"})
    trained = [Candidate(str(at), ("value",), training.model_copy(update=change)) for at, change in enumerate(changes)]
    ways = [Candidate(FROZEN), *trained]
    tokens, operations = 1000, NOMINAL_OPERATIONS / 4000
    start = 3 * NOMINAL_LINEAR_OPERATIONS
    plan = plan_search(ways, tokens, operations, 2, folds=5, start=start)
    # 4 x 10 x 4 x 0.25 s of trainings, and two starts on four fifths of the rows of five parts, 2 x 4 x 3 s.
    assert (len(plan.candidates), plan.repeats, plan.seconds) == (5, 1, pytest.approx(64))
    fewer = plan_search(ways[:3], tokens, operations, 0.6, folds=5, start=start)
    assert (len(fewer.candidates), fewer.repeats, fewer.seconds) == (3, 1, pytest.approx(32))


def test_with_many_rows_cross_entropy_is_the_more_promising_loss():
    """As it is the default then: it is compared however few the minutes are, and taken where others hardly win."""
    both: dict[Loss, TrainingSettings] = {"cross_entropy": TrainingSettings(epochs=10)}
    both["contrastive"] = TrainingSettings(epochs=10, loss="contrastive")
    ways = candidates(both, "value", ["query", "value"], few=False)
    assert [one.training.loss for one in ways[1:5]] == ["cross_entropy", "contrastive"] * 2
    least = plan_search(ways, 1000, NOMINAL_OPERATIONS, 0.01, folds=5)
    assert [one.name for one in least.candidates] == [FROZEN, "value, cross-entropy, rate 0.01"]


def test_rates_that_are_named_are_those_compared():
    training = TrainingSettings(epochs=3, learning_rates=(0.2, 0.1))
    ways = candidates({"cross_entropy": training}, "value", ["value"], prompted=training)
    assert {one.training.learning_rate for one in ways[1:]} == {0.2, 0.1}
    assert [one.training.learning_rate for one in ways if one.pooling == "mask"] == [0.2, 0.1]
    assert len({one.name for one in ways}) == len(ways) == 5, "half of 0.2, with all biases, would be 0.1 once more"


@pytest.mark.parametrize(
    ("few", "first"),
    [(True, ["contrastive", "mask", "cross_entropy"]), (False, ["cross_entropy", "contrastive", "mask"])],
)
def test_with_few_rows_words_for_the_labels_come_before_a_head_that_knows_none(few, first):
    """So that a search that compares only one training of each loss has them."""
    both: dict[Loss, TrainingSettings] = {"cross_entropy": TrainingSettings(epochs=3)}
    both["contrastive"] = TrainingSettings(epochs=3, loss="contrastive")
    ways = candidates(both, "value", ["value"], few=few, prompted=both["cross_entropy"])
    assert [one.pooling or one.training.loss for one in ways[1:4]] == first
    assert sum(one.pooling == "mask" for one in ways) == 2 and len(ways) == len(set(ways))


def test_balanced_weights_are_compared_where_a_label_is_rare():
    plain: dict[Loss, TrainingSettings] = {"cross_entropy": TrainingSettings(epochs=3)}
    plain["contrastive"] = TrainingSettings(epochs=3, loss="contrastive")
    names = [one.name for one in candidates(plain, "value", ["value"], rare=True)]
    trained = [f"value, {how}, rate 0.01" for how in ("contrastive", "cross-entropy")]
    assert names[:5] == [FROZEN, *trained, f"{FROZEN}, balanced", BALANCED]
    frozen, balanced = candidates(plain, "value", ["value"], rare=True)[3:5]
    assert balanced.training == TrainingSettings(epochs=3, loss="contrastive", class_weights="balanced")
    assert balanced.to_json()["class_weights"] == frozen.to_json()["class_weights"] == "balanced"
    many = [one.name for one in candidates(plain, "value", ["value"], rare=True, few=False)]
    assert "value, cross-entropy, balanced, rate 0.01" in many and BALANCED not in many
    assert BALANCED not in [one.name for one in candidates(plain, "value", ["value"])]
    weighed = {loss: one.model_copy(update={"class_weights": "balanced"}) for loss, one in plain.items()}
    found = candidates(weighed, "value", ["value"], rare=True)
    assert BALANCED not in [one.name for one in found], "all are so"
    assert {one.to_json()["class_weights"] for one in found} == {"balanced"}


@pytest.mark.parametrize(
    ("counts", "rare"),
    [([50, 50], False), ([97, 3], True), ([8] * 77, False), ([8] * 76 + [4], True), ([10, 6], False)],
)
def test_a_label_is_rare_beside_others(counts, rare):
    assert has_rare_label(np.repeat(np.arange(len(counts)), counts)) == rare
