"""Texts and labels of a caller: columns of every library are read, and what is wrong is named with its row."""

import decimal
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from beft.datasets.dataset import Dataset
from beft.errors import InputError

TEXTS = [f"film {number}" for number in range(60)]
LABELS = ["good", "bad"] * 30
TABLE = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS})


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (tuple(TEXTS), tuple(LABELS)),
        (iter(TEXTS), iter(LABELS)),
        (np.array(TEXTS), np.array(LABELS)),
        (pd.Series(TEXTS, index=range(9, 69)), pd.Series(LABELS, dtype="category")),
        (TABLE["text"], TABLE["label"]),
    ],
    ids=["tuple", "iterator", "NumPy", "pandas", "datasets"],
)
def test_columns_of_every_library_are_read(texts: Any, labels: Any) -> None:
    data = Dataset.from_rows(texts, labels, test_rows=20)
    assert data.labels == ("bad", "good")
    assert data.rows("train") == Dataset.from_rows(TEXTS, LABELS, test_rows=20).rows("train")


def test_numbers_of_torch_are_classes() -> None:
    assert Dataset.from_rows(TEXTS, torch.tensor([0, 1] * 30), test_rows=20).labels == ("0", "1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"texts": "a film"}, "texts must be a list, not one text"),
        ({"texts": TABLE}, r"texts must be a list, not a Dataset: give one column of it, such as data\[NAME\]"),
        ({"texts": pd.DataFrame({"text": TEXTS})}, "texts must be a list, not a DataFrame"),
        ({"texts": [*TEXTS[:4], None, *TEXTS[5:]]}, "row 4 has None for its text; it must be a string"),
        ({"texts": [text.encode() for text in TEXTS]}, "row 0 has b'film 0' for its text"),
        ({"texts": [*TEXTS[:4], " ", *TEXTS[5:]]}, "row 4 has a blank text"),
        ({"labels": dict(enumerate(LABELS))}, "labels must be a list, not a dict"),
        ({"labels": 3}, "labels must be a list, not 3"),
        ({"labels": LABELS[:-1]}, r"60 texts, but not as many labels \(59\)"),
        ({"labels": [*LABELS[:4], None, *LABELS[5:]]}, "row 4 has None for its label: leave out rows without a label"),
        ({"labels": pd.array([pd.NA, *([1, 2] * 30)[1:]], dtype="Int64")}, "row 0 has <NA> for its label"),
        ({"labels": [*LABELS[:4], " ", *LABELS[5:]]}, "row 4 has a blank label"),
        ({"labels": [0.5, float("inf")] * 30}, "row 1 has inf for its label: leave out rows whose label is NaN or inf"),
        (
            {"labels": [pd.Timestamp("2026-01-01"), "x"] * 30},
            "row 0 has .* a label is a text, a number or a truth value",
        ),
        ({"labels": [decimal.Decimal(1), decimal.Decimal(2)] * 30}, "row 0 has .* a label is a text, a number"),
        ({"labels": [{"a": 1}, {"a": 2}] * 30}, "row 0 has .* a label is a text, a number"),
        ({"labels": [1, "1"] * 30}, "the labels 1 and '1' cannot be told apart: give all labels one type"),
        ({"labels": [True, 0, False, 1] * 15}, "cannot be told apart"),
        ({"labels": np.eye(3, dtype=int)[[0, 1, 2] * 20]}, "look like a table of zeros and ones"),
        ({"labels": [[1.0, 0.0], [0.0, 1.0]] * 30}, "look like a table of zeros and ones"),
        ({"labels": [["a"], [None]] * 30}, "row 1 has None for its label"),
        ({"pairs": "one"}, "pairs must be a list, not one text"),
        ({"pairs": TEXTS[:3]}, r"not as many pairs \(3\)"),
        ({"pairs": [None, *TEXTS[1:]]}, "row 0 has None for its second text"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Dataset.from_rows(**{"texts": TEXTS, "labels": LABELS, **changes})


def test_the_share_of_dev_that_a_message_names_can_be_given() -> None:
    with pytest.raises(InputError, match=r"set split.dev_fraction to 0.25"):
        Dataset.from_rows(TEXTS[:10], LABELS[:10])
    assert len(Dataset.from_rows(TEXTS[:10], LABELS[:10], dev_fraction=0.25).rows("dev")) == 2
