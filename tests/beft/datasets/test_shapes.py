"""The shapes beside classification: their columns, metrics and prompts, from a description to prepared rows."""

import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from beft.datasets.description import DatasetError, Description
from beft.datasets.normalisation import text_key
from beft.datasets.prepared import Rows, load_split, load_summary, save_split
from beft.datasets.prompt import fill
from beft.files import read_json, sha256_file, write_json
from tests.beft.datasets.small import describe, prepared, texts

SPLITS = ("train", "dev", "gate", "test")
REGRESSION: dict[str, Any] = {
    "shape": "regression",
    "labels": {},
    "label_range": [0, 5],
    "columns": {"text": "sentence", "label": "score"},
}
CHOICE: dict[str, Any] = {
    "shape": "multiple_choice",
    "labels": {},
    "columns": {"text": "sentence", "choices": ["first", "second"], "label": "right"},
}
RECORD: dict[str, Any] = {
    "shape": "multiple_choice",
    "labels": {},
    "columns": {"text": "sentence", "choices": "entities", "answers": "right"},
    "metrics": ["record_f1", "record_exact_match"],
}
GENERATION: dict[str, Any] = {
    "shape": "generation",
    "labels": {},
    "columns": {"text": "sentence", "text_pair": "question", "answers": "answers"},
    "metrics": ["squad_f1", "squad_exact_match"],
    "prompt": {"template": "{text}\nQuestion: {text_pair}\nAnswer:"},
}
GROUPED: dict[str, Any] = {"columns": {"text": "sentence", "label": "mood", "group": "question"}}


def scored(count: int) -> list[dict[str, Any]]:
    """Rows whose score follows from their number."""
    return [{"sentence": f"sentence number {n} of many", "score": f"{n % 11 / 2:.3f}"} for n in range(count)]


def requested(count: int) -> list[dict[str, Any]]:
    """Rows with two choices, of which the number says the right one."""
    return [
        {"sentence": f"sentence {n}", "first": f"choice {n}", "second": f"choice {n + 1}", "right": n % 2}
        for n in range(count)
    ]


def test_a_regression_keeps_its_values_and_their_spread(tmp_path: Path) -> None:
    rows = scored(220)
    folder = prepared(tmp_path, rows, size=100, **REGRESSION)
    truth = {row["sentence"]: float(row["score"]) for row in rows}
    for name in SPLITS:
        split = load_split(folder, name)
        assert split.labels == [truth[text] for text in split.texts]
        assert all(isinstance(label, float) for label in split.labels)
    assert pq.read_schema(folder / "test.parquet").field("label").type == "double"
    test = load_split(folder, "test").labels
    assert [sum(label == step / 2 for label in test) for step in range(11)] == pytest.approx([40 / 11] * 11, abs=1.5)
    summary = load_summary(folder)
    assert (summary["shape"], summary["metrics"], summary["labels"]) == ("regression", ["pearson"], [])
    assert (summary["values"]["test"]["least"], summary["values"]["test"]["most"]) == (0.0, 5.0)


def test_whole_numbers_of_a_regression_are_values_too(tmp_path: Path) -> None:
    folder = prepared(tmp_path, [row | {"score": n % 3} for n, row in enumerate(scored(220))], **REGRESSION)
    assert {type(label) for label in load_split(folder, "dev").labels} == {float}


def test_choices_in_columns_of_their_own(tmp_path: Path) -> None:
    rows = requested(200)
    folder = prepared(tmp_path, rows, **CHOICE)
    truth = {row["sentence"]: row for row in rows}
    for name in SPLITS:
        split = load_split(folder, name)
        assert split.choices == [[truth[text]["first"], truth[text]["second"]] for text in split.texts]
        assert split.labels == [truth[text]["right"] for text in split.texts]
        assert (split.answers, split.groups) == (None, None)
    assert load_summary(folder)["choices"]["test"] == {"least": 2, "mean": 2, "most": 2}


def test_the_same_text_with_other_choices_is_another_row(tmp_path: Path) -> None:
    rows = requested(200)
    folder = prepared(tmp_path, [*rows, rows[0] | {"second": "something else"}, rows[1]], size="all", **CHOICE)
    summary = load_summary(folder)
    assert summary["raw_rows"] == 202
    assert summary["dropped"]["duplicates"] <= 1  # of rows[1]; both copies may be in test
    ids = [one for name in SPLITS for one in load_split(folder, name).ids]
    assert text_key(rows[0]["sentence"], None, [rows[0]["first"], rows[0]["second"]]) in ids
    assert text_key(rows[0]["sentence"], None, [rows[0]["first"], "something else"]) in ids


def test_several_right_choices(tmp_path: Path) -> None:
    rows = [
        {"sentence": f"sentence {n}", "entities": ["Ann", "Bob", "Cy"], "right": ["Cy", "Bob"] if n % 2 else ["Ann"]}
        for n in range(200)
    ]
    folder = prepared(tmp_path, rows, **RECORD)
    test = load_split(folder, "test")
    odd = [int(text.split()[1]) % 2 == 1 for text in test.texts]
    assert test.labels == [1 if is_odd else 0 for is_odd in odd]
    assert test.answers == [["Cy", "Bob"] if is_odd else ["Ann"] for is_odd in odd]
    assert load_summary(folder)["metrics"] == ["record_f1", "record_exact_match"]


def test_generation_has_answers_and_no_labels(tmp_path: Path) -> None:
    rows = [
        {"sentence": f"{{text_pair}} number {n}", "question": "which number?", "answers": [str(n), f"no. {n}"]}
        for n in range(200)
    ]
    folder = prepared(tmp_path, rows, **GENERATION)
    train = load_split(folder, "train")
    assert train.labels == []
    assert train.answers == [[text.split()[-1], f"no. {text.split()[-1]}"] for text in train.texts]
    assert "label" not in pq.read_schema(folder / "train.parquet").names
    prompt = load_summary(folder)["prompt"]
    assert prompt == {"template": "{text}\nQuestion: {text_pair}\nAnswer:", "answers": {}, "answer": " {answer}"}
    assert train.pairs is not None
    filled = fill(prompt["template"], text=train.texts[0], text_pair=train.pairs[0])
    assert filled == f"{train.texts[0]}\nQuestion: which number?\nAnswer:"  # braces of a text stay


def test_groups_stay_together_and_keep_their_names(tmp_path: Path) -> None:
    rows = [row | {"question": n // 4} for n, row in enumerate(texts(240))]
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    hashes = []
    for name, order in (("one", rows), ("two", shuffled)):
        (tmp_path / name).mkdir()
        folder = prepared(tmp_path / name, order, **GROUPED)
        hashes.append({path.name: sha256_file(path) for path in folder.glob("*.parquet")})
    assert hashes[0] == hashes[1]
    groups = {name: load_split(folder, name).groups for name in SPLITS}
    assert all(of_split is not None for of_split in groups.values())
    for name, of_split in groups.items():
        assert all((of_split or []).count(group) == 4 for group in of_split or [])
        assert not any(set(of_split or []) & set(groups[other] or []) for other in SPLITS if other != name)
    number = {row["sentence"]: row["question"] for row in rows}
    test = load_split(folder, "test")
    assert test.groups == [f"train {number[text]}" for text in test.texts]
    assert load_summary(folder)["groups"] == {"train": 12, "dev": 3, "gate": 10, "test": 10}


def test_prepared_folders_of_before_read_as_classification(tmp_path: Path) -> None:
    folder = prepared(tmp_path, texts(200))
    assert not {"shape", "metrics", "prompt"} & set(read_json(folder / "data.json"))
    assert pq.read_schema(folder / "train.parquet").names == ["id", "text", "text_pair", "label"]
    summary = load_summary(folder)
    assert (summary["shape"], summary["metrics"], summary["prompt"]) == ("classification", ["accuracy"], None)
    old = {name: value for name, value in read_json(folder / "data.json").items() if name != "metric"}
    write_json(folder / "data.json", old | {"metric": "f1"})
    assert load_summary(folder)["metrics"] == ["f1"]


@pytest.mark.parametrize(
    "rows",
    [
        Rows(["a"], ["x"], None, [1]),
        Rows(["a", "b"], ["x", "y"], ["p", "q"], [0.5, 1.0]),
        Rows(["a"], ["x"], None, [0], choices=[["c", "d"]], answers=[["c", "d"]], groups=["g"]),
        Rows(["a"], ["x"], ["p"], [], answers=[["c"]]),
        Rows(["a", "b"], ["x", "y"], None, [0, 1], kept={"domain": ["film", ""], "text": ["m", "n"]}),
    ],
)
def test_rows_come_back_as_they_were_saved(rows: Rows, tmp_path: Path) -> None:
    save_split(tmp_path, "train", rows)
    assert load_split(tmp_path, "train") == rows


@pytest.mark.parametrize(
    ("rows", "changes", "told"),
    [
        ([*scored(200), {"sentence": "a", "score": 10**400}, {"sentence": "b", "score": 5.5}], REGRESSION,
         ["column 'score': no number in line 201", "column 'score': outside of 0 to 5 in line 202"]),
        ([*scored(200), {"sentence": "a", "score": "high"}, {"sentence": "b", "score": 5.5}], REGRESSION,
         ["column 'score': no number in line 201", "column 'score': outside of 0 to 5 in line 202"]),
        ([row | {"score": 1} for row in scored(200)], REGRESSION, ["every row of its train data has the label 1"]),
        ([*requested(200), *({"sentence": "a", "first": "x", "second": second, "right": right}
                         for second, right in ((None, 0), ("y", 2), ("y", "one"), ("", 0), (" \u200b", 0)))], CHOICE,
         ["columns first, second: no text in line 201", "columns first, second: a blank choice in 2 lines: 204, 205; ",
          "column 'right' is no number of a choice in 2 lines: 202, 203"]),
        ([{"sentence": "a", "entities": ["x", "y"], "right": ["z"]}, {"sentence": "b", "entities": "x", "right": ["x"]},
          {"sentence": "c", "entities": ["x"], "right": ["x"]}], RECORD,
         ["none of the answers is a choice in line 1", "column 'entities': no list of texts in line 2",
          "fewer than 2 choices in line 3"]),
        ([{"sentence": "a", "question": "b", "answers": []}, {"sentence": "a", "question": "b", "answers": [" "]}],
         GENERATION, ["column 'answers': empty, or with a blank text, in 2 lines: 1, 2"]),
        ([row | {"question": None} for row in texts(200)], GROUPED, ["column 'question': blank in 200 lines"]),
        (texts(200), CHOICE, ["unknown column 'first'", "unknown column 'second'", "unknown column 'right'"]),
    ],
)  # fmt: skip
def test_what_is_said_of_rows_that_do_not_fit_their_shape(
    rows: list[dict[str, Any]], changes: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError) as raised:
        prepared(tmp_path, rows, **changes)
    assert [part for part in told if part not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"metric": "pearson"}, "'pearson' does not fit classification with 2 labels; these do: accuracy, macro_f1, "),
        ({"metrics": ["accuracy", "multirc_f1"]}, "'multirc_f1' does not fit classification with 2 labels without gro"),
        ({"labels": ["bad", "good", "so"], "metric": "f1"}, "'f1' does not fit classification with 3 labels"),
        ({"metrics": ["accuracy", "accuracy"]}, "one is named twice"),
        ({"metric": "f1", "metrics": ["accuracy"]}, "the first of them, 'accuracy', is not the metric 'f1'"),
        ({"metrics": ["acuracy"]}, "unknown value 'acuracy'. Did you mean 'accuracy'"),
        ({"shape": "regresion"}, "shape: unknown value 'regresion'. Did you mean 'regression'"),
        (REGRESSION | {"metric": "accuracy"}, "'accuracy' does not fit regression; these do: pearson, spearman"),
        (REGRESSION | {"labels": ["a", "b"]}, "labels: regression has none"),
        (REGRESSION | {"label_range": [5, 0]}, "the least number comes first"),
        ({"label_range": [0, 5]}, "label_range: it is for regression, not for classification"),
        (CHOICE | {"metric": "record_f1"}, "'record_f1' does not fit multiple_choice; these do: accuracy"),
        (CHOICE | {"columns": {"text": "a", "label": "b"}}, "multiple_choice needs the column 'choices'"),
        (CHOICE | {"columns": {"text": "a", "choices": "b"}}, "needs the column 'label' .* or 'answers'"),
        (CHOICE | {"columns": {"text": "a", "choices": ["b"], "label": "c"}}, "name the one column .* at least 2"),
        (GENERATION | {"columns": {"text": "a", "label": "b"}}, "generation needs the column 'answers'"),
        ({"columns": {"text": "a", "label": "b", "choices": "c"}}, "classification has no column 'choices'"),
        ({"prompt": {"template": "It is", "answers": {"bad": " no", "good": " yes"}}}, r"{text} does not stand in it"),
        ({"prompt": {"template": "{text} {text_pair}"}}, r"{text_pair} is none of its places: {text}"),
        ({"prompt": {"template": "{text} "}}, "ends with a space"),
        ({"prompt": {"template": "{text}", "answers": {"bad": " no"}}}, "must name exactly the labels bad, good"),
        ({"prompt": {"template": "{text}", "answers": {"bad": " a", "good": " a"}}}, "a word of its own"),
        (CHOICE | {"prompt": {"template": "{text}", "answers": {"a": "b"}}}, "the answers of multiple_choice are the"),
        (CHOICE | {"prompt": {"template": "{text}", "answer": " it"}}, r"it must hold {choice} once"),
        (REGRESSION | {"prompt": {"template": "{text}"}}, "regression is not put to a language model"),
        ({"gate_rows": 5}, "gate_rows"),
    ],
)
def test_what_is_wrong_with_a_description(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=told):
        describe(tmp_path, **changes)


@pytest.mark.parametrize("changes", [REGRESSION, CHOICE, RECORD, GENERATION, GROUPED])
def test_a_description_is_read_as_it_was_written(changes: dict[str, Any], tmp_path: Path) -> None:
    description = describe(tmp_path, **changes)
    (tmp_path / "own.yaml").write_text(description.to_yaml())
    assert Description.read(tmp_path / "own.yaml") == description


@pytest.mark.parametrize(("changes", "metric"), [({}, "accuracy"), (REGRESSION, "pearson"), (CHOICE, "accuracy")])
def test_the_usual_metric_of_a_shape(changes: dict[str, Any], metric: str, tmp_path: Path) -> None:
    description = describe(tmp_path, **changes)
    assert (description.metric, description.metrics) == (metric, (metric,))


def test_a_dataset_that_cannot_spare_the_usual_gate(tmp_path: Path) -> None:
    summary = load_summary(prepared(tmp_path, texts(130), gate_rows=25))
    assert (summary["rows"]["gate"], summary["asked"]["gate_rows"]) == (25, 25)
