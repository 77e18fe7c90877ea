"""Nested documents become plain rows: every form of every data set, and what is said of a document in none of them."""

from typing import Any

import pytest

from beft.datasets.layouts.drop import answer_text
from beft.datasets.layouts.registry import LAYOUTS, LayoutError, flattened
from beft.datasets.layouts.wsc import marked
from beft.datasets.sources import LayoutName

MULTIRC_FILE = [
    {
        "idx": 7,
        "version": 1.1,
        "passage": {
            "text": "Ann fed the cat.",
            "questions": [
                {"question": "Who ate? ", "idx": 40, "answers": [{"text": "The cat", "idx": 1, "label": 1},
                                                                {"text": "Ann", "idx": 2, "label": 0}]},
                {"question": "Who fed?", "idx": 41, "answers": [{"text": "Ann", "idx": 3, "label": 1}]},
            ],
        },
    }
]  # fmt: skip
MULTIRC_HUB = [
    {"paragraph": "Ann fed the cat.", "question": question, "answer": answer, "label": label,
     "idx": {"paragraph": 7, "question": number, "answer": at}}
    for question, answer, label, number, at in (
        ("Who ate? ", "The cat", 1, 40, 1), ("Who ate? ", "Ann", 0, 40, 2), ("Who fed?", "Ann", 1, 41, 3))
]  # fmt: skip
RECORD_FILE = [
    {
        "source": "a newspaper",
        "passage": {
            "text": "Zoe met Ann in Rome.\n@highlight\nAnn left",
            "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 10}, {"start": 15, "end": 18},
                         {"start": 32, "end": 34}],
        },
        "qas": [{"query": "@placeholder left Rome", "idx": 0,
                 "answers": [{"start": 8, "end": 10, "text": "Ann"}, {"start": 32, "end": 34, "text": "Ann"}]}],
        "idx": 0,
    }
]  # fmt: skip
RECORD_HUB = [
    {"passage": "Zoe met Ann in Rome.\n@highlight\nAnn left", "query": "@placeholder left Rome",
     "entities": ["Rome", "Zoe", "Ann"], "answers": ["Ann"], "idx": {"passage": 0, "query": 0}}
]  # fmt: skip
WSC_SPANS = {"span1_index": 0, "span1_text": "Mark", "span2_index": 5, "span2_text": "He"}
WSC_TEXT = "Mark told Pete, and laughed. He left. He cried."
WSC_HUB = [{"text": WSC_TEXT, "label": 1, **WSC_SPANS}]
WSC_FILE = [{"text": WSC_TEXT, "label": True, "idx": 0, "target": WSC_SPANS}]
SQUAD_FILE = {
    "version": "1.1",
    "data": [
        {
            "title": "Rome",
            "paragraphs": [
                {"context": "Rome has hills.", "qas": [
                    {"id": "a", "question": "What has Rome?", "answers": [{"answer_start": 9, "text": "hills"},
                                                                         {"answer_start": 9, "text": "hills."}]}]}
            ],
        }
    ],
}  # fmt: skip
SQUAD_HUB = [
    {"id": "a", "title": "Rome", "context": "Rome has hills.", "question": "What has Rome?",
     "answers": {"text": ["hills", "hills."], "answer_start": [9, 9]}}
]  # fmt: skip
NO_DATE = {"day": "", "month": "", "year": ""}
DROP_FILE = {
    "nfl_1": {
        "wiki_url": "",
        "passage": "Ann ran 3 yards and Bob 5.",
        "qa_pairs": [
            {"question": "Who ran?", "answer": {"number": "", "date": NO_DATE, "spans": ["Ann", "Bob"]},
             "query_id": "x",
             "validated_answers": [{"number": "", "date": NO_DATE, "spans": ["Bob"]},
                                   {"number": "", "date": NO_DATE, "spans": ["Bob"]}]},
            {"question": "How far?", "query_id": "y", "answer": {"number": "0", "date": NO_DATE, "spans": []}},
            {"question": "When?", "query_id": "z", "answer": {"number": "", "spans": [],
                                                             "date": {"day": "", "month": "May", "year": "1990"}}},
            {"question": "Why?", "query_id": "w", "answer": {"number": "", "date": NO_DATE, "spans": []}},
        ],
    }
}  # fmt: skip


@pytest.mark.parametrize("document", [MULTIRC_FILE, MULTIRC_HUB])
def test_multirc(document: Any) -> None:
    assert [list(row.values()) for row in flattened("multirc", document)] == [
        ["Ann fed the cat.", "Who ate? ", "The cat", "Who ate? The cat", 1, "7-40"],
        ["Ann fed the cat.", "Who ate? ", "Ann", "Who ate? Ann", 0, "7-40"],
        ["Ann fed the cat.", "Who fed?", "Ann", "Who fed? Ann", 1, "7-41"],
    ]


@pytest.mark.parametrize("document", [RECORD_FILE, RECORD_HUB])
def test_record(document: Any) -> None:
    [row] = flattened("record", document)
    assert row == {
        "passage": "Zoe met Ann in Rome.\n@highlight\nAnn left",
        "query": "@placeholder left Rome",
        "entities": ["Ann", "Rome", "Zoe"],
        "answers": ["Ann"],
    }


@pytest.mark.parametrize("document", [WSC_FILE, WSC_HUB])
def test_wsc_marks_the_pronoun_that_is_meant(document: Any) -> None:
    [row] = flattened("wsc", document)
    assert row["text"] == "Mark told Pete, and laughed. *He* left. He cried."
    assert row["question"] == 'Does the pronoun "*He*" refer to Mark?'
    assert row["label"] == 1


@pytest.mark.parametrize(
    ("at", "pronoun", "marked_text"),
    [
        (0, "It", "*It* rained; it stopped, and it shone on it."),
        (3, "it", "It rained; *it* stopped, and it shone on it."),  # one word off: the nearest counts
        (8, "it", "It rained; it stopped, and it shone on *it*."),
        (5, "and it", "It rained; it stopped, *and it* shone on it."),
        (2, "she", "It rained; it stopped, and it shone on it."),
    ],
)
def test_where_the_pronoun_is(at: int, pronoun: str, marked_text: str) -> None:
    assert marked("It rained; it stopped, and it shone on it.", pronoun, at) == marked_text


def test_wic_keeps_the_word_where_a_model_reads_it() -> None:
    row = {"word": "place", "sentence1": "My place.", "sentence2": "He lost his place.", "label": False, "idx": 1}
    [flat] = flattened("wic", [row])
    assert (flat["sentence1"], flat["sentence2_and_word"], flat["label"]) == (
        "My place.", "He lost his place. The word: place", False)  # fmt: skip


@pytest.mark.parametrize(("question", "opening"), [("cause", "He ran because"), ("effect", "He ran so")])
def test_copa_is_an_opening_with_two_endings(question: str, opening: str) -> None:
    row = {"premise": "He ran. ", "choice1": "It rained.", "choice2": "He sat.", "question": question, "label": 1}
    [flat] = flattened("copa", [row])
    assert (flat["opening"], flat["choice1"], flat["choice2"], flat["label"]) == (opening, "It rained.", "He sat.", 1)


@pytest.mark.parametrize("document", [SQUAD_FILE, SQUAD_HUB])
def test_squad(document: Any) -> None:
    assert flattened("squad", document) == [
        {"title": "Rome", "context": "Rome has hills.", "question": "What has Rome?", "answers": ["hills", "hills."]}
    ]


def test_drop_as_it_was_published() -> None:
    passage = "Ann ran 3 yards and Bob 5."
    assert flattened("drop", DROP_FILE) == [
        {"passage": passage, "question": "Who ran?", "answers": ["Ann\nBob", "Bob"]},
        {"passage": passage, "question": "How far?", "answers": ["0"]},
        {"passage": passage, "question": "When?", "answers": ["May 1990"]},
    ]


def test_drop_where_a_question_has_no_answers_of_the_validation() -> None:
    asked = {"question": "Who ran?", "answer": {"number": "3"}}
    for more in ({}, {"validated_answers": None}, {"validated_answers": []}):
        document = {"p": {"passage": "a", "qa_pairs": [{**asked, **more}]}}
        assert flattened("drop", document) == [{"passage": "a", "question": "Who ran?", "answers": ["3"]}]


def test_drop_of_the_hub_and_with_answers_as_text() -> None:
    spans = {"passage": "p", "question": "q", "answers_spans": {"spans": ["Ann", "Bob"], "types": ["span", "span"]}}
    plain = {"passage": "p", "question": "q", "answers": ["Ann and Bob", "Bob"]}
    assert [row["answers"] for row in flattened("drop", [spans, plain])] == [["Ann\nBob"], ["Ann and Bob", "Bob"]]


def test_a_number_counts_before_spans_and_date() -> None:
    assert answer_text({"number": "3", "spans": ["x"], "date": {"year": "1990"}}, "here") == "3"


@pytest.mark.parametrize(
    ("layout", "document", "told"),
    [
        ("multirc", {"data": []}, "expected a list of rows, found an object"),
        ("multirc", [{"premise": "a", "label": 1}], "row 1: expected 'passage', found only 'premise', 'label'"),
        ("multirc", [{"passage": "text"}], "row 1: expected an object under 'passage', found text"),
        ("multirc", [{"passage": {"text": "a", "questions": {}}}],
         "expected a list under 'questions', found an object"),
        ("record", [["a"]], "row 1: expected an object with 'passage', found a list"),
        ("record", [{"passage": {"text": "a", "entities": [{"start": "0", "end": 1}]}}],
         "row 1, entity: expected a number under 'start', found text"),
        ("record", [{"passage": "a", "query": "b", "entities": [1], "answers": []}], "expected texts, found a number"),
        ("wsc", [{"text": "a"}], "row 1: expected 'span1_text', found only 'text'"),
        ("wsc", [{"text": "a", **WSC_SPANS}], "row 1: expected 'label'"),  # the unlabelled test file
        ("wic", [{"word": "a"}], "row 1: expected 'sentence1'"),
        ("copa", [{"question": "why"}], "expected 'cause' or 'effect' under 'question', found 'why'"),
        ("squad", {"version": "1.1"}, "the file: expected 'data', found only 'version'"),
        ("squad", {"data": [{"title": "a"}]}, "article 1: expected 'paragraphs', found only 'title'"),
        ("squad", [{"title": "a", "context": "b", "question": "c", "answers": []}],
         "expected an object under 'answers', found a list"),
        ("drop", {"p": {"passage": "a"}}, "passage 'p': expected 'qa_pairs', found only 'passage'"),
        ("drop", [{"passage": "a", "question": "b"}], "row 1: expected 'answers', found only 'passage', 'question'"),
        ("drop", {"p": {"passage": "a", "qa_pairs": [{"question": "b", "answer": {}, "validated_answers": 1}]}},
         "passage 'p', question: expected a list under 'validated_answers', found a number"),
        ("drop", {"p": {"passage": "a", "qa_pairs": [{"question": "b", "answer": {"spans": [1]}}]}},
         "expected texts, found a number"),
    ],
)  # fmt: skip
def test_what_was_expected_and_what_was_found(layout: LayoutName, document: Any, told: str) -> None:
    with pytest.raises(LayoutError) as raised:
        flattened(layout, document)
    assert told in str(raised.value)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("document", [None, 3, "text", [None], [3]])
def test_no_document_is_met_with_a_traceback(layout: LayoutName, document: Any) -> None:
    with pytest.raises(LayoutError):
        flattened(layout, document)
