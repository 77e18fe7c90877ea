"""Which texts are the same text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.datasets.normalisation import normalised, text_key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A\tgood \n film ", "a good film"),
        ("One.<br /><br />Two.<BR>Three", "one. two. three"),
        ("\ufb01ne \uff26\uff29\uff2c\uff2d", "fine film"),  # ligature and full width
        ("Straße", "strasse"),
        ("cafe\u0301", "caf\u00e9"),  # combining accent
        ("a\u00a0b\u3000c", "a b c"),  # spaces that are no ASCII
        ("<b>not a break</b>", "<b>not a break</b>"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    assert normalised(text) == expected


@given(st.text())
def test_white_space_and_case_make_no_other_text(text: str) -> None:
    assert text_key(f"\t{text} <br/>\n") == text_key(text)
    assert text_key(text.upper()) == text_key(text.upper().lower())


@given(st.text(), st.text())
def test_a_pair_is_neither_of_its_texts_nor_their_concatenation(first: str, second: str) -> None:
    assert text_key(first, second) not in (text_key(first), text_key(first + second), text_key(f"{first}\x1f{second}"))
    assert (text_key(first, second) == text_key(second, first)) == (normalised(first) == normalised(second))


def test_a_lone_surrogate_has_a_key() -> None:
    assert len(text_key("\ud800")) == 20
