"""The contrastive loss against a loop over its published formula, and balanced batches by what they promise."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given
from sklearn.metrics import jaccard_score

from beft.problems.classification import Classification
from beft.problems.multi_label import MultiLabel
from beft.problems.regression import Regression
from beft.training.objectives.batches import balanced_batches
from beft.training.objectives.contrastive import contrastive_losses


def by_the_formula(features: torch.Tensor, weights: torch.Tensor, temperature: float) -> list[float]:
    """Khosla et al. (2020), equation 2, row by row with plain numbers; a row without any pair: 0."""
    unit = [[value / math.sqrt(sum(one * one for one in row)) for value in row] for row in features.tolist()]
    losses = []
    for i, anchor in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        score = {j: sum(a * b for a, b in zip(anchor, unit[j], strict=True)) / temperature for j in others}
        whole = math.log(sum(math.exp(score[j]) for j in others))
        total = sum(float(weights[i, j]) for j in others)
        terms = sum(float(weights[i, j]) * (score[j] - whole) for j in others)
        losses.append(-terms / total if total else 0.0)
    return losses


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_loss_is_that_of_the_formula(temperature):
    random = torch.Generator().manual_seed(3)
    features = torch.randn(9, 5, generator=random, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1, 1])  # 2 and 3 have no pair
    weights = Classification().pair_weights(labels, labels.numpy())
    expected = torch.tensor(by_the_formula(features, weights, temperature), dtype=torch.float64)
    torch.testing.assert_close(contrastive_losses(features, weights, temperature), expected, rtol=1e-12, atol=1e-12)
    assert expected[3] == 0
    values = torch.tensor([1.0, 1.2, 3.0, 0.4, 2.2, 2.1, 1.9, 0.0, 5.0], dtype=torch.float64)
    weights = Regression().pair_weights(values, values.numpy())
    width = values.numpy().std() / 9**0.2
    assert float(weights[0, 2]) == pytest.approx(math.exp(-((2.0 / width) ** 2) / 2), rel=1e-12)
    expected = torch.tensor(by_the_formula(features, weights, temperature), dtype=torch.float64)
    torch.testing.assert_close(contrastive_losses(features, weights, temperature), expected, rtol=1e-12, atol=1e-12)


def test_gradient_is_finite_for_rows_without_others():
    for rows in (1, 2):
        features = torch.randn(rows, 4, dtype=torch.float64).requires_grad_(True)
        contrastive_losses(features, torch.eye(rows), 0.1).sum().backward()
        assert torch.equal(features.grad, torch.zeros_like(features))


def test_equal_values_belong_together_though_they_have_no_spread():
    values = torch.full((3,), 2.0, dtype=torch.float64)
    assert torch.equal(Regression().pair_weights(values, values.numpy()), torch.ones(3, 3, dtype=torch.float64))


@example(labels=[0] * 9 + [1] * 3 + [2], batch_size=5, seed=0, epoch=1)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(1, 32), st.integers(0, 5), st.integers(1, 4))
def test_batches_hold_no_row_twice_and_pairs_where_there_are_some(labels, batch_size, seed, epoch):
    array = np.array(labels, dtype=np.int64)
    batches = balanced_batches(array, batch_size, seed=seed, epoch=epoch)
    assert len(batches) == -(-len(labels) // batch_size)
    assert len({len(batch) for batch in batches}) == 1 and len(batches[0]) <= batch_size
    again = balanced_batches(array, batch_size, seed=seed, epoch=epoch)
    for batch, same in zip(batches, again, strict=True):
        assert np.array_equal(batch, same)
        assert len(set(batch.tolist())) == len(batch)
        counts = np.bincount(array[batch], minlength=10)
        rows = np.bincount(array, minlength=10)
        if len(batch) > 1:
            assert len(batch) == 2 or len(set(array[batch].tolist())) > 1 or len(set(labels)) == 1
            # At most one label stands alone though it has more rows: the one that an odd place was left for.
            assert sum(1 for label in range(10) if counts[label] == 1 and rows[label] > 1) <= 1
        # No label that has more rows left has two fewer than another one of the batch.
        open_labels = [label for label in range(10) if 0 < counts[label] < rows[label]]
        assert all(counts[label] >= max(counts) - 1 for label in open_labels)


def test_every_row_is_once_in_an_epoch_where_labels_are_level():
    labels = np.repeat(np.arange(4), 12)
    batches = balanced_batches(labels, 16, seed=1, epoch=2)
    assert sorted(np.concatenate(batches).tolist()) == list(range(48))
    assert all(np.bincount(labels[batch]).tolist() == [4, 4, 4, 4] for batch in batches)
    other = balanced_batches(labels, 16, seed=1, epoch=3)
    assert not all(np.array_equal(one, two) for one, two in zip(batches, other, strict=True))


def test_many_labels_take_turns():
    labels = np.repeat(np.arange(77), 5)
    batches = balanced_batches(labels, 16, seed=0, epoch=1)
    assert all(np.bincount(labels[batch])[np.unique(labels[batch])].min() >= 2 for batch in batches)
    assert {int(label) for batch in batches for label in labels[batch]} == set(range(77))


def test_a_rare_label_is_in_every_batch():
    labels = np.array([0] * 200 + [1] * 2)
    batches = balanced_batches(labels, 16, seed=0, epoch=1)
    assert all((labels[batch] == 1).sum() == 2 for batch in batches)


def test_label_sets_belong_together_by_their_jaccard_index():
    sets = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]])
    weights = MultiLabel(3).pair_weights(sets, sets.numpy())
    expected = [[jaccard_score(one, other, zero_division=1.0) for other in sets.numpy()] for one in sets.numpy()]
    np.testing.assert_allclose(weights.numpy(), expected)
