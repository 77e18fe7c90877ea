"""Exact match and F1 of answers in words: worked examples, and definitions written out another way."""

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.errors import InputError
from beft.metrics.drop import drop_exact_match, drop_f1
from beft.metrics.registry import metric, score_predictions
from beft.metrics.texts import squad_exact_match, squad_f1
from beft.metrics.truth import Truth

WORDS = ["the", "a", "An", "Broncos", "denver.", "10", "10.0", "1,000", "yard-line", "U.S.", "", "7-yard", "é"]
texts = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The Denver Broncos!", ["Denver Broncos", "Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),  # precision 1, recall 1/2
        ("in Santa Clara, California", ["Santa Clara", "Levi's Stadium"], 0, 2 / 3),  # precision 1/2, recall 1
        ("gold gold", ["gold"], 0, 2 / 3),  # a word counts as often as it occurs
        ("gold gold", ["gold gold bell"], 0, 4 / 5),
        ("U.S.A.", ["usa"], 1, 1),
        ("theatre", ["atre"], 0, 0),  # an article is a word of its own
        ("24 - 10", ["24-10"], 0, 0),  # a hyphen between spaces joins no words, one without does
        ("the", ["a"], 1, 0),  # nothing is left of either: equal, but no word in common
        ("", ["gold"], 0, 0),
    ],
)
def test_squad_worked_by_hand(prediction: str, answers: list[str], exact: float, f1: float) -> None:
    assert squad_exact_match(prediction, answers) == exact
    assert squad_f1(prediction, answers) == pytest.approx(f1)


def squad_words(text: str) -> list[str]:
    """SQuAD's normalisation, letter by letter and word by word."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def naive_squad_f1(prediction: str, answer: str) -> float:
    predicted, true = squad_words(prediction), squad_words(answer)
    left, common = list(true), 0
    for word in predicted:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(true)
    return 2 * precision * recall / (precision + recall)


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_squad_is_the_definition_written_out(prediction: str, answers: list[str]) -> None:
    assert squad_f1(prediction, answers) == pytest.approx(max(naive_squad_f1(prediction, one) for one in answers))
    expected = any(squad_words(prediction) == squad_words(one) for one in answers)
    assert squad_exact_match(prediction, answers) == expected


def spans(*each: str) -> str:
    return "\n".join(each)


# Inputs and values of the tests beside the published evaluation script (allennlp-reading-comprehension, drop_eval).
PUBLISHED = [
    (["78"], ["78.0"], 1, 1),
    (["td"], ["td", "td"], 0, 0.5),
    (["td", "td"], ["td"], 0, 0.5),
    (["the", "fat", "cat", "the fat", "fat cat", "the fat cat"], ["cat", "cat dog"], 0, 0.25),
    (["the a NOT an ARTICLE the an a"], ["NOT ARTICLE"], 1, 1),
    (["50 yard"], ["yard 50"], 0, 1),
    (["Per.i.o.d...."], [".P....e.r,,i;;;o...d,,"], 1, 1),
    (["78-yard"], ["78 yard"], 1, 1),
    (["78"], ["78-yard"], 0, 0.67),
    (["Green", "bay", "packers"], ["bay", "packers", "Green"], 1, 1),
    ([""], ["army"], 0, 0),
    (["packers"], ["Green bay packers"], 0, 0.5),
    (["yard"], ["36 yard td"], 0, 0),
    (["23 yards"], ["43 yards"], 0, 0),
    (["56 yards"], ["56 yd"], 0, 0.5),
    (["78-yard", "56", "28", "40", "44", "touchdown"], ["78-yard", "56 yard", "1 yard touchdown"], 0, 0.28),
    (["23", "23 yard"], ["23-yard", "56 yards"], 0, 0.5),
    (["John Karman", "Joe Hardy"], ["Joe Karman", "John Hardy"], 0, 0.5),
    (["ottoman", "Kantakouzenous"], ["ottoman", "army of Kantakouzenous"], 0, 0.75),
]


@pytest.mark.parametrize(("predicted", "gold", "exact", "f1"), PUBLISHED)
def test_drop_gives_the_published_values(predicted: list[str], gold: list[str], exact: float, f1: float) -> None:
    assert drop_exact_match(spans(*predicted), [spans(*gold)]) == exact
    assert drop_f1(spans(*predicted), [spans(*gold)]) == f1


def test_drop_takes_the_nearest_answer_and_passes_over_empty_ones() -> None:
    assert drop_f1("span1", ["span1\nspan2", "span2"]) == 0.5
    assert drop_exact_match("2", ["0", "2.0"]) == 1
    assert (drop_f1("", ["", "  "]), drop_exact_match("", ["", "  "])) == (0, 0)
    assert drop_exact_match("1.2e1", ["12"]) == 1
    assert drop_exact_match("12,000", ["12000"]) == 1
    assert drop_exact_match("12.5 %", ["12.50"]) == 1


def drop_words(text: str) -> list[str]:
    words = []
    for token in text.lower().replace("-", " ").split(" "):
        try:
            words.append(str(float(token)))
            continue
        except ValueError:
            bare = "".join(letter for letter in token if letter not in string.punctuation)
        try:
            words.append(str(float(bare)))
        except ValueError:
            words += [word for word in bare.split() if word not in ("a", "an", "the")]
    return words


def naive_drop_f1(predicted: list[str], gold: list[str]) -> float:
    """The best of all ways to pair the spans, tried one by one."""

    def f1(guess: set[str], true: set[str]) -> float:
        numbers = {word for word in true if word.replace(".", "").isdigit()}
        if numbers and not numbers & guess:
            return 0.0
        if not guess or not true:
            return 1.0 if guess == true else 0.0
        return 2 * len(guess & true) / (len(guess) + len(true))

    size = max(len(predicted), len(gold))
    guesses: list[set[str] | None] = [set(drop_words(one)) for one in predicted]
    trues: list[set[str] | None] = [set(drop_words(one)) for one in gold]
    guesses += [None] * (size - len(guesses))
    trues += [None] * (size - len(trues))

    def total(order: tuple[set[str] | None, ...]) -> float:
        return sum(
            f1(guess, true)
            for guess, true in zip(guesses, order, strict=True)
            if guess is not None and true is not None
        )

    return max(total(order) for order in itertools.permutations(trues)) / size


span_lists = st.lists(texts.filter(lambda text: bool(text.strip())), min_size=1, max_size=4)


@given(span_lists, span_lists)
def test_drop_is_the_best_of_all_alignments(predicted: list[str], gold: list[str]) -> None:
    found = drop_f1(spans(*predicted), [spans(*gold)])
    assert found == pytest.approx(naive_drop_f1(predicted, gold), abs=0.0051)
    assert found == round(found, 2)
    same = sorted(map(drop_words, predicted)) == sorted(map(drop_words, gold))
    if same:
        assert (found, drop_exact_match(spans(*predicted), [spans(*gold)])) == (1, 1)


def test_both_forms_and_the_one_call_agree() -> None:
    predictions = ["The Denver Broncos!", "Broncos", "78", "c\nb"]
    answers = [["Denver Broncos"], ["Denver Broncos", "Panthers"], ["78-yard"], ["b\nc", "d"]]
    expected = {
        "squad_exact_match": (1 + 0 + 0 + 0) / 4,
        "squad_f1": (1 + 2 / 3 + 0 + 1) / 4,  # to SQuAD the spans are words, and F1 knows no order
        "drop_exact_match": (1 + 0 + 0 + 1) / 4,
        "drop_f1": (1 + 0.67 + 0.67 + 1) / 4,
    }
    expected |= {name.replace("squad", "record"): value for name, value in expected.items() if "squad" in name}
    for name, value in expected.items():
        by_evaluate = metric(name).compute(predictions=predictions, references=answers)
        assert by_evaluate == {name: pytest.approx(value)}
        assert score_predictions(name, predictions, Truth(answers=answers)) == pytest.approx(value)


def test_what_is_no_text_is_refused() -> None:
    truth = Truth(answers=[["a"], ["b"]])
    for predictions, message in [("ab", "list of texts"), ([0.5, 1.0], "list of texts"), (["a"], "for 2 rows")]:
        with pytest.raises(InputError, match=message):
            score_predictions("squad_f1", predictions, truth)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="list of texts"):
        metric("squad_f1").compute(predictions=[1], references=[["a"]])
    with pytest.raises(InputError, match="accepted answer"):
        metric("squad_f1").compute(predictions=["a"], references=[[]])
    with pytest.raises(InputError, match="row 1"):
        Truth(answers=[["a"], []])
    with pytest.raises(InputError, match="row 0"):
        Truth(answers=["a"])
