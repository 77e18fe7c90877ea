"""What is expected of the data: how the lines of the files are written out, and what is said of wrong ones."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from beft.datasets.description import DatasetError
from beft.errors import InputError
from tasks.validation.expectation_files import (
    EMBEDDED,
    SPLIT,
    Subject,
    expectation_files,
    expectations_of,
    watched_files,
)


def subject(*, together: bool = True, dataset: str = "own") -> Subject:
    """A dataset of single texts with a train and a test part."""
    return Subject(
        dataset=dataset,
        frame=pd.DataFrame({"sentence": ["a"], SPLIT: ["train"]}),
        roles={"text": "sentence", "label": "mood"},
        facts={None: {"most": 9, "names": ["x"]}, "test": {"most": 2}},
        splits=["train", "test"],
        together=together,
        places=[SPLIT],
    )


def write(root: Path, name: str, content: object) -> None:
    """Write a file of ``data/expectations``."""
    path = root / "data" / "expectations" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))


def written(root: Path, content: object, *, together: bool = True) -> list[tuple[object, ...]]:
    """The expectations that a general file for raw data stands for."""
    write(root, "raw", content)
    found = expectations_of("raw", subject(together=together), root)
    return [(one.name, one.column, one.split, one.arguments) for one in found]


def test_a_line_is_about_each_part_that_the_dataset_has(tmp_path: Path) -> None:
    line = {"expectation": "expect_x", "columns": ["text", "text_pair", "label", "other"]}
    assert written(tmp_path, [line]) == [("expect_x", name, None, {}) for name in ("sentence", "mood", "other")]


def test_a_line_is_about_the_splits_that_it_names_and_the_data_has(tmp_path: Path) -> None:
    line = {"expectation": "expect_x", "value": "$most"}
    one_each = [("expect_x", None, "train", {"value": 9}), ("expect_x", None, "test", {"value": 2})]
    assert written(tmp_path, [line]) == [("expect_x", None, None, {"value": 9})]
    assert written(tmp_path, [line], together=False) == one_each
    assert written(tmp_path, [line | {"splits": ["test", "gate"]}]) == one_each[1:]


def test_a_dataset_s_own_file_adds_and_replaces(tmp_path: Path) -> None:
    write(
        tmp_path,
        "own",
        {"raw": [{"expectation": "expect_x", "columns": ["label"], "value": 2}, {"expectation": "expect_y"}]},
    )
    assert written(tmp_path, [{"expectation": "expect_x", "columns": ["text", "label"], "value": 1}]) == [
        ("expect_x", "sentence", None, {"value": 1}),
        ("expect_x", "mood", None, {"value": 2}),
        ("expect_y", None, None, {}),
    ]


def test_a_dataset_s_own_file_names_columns_and_splits_that_there_are(tmp_path: Path) -> None:
    lines = [
        {"expectation": "expect_x", "columns": ["sentnce"]},
        {"expectation": "expect_x", "columns": ["text"], "splits": ["tset"]},
        {"expectation": "expect_x", "columns": [["text"]]},
        {"expectation": "expect_column_to_exist", "columns": ["written_at"]},
        {"expectation": "expect_x", "columns": ["mood", "text_pair"], "splits": ["gate"]},
    ]
    write(tmp_path, "own", {"raw": lines})
    with pytest.raises(DatasetError) as raised:
        written(tmp_path, [{"expectation": "expect_x", "columns": ["another"]}])
    assert [problem.partition("own.yaml, ")[2] for problem in raised.value.problems] == [
        "expectation 1 of raw: unknown column 'sentnce'. Did you mean 'sentence'? Known: label, sentence, text.",
        "expectation 2 of raw: unknown split 'tset'. Did you mean 'test'? Known: dev, gate, test, train.",
        "expectation 3 of raw: 'columns' must be a list of names, not [['text']]",
    ]


def test_a_dataset_s_own_file_can_name_a_column_that_is_called_as_a_part_is(tmp_path: Path) -> None:
    data = subject()
    data.frame["id"] = ["7"]
    write(tmp_path, "raw", [{"expectation": "expect_x", "columns": ["id", "text"]}])
    write(tmp_path, "own", {"raw": [{"expectation": "expect_y", "columns": ["id", "group"]}]})
    found = expectations_of("raw", data, tmp_path)
    assert [(one.name, one.column) for one in found] == [("expect_x", "sentence"), ("expect_y", "id")]


def test_lines_of_one_file_never_replace_each_other(tmp_path: Path) -> None:
    lines = [{"expectation": "expect_x", "columns": ["text"], "value": value} for value in (1, 2)]
    assert written(tmp_path, lines) == [("expect_x", "sentence", None, {"value": value}) for value in (1, 2)]
    write(tmp_path, "own", {"raw": [line | {"value": line["value"] + 2} for line in lines]})
    assert written(tmp_path, lines) == [("expect_x", "sentence", None, {"value": value}) for value in (3, 4)]


def test_every_wrong_line_is_said_at_once(tmp_path: Path) -> None:
    write(tmp_path, "own", {"raw": ["expect_x"]})
    with pytest.raises(DatasetError) as raised:
        written(
            tmp_path,
            [
                {"value": 1},
                {"expectation": "expect_x", "value": "$mots"},
                {"expectation": "expect_x", "columns": "text"},
            ],
        )
    told = "\n".join(raised.value.problems)
    assert len(raised.value.problems) == 4
    assert "raw.yaml, expectation 1 of raw: it must be a mapping with the name" in told
    assert "expectation 2 of raw: unknown fact 'mots'. Did you mean 'most'?" in told
    assert "expectation 3 of raw: 'columns' must be a list of names, not 'text'" in told
    assert "own.yaml, expectation 1 of raw" in told


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("raw", "a: [", "not valid YAML"),
        ("raw", "- expectation: 2020-13-45", "not valid YAML"),
        ("raw", '["\\ud83d"]', "half a surrogate pair"),
        ("raw", "a: 1", "a list of expectations"),
        ("own", "- a", "lists under raw"),
    ],
)
def test_files_that_are_no_expectations(name: str, content: str, told: str, tmp_path: Path) -> None:
    write(tmp_path, "raw", [])
    write(tmp_path, name, content)
    with pytest.raises(InputError, match=told):
        expectations_of("raw", subject(), tmp_path)


def test_the_embedded_files_are_used_where_the_workspace_has_none(tmp_path: Path) -> None:
    assert expectation_files("raw", "imdb", tmp_path) == [EMBEDDED / "raw.yaml", EMBEDDED / "imdb.yaml"]
    before = watched_files("raw", "own", tmp_path)
    assert list(before) == ["expectations/raw.yaml"]
    write(tmp_path, "own", {"prepared": []})
    assert watched_files("raw", "own", tmp_path).keys() - before.keys() == {"expectations/own.yaml"}
    assert expectation_files("prepared", "own", tmp_path)[1] == tmp_path / "data" / "expectations" / "own.yaml"


def test_a_file_may_end_in_yml_and_is_never_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "expectations"
    folder.mkdir(parents=True)
    (folder / "own.yml").write_text("raw: []")
    assert [path.name for path in expectation_files("raw", "own", tmp_path)] == ["raw.yaml", "own.yml"]
    (folder / "own.yaml").write_text("raw: []")
    with pytest.raises(InputError, match=r"own.yaml and .*own.yml are about the same data"):
        expectation_files("raw", "own", tmp_path)
