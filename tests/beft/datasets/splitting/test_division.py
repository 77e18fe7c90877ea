"""What is said of rows that cannot be divided is followed to the letter, and then they can."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.datasets.description import DatasetError
from beft.datasets.preparation import prepare_source
from beft.datasets.reading.loaders import fetch_source
from beft.datasets.splitting import division
from beft.datasets.splitting.division import Divisible
from beft.settings import Settings, SplitSettings
from tests.beft.datasets.small import describe, texts, write_jsonl
from tests.beft.datasets.test_shapes import GROUPED, REGRESSION, scored

Rows = list[dict[str, Any]]


def rows_of(*counts: int, copies: int = 1, start: int = 0) -> Rows:
    """Rows of so many texts of each label."""
    rows = [
        {"sentence": f"text {start} {label} {number}", "mood": f"label {label}"}
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    return [row for row in rows for _ in range(copies)]


def labels_of(count: int) -> dict[str, Any]:
    return {"labels": [f"label {label}" for label in range(count)]}


class Project:
    """A dataset of a user's own and the settings, which both can be changed."""

    def __init__(self, root: Path, rows: Rows, test: Rows, settings: dict[str, Any], changes: dict[str, Any]) -> None:
        self.root, self.rows, self.test, self.changes = root, rows, test, changes
        self.settings = {name: value for name, value in settings.items() if name != "size"}
        self.size = settings.get("size", "all")
        self.tries = 0

    def prepare(self) -> dict[str, Any]:
        """Divide the rows as they are now."""
        self.tries += 1
        root = self.root / str(self.tries)
        write_jsonl(root / "rows.jsonl", self.rows)
        source = {"kind": "files", "train": "rows.jsonl"}
        if self.test:
            write_jsonl(root / "test.jsonl", self.test)
            source["test"] = "test.jsonl"
        (root / "raw").mkdir()
        (root / "out").mkdir()
        fetch_source(describe(root, **{"sizes": {}, **self.changes, "source": source}), root / "raw", root)
        settings = Settings.from_mapping({"split": self.settings, "datasets": {"own": {"size": self.size}}})
        size = settings.datasets["own"].size
        return prepare_source(root / "raw", root / "out", size=size, settings=settings.split)

    def follow(self, message: str) -> None:
        """Do what a message says."""
        if "leave 'test' out of its source" in message:
            self.test = []
        for name, value in re.findall(r"(datasets\.own\.size|split\.\w+) to (\S+)", message):
            if name == "datasets.own.size":
                self.size = yaml.safe_load(value)
            else:
                self.settings[name.removeprefix("split.")] = yaml.safe_load(value)
        for name in re.findall(r"no row has the label '([^']+)': take it out of labels", message):
            self.changes["labels"].remove(name)
        for more, label in re.findall(r"bring ([\d,]+) more rows with the label 'label (\d+)'", message):
            counts = [0] * int(label) + [int(more)]
            self.rows = self.rows + rows_of(*counts, start=1)
        for more in re.findall(r"bring ([\d,]+) more rows with other texts", message):
            labels = self.changes["labels"]
            numbers = range(int(more.replace(",", "")))
            self.rows = self.rows + [
                {"sentence": f"further {n}", "mood": labels[n % len(labels)], "question": f"further {n}"}
                for n in numbers
            ]


ONE_LARGE_GROUP = [row | {"question": max(0, number - 899)} for number, row in enumerate(texts(1000))]
LARGE_GROUPS = [row | {"question": number // 40} for number, row in enumerate(texts(400))]


@pytest.mark.parametrize(
    ("rows", "test", "settings", "changes", "told"),
    [
        (rows_of(117, 3), [], {}, labels_of(2), None),
        (rows_of(200, 4), [], {"size": 20, "gate_rows": 0}, labels_of(2), None),
        (rows_of(117, 3), [], {"test_rows": 20, "gate_rows": 20}, labels_of(2), "split.gate_rows to 0 (no gate"),
        (rows_of(1000, 4), [], {"test_rows": 20, "gate_rows": 200}, labels_of(2), None),
        (rows_of(60, 1), [], {}, labels_of(2), "bring 2 more rows with the label 'label 1'"),
        (rows_of(150, 150), [], {"test_rows": 1000, "gate_rows": 1000}, labels_of(2), "to auto"),
        (rows_of(150, 150), [], {"test_rows": 40, "gate_rows": 40, "size": 500}, labels_of(2), "size to all"),
        (rows_of(150, 150), [], {"test_rows": 280, "gate_rows": 40}, labels_of(2), "set split.test_rows to auto"),
        (rows_of(100, 100), [], {"test_rows": 40, "gate_rows": 150, "size": 100}, labels_of(2), "split.gate_rows to"),
        (rows_of(6, 6), [], {"size": 8}, labels_of(2), None),
        (rows_of(2, 2), [], {}, labels_of(2), "bring 10 more rows with other texts, 5 of each label"),
        (rows_of(100, 100), [], {"size": 4}, labels_of(2), "dev (1 rows) has no row with the label"),
        (rows_of(100, 4), [], {"size": 10}, labels_of(2), None),
        (rows_of(*[4] * 30), [], {"size": 20}, labels_of(30), "and 9 others: set datasets.own.size to "),
        (rows_of(100, 100), [], {}, labels_of(3), "no row has the label 'label 2': take it out of labels"),
        (rows_of(100, 100), rows_of(100, 100), {}, labels_of(2), "200 are with a text that is in test"),
        (rows_of(100, 100), rows_of(30), {}, labels_of(2), "leave 'test' out of its source"),
        (rows_of(5, 5, copies=30), [], {"test_rows": 20}, labels_of(2), "test is empty: set split.test_rows to "),
        (rows_of(2, 2, copies=50), [], {}, labels_of(2), "(196 of the 200 rows are copies of a text)"),
        (rows_of(*[2] * 25), [], {}, labels_of(25), None),
        (LARGE_GROUPS, [], {"size": 120}, GROUPED | {"labels": ["bad", "good"]}, None),
        (ONE_LARGE_GROUP, [], {}, GROUPED | {"labels": ["bad", "good"]}, "set split.gate_rows to "),
        (LARGE_GROUPS[:80], [], {}, GROUPED | {"labels": ["bad", "good"]}, "too few groups are left for dev"),
    ],
)  # fmt: skip
def test_what_is_said_helps(
    rows: Rows, test: Rows, settings: dict[str, Any], changes: dict[str, Any], told: str | None, tmp_path: Path
) -> None:
    project = Project(tmp_path, rows, test, settings, {**changes, "labels": list(changes["labels"])})
    if told is None:
        assert project.prepare()["rows"]["train"]
        return
    with pytest.raises(DatasetError) as raised:
        project.prepare()
    assert told in str(raised.value)
    project.follow(str(raised.value))
    facts = project.prepare()
    assert facts["rows"]["train"] and facts["rows"]["dev"] and facts["rows"]["test"]


def test_texts_that_all_have_two_labels_are_said_to_have(tmp_path: Path) -> None:
    rows = [row | {"mood": mood} for row in texts(100) for mood in ("bad", "good")]
    project = Project(tmp_path, rows, [], {}, {"labels": ["bad", "good"]})
    with pytest.raises(DatasetError, match=r"160 are with a text that has two labels"):
        project.prepare()


def test_values_that_are_too_much_alike(tmp_path: Path) -> None:
    rows = [row | {"score": 1 if number < 98 else 2} for number, row in enumerate(scored(100))]
    project = Project(tmp_path, rows, [], {}, dict(REGRESSION))
    with pytest.raises(DatasetError, match=r"has but one value: bring \d+ more rows with other texts") as raised:
        project.prepare()
    assert "label" not in str(raised.value)


def test_the_trials_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    divide = division._divided

    def counted(description: Any, rows: Any, requested: Any) -> Any:
        tried.append(len(rows.keys))
        return divide(description, rows, requested)

    monkeypatch.setattr(division, "_divided", counted)
    labels = [number % 20 for number in range(10_000)]  # each of them is one group, so that no two splits share a label
    rows = Divisible([f"text {n}" for n in range(10_000)], labels, [False] * 10_000, [f"group {n}" for n in labels])
    described = describe(tmp_path, sizes={}, **labels_of(20))
    with pytest.raises(DatasetError, match=r"bring [\d,]+ more rows with other texts, \d+ of each label, each in"):
        division.divide(described, rows, size=None, settings=SplitSettings())
    assert sum(tried) <= 300_000
