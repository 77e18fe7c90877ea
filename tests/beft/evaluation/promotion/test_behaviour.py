"""Changes of a text that should not matter, and the slices of the rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.errors import InputError
from beft.evaluation.promotion.behaviour import change_punctuation, flip_rate, perturb, swap_case, swap_names
from beft.evaluation.promotion.slices import row_slices, too_many_labels


def test_case() -> None:
    assert swap_case("A Film. By Mary") == "a film. by mary"
    assert swap_case("dull. so dull") == "Dull. So dull"


def test_punctuation() -> None:
    assert change_punctuation("a fine film.") == "a fine film"
    assert change_punctuation("a fine film") == "a fine film ."
    assert change_punctuation("is it fine?") == "is it fine?"


def test_names_are_swapped_whole_and_in_their_case() -> None:
    assert swap_names("James met mary and JOHN") == "Robert met patricia and MICHAEL"
    assert swap_names("Marymount and Johnson stay") == "Marymount and Johnson stay"


def folded(text: str) -> str:
    """A text without its case, the same before and after a change of case: of a sharp s ``lower`` is not."""
    return text.casefold().upper().casefold()


@given(st.text())
def test_no_text_breaks_and_words_stay(text: str) -> None:
    words = text.split()
    for change in (swap_case, swap_names):
        assert len(change(text).split()) == len(text.split())
    assert [folded(word) for word in swap_case(text).split()] == [folded(word) for word in words]
    assert isinstance(change_punctuation(text), str)


def test_only_changed_texts_count() -> None:
    texts, changed = perturb("names", ["mary sings", "nobody sings", "john sings", "paul sings"])
    assert changed.tolist() == [True, False, True, True]
    assert texts[1] == "nobody sings"
    before, after = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[1, 1, 1, 1]]
    assert flip_rate(before, after, changed) == pytest.approx(1 / 3)
    assert flip_rate(["a", "b", "c", "d"], ["a", "x", "c", "y"], changed) == pytest.approx(1 / 3)
    values = np.array([0.0, 1.0, 2.0, 3.0])  # the standard deviation is 1.118
    assert flip_rate(values, values + np.array([0.1, 0.5, 0.12, -0.2]), changed) == pytest.approx(2 / 3)
    assert flip_rate(before, after, np.zeros(4, dtype=bool)) == 0


def test_slices_divide_the_rows() -> None:
    lengths = np.arange(1, 31)
    labels = ["good" if at % 3 else "bad" for at in range(30)]
    found = row_slices(["length", "label", "site"], lengths=lengths, labels=labels, columns={"site": ["a", "b"] * 15})
    assert set(found) == {
        "length=short",
        "length=middling",
        "length=long",
        "label=good",
        "label=bad",
        "site=a",
        "site=b",
    }
    assert found["length=short"].sum() == found["length=long"].sum() == 10
    assert lengths[found["length=short"]].max() < lengths[found["length=middling"]].min()
    for name in ("length", "label", "site"):
        parts = [rows for key, rows in found.items() if key.startswith(f"{name}=")]
        assert (np.sum(parts, axis=0) == 1).all()


def test_a_slice_that_is_not_there() -> None:
    with pytest.raises(InputError, match="Did you mean 'length'"):
        row_slices(["lenght"], lengths=np.ones(3, dtype=int), labels=["a"] * 3, columns={})
    with pytest.raises(InputError, match=r"30 values.*take it out of promotion\.slices"):
        row_slices(["id"], lengths=np.ones(30, dtype=int), labels=["a"] * 30, columns={"id": list(range(30))})


def test_more_labels_than_can_be_judged_are_left_out() -> None:
    labels = [f"topic {at % 25}" for at in range(100)]
    found = row_slices(["length", "label"], lengths=np.arange(100), labels=labels, columns={})
    assert {name.split("=")[0] for name in found} == {"length"}
    assert (too_many_labels(labels), too_many_labels(labels[:20])) == (25, 0)


def test_a_label_set_changes_with_any_of_its_labels() -> None:
    before = np.array([[0.9, 0.1, 0.6], [0.9, 0.1, 0.6], [0.2, 0.1, 0.3]])
    after = np.array([[0.5, 0.4, 0.7], [0.8, 0.5, 0.6], [0.3, 0.2, np.nan]])
    changed = np.ones(3, dtype=bool)
    assert flip_rate(before, after, changed, sets=True) == pytest.approx(2 / 3)


def test_a_row_is_in_the_slice_of_each_of_its_labels() -> None:
    found = row_slices(["label"], lengths=np.ones(3, dtype=int), labels=[["a", "b"], [], ["b"]], columns={})
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "label=a": [True, False, False],
        "label=b": [True, False, True],
    }
    many = [[f"{number}", "x"] for number in range(40)]
    assert row_slices(["label"], lengths=np.ones(40, dtype=int), labels=many, columns={}) == {}
    assert too_many_labels(many) == 41
