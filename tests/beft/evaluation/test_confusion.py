"""The confusion of labels, against scikit-learn."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from beft.evaluation.confusion import confusion_of


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_the_cells_are_those_of_scikit_learn(pairs):
    truth, predicted = (list(values) for values in zip(*pairs, strict=True))
    found = confusion_of(truth, np.eye(5)[predicted], list("abcde"))
    table = np.zeros((5, 5), dtype=int)
    for true, other, rows in found["cells"]:
        assert rows > 0
        table[true, other] = rows
    np.testing.assert_array_equal(table, confusion_matrix(truth, predicted, labels=range(5)))
    assert found["labels"] == list("abcde")
