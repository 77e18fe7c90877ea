"""True labels that are told later, and the comparison of two versions that is made of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from beft.adapters.adapter import Adapter
from beft.errors import BeftError, InputError, RowError
from beft.files import write_json
from beft.problems.multi_label import MultiLabel
from tasks.registry.promote import Candidates
from tasks.serving.feedback import (
    add_feedback,
    as_of,
    labelled_answers,
    read_feedback,
    read_feedback_file,
    told_labels,
    unanswered,
)
from tasks.serving.traffic import ANSWERS, FEEDBACK, FeedbackRecord, read_records, write_records
from tasks.serving.traffic_comparison import compare_on_traffic
from tasks.settings import PipelineSettings
from tests.beft.serving.adapters import Kind, draw_adapter, tiny_base
from tests.tasks.serving.records import START, answer

FOUND = Candidates("beft-films", "2", "1")
SIDES = {"champion": "1", "challenger": "2"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "request_id,row,label\nrequest-1,0,good\nrequest-2,,bad\n"),
        ("labels.jsonl", '{"request_id": "request-1", "label": "good"}\n{"request_id": "request-2", "label": "bad"}\n'),
    ],
)
def test_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    found = read_feedback_file(tmp_path / name, "a random tenth")
    assert [(one.request_id, one.row, one.label, one.source) for one in found] == [
        ("request-1", 0, "good", "a random tenth"),
        ("request-2", 0, "bad", "a random tenth"),
    ]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"label": "x"}, "row 0 has no request_id"),
        ({"request_id": "a"}, "has no label"),
        ({"request_id": "a", "label": ""}, "has no label"),
        ({"request_id": "a", "label": True}, "has no label"),
        ({"request_id": "a", "label": "x", "row": -1}, "has -1 for its row"),
        ({"request_id": "a", "label": "x", "row": "1.5"}, "has '1.5' for its row"),
        ({"request_id": "a", "label": "x", "row": "²"}, "has '²' for its row"),
        ({"request_id": "a", "label": "x", "row": "9" * 5000}, "for its row; rows of a request are numbered from 0 to"),
        ({"request_id": "a", "label": "x", "row": 2**31}, "has 2147483648 for its row"),
        ({"request_id": "\ud800", "label": "x"}, "in its request_id, half a surrogate pair"),
        ({"request_id": "a", "label": "\ud800"}, "in its label, half a surrogate pair"),
        ({"request_id": "a", "label": [{"start": 0, "end": 1, "label": "\ud800"}]}, "in its label, half a"),
        ({"request_id": "a", "label": "x", "source": "\ud800"}, "in its source, half a surrogate pair"),
        ({"request_id": "a", "label": "x", "text": "y"}, "must be an object with the fields"),
        ("a", "must be an object"),
    ],
)
def test_what_is_refused(record: Any, says: str) -> None:
    with pytest.raises(RowError, match=says):
        read_feedback([record])


def test_the_largest_row_is_kept(tmp_path: Path) -> None:
    add_feedback(tmp_path, read_feedback([{"request_id": "a", "label": "x", "row": 2**31 - 1}]))
    assert read_records(tmp_path, FEEDBACK)["row"].to_pylist() == [2147483647]


def test_a_disk_that_takes_no_feedback_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BeftError, match=r"could not be kept in .*file: Not a directory"):
        add_feedback(tmp_path / "file", read_feedback([{"request_id": "a", "label": "x"}]))


@pytest.mark.parametrize("text", ['{"request_id"', "[1]", "[" * 100_000])
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"line 1 (is no JSON|must be)"):
        read_feedback_file(tmp_path / "labels.jsonl")
    (tmp_path / "labels.csv").write_text(f"request_id,label\na,{'x' * 200_000}\n")
    with pytest.raises(InputError, match="line 2 is no CSV: field larger than"):
        read_feedback_file(tmp_path / "labels.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_feedback_file(tmp_path / "nothing.csv")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_ends_where_json_lines_end(end: str, tmp_path: Path) -> None:
    labels = [f"a{mark}b" for mark in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c")]
    told = [
        json.dumps({"request_id": "r", "row": row, "label": one}, ensure_ascii=False) for row, one in enumerate(labels)
    ]
    (tmp_path / "labels.jsonl").write_bytes(end.join([*told, ""]).encode())
    assert [one.label for one in read_feedback_file(tmp_path / "labels.jsonl")] == labels


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("labels.jsonl", '\n{"request_id": "a", "label": "x"}\n\n{"request_id": "b"\n', "line 4 is no JSON"),
        ("labels.jsonl", '\n{"request_id": "a", "label": "x"}\n\n{"request_id": "b"}\n', "line 4 has no label"),
        ("labels.csv", "request_id,label\na,x\n\nb,\n", "line 4 has no label"),
    ],
)
def test_a_wrong_line_is_named(name: str, text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}: {says}"):
        read_feedback_file(tmp_path / name)


def test_feedback_meets_its_answers(tmp_path: Path) -> None:
    write_records(tmp_path, ANSWERS, [answer(number) for number in range(3)])
    add_feedback(tmp_path, read_feedback([{"request_id": "request-1", "label": "bad"}]))
    again = replace(read_feedback([{"request_id": "request-1", "label": "good"}])[0])
    add_feedback(tmp_path, [replace(again, time=again.time)])
    lost = read_feedback([{"request_id": "request-7", "label": "good"}])
    assert unanswered(tmp_path, lost) == lost
    add_feedback(tmp_path, lost)
    found = labelled_answers(tmp_path, "beft-films")
    assert found[["request_id", "label"]].to_numpy().tolist() == [["request-1", "good"]]  # the last one counts


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[pa.Table]:
    """What is read of files from now on."""
    found = []
    read = pq.read_table

    def recorded(*arguments: Any, **values: Any) -> pa.Table:
        found.append(read(*arguments, **values))
        return found[-1]

    monkeypatch.setattr(pq, "read_table", recorded)
    return found


def test_only_what_was_told_of_is_read(tmp_path: Path, tables: list[pa.Table]) -> None:
    long = "long " * 1000
    for name in ("beft-films", "beft-other"):
        write_records(
            tmp_path, ANSWERS, [answer(n, name=name, row=row, text=long) for n in range(50) for row in (0, 1)]
        )
    told = read_feedback([{"request_id": f"request-{n}", "row": 2 * (n == 4), "label": "bad"} for n in (3, 4, 99)])
    assert unanswered(tmp_path, told) == told[1:]
    assert sum(map(len, tables)) == 2 * 4  # both rows of two requests, of both models
    assert all(set(table.column_names) <= {"request_id", "row", "time"} for table in tables)
    tables.clear()
    add_feedback(tmp_path, told)
    found = labelled_answers(tmp_path, "beft-films")
    assert found[["request_id", "row", "label"]].to_numpy().tolist() == [["request-3", 0, "bad"]]
    answers = [table for table in tables if "version" in table.column_names]
    assert sum(map(len, answers)) == 4  # of one model
    assert not any("text" in table.column_names for table in answers)


def test_nothing_was_told(tmp_path: Path) -> None:
    write_records(tmp_path, ANSWERS, [answer()])
    assert unanswered(tmp_path, []) == []
    found = labelled_answers(tmp_path, "beft-films")
    assert len(found) == 0 and {"label", "feedback_source", "probabilities", "tokens"} <= set(found.columns)


def test_a_label_that_only_looks_like_json_is_itself() -> None:
    deep = "[" * 100_000
    assert told_labels(deep) == [deep]


def test_times() -> None:
    assert as_of("2026-11-28T12:00").isoformat() == "2026-11-28T12:00:00+00:00"
    with pytest.raises(InputError, match="2026-11-28"):
        as_of("yesterday")


def traffic(folder: Path, rows: int, *, champion: float, challenger: float, seen: int = 0) -> dict[str, Path]:
    """Labelled rows that both versions answered, right on some shares of them; the models' folders."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, rows)
    base = tiny_base(folder / "base")
    records, models = [], {}
    for (side, version), share in zip(SIDES.items(), (champion, challenger), strict=True):
        models[side] = folder / side
        sha256 = draw_adapter(base, Kind(("bad", "good"))).save(models[side] / "artifacts" / "adapter")
        right = np.arange(rows) < share * rows
        for number in range(rows):
            at = truth[number] if right[number] else 1 - truth[number]
            probabilities = [0.9, 0.1] if at == 0 else [0.1, 0.9]
            role = "answer" if side == "champion" else "shadow"
            records.append(answer(number, version=version, sha256=sha256, role=role, probabilities=probabilities))
        write_json(models[side] / "seen_rows.json", [f"{number:020x}" for number in range(seen)])
    write_records(folder / "traffic", ANSWERS, records)
    labels = [FeedbackRecord(START, f"request-{n}", 0, ("bad", "good")[truth[n]], "every row") for n in range(rows)]
    add_feedback(folder / "traffic", [*labels, FeedbackRecord(START, "request-0", 0, "so-so", "every row")])
    return models


def test_a_certain_gain_on_traffic(tmp_path: Path) -> None:
    models = traffic(tmp_path, 300, champion=0.7, challenger=0.9, seen=10)
    found = compare_on_traffic(PipelineSettings(), FOUND, models, tmp_path / "traffic", metric="accuracy")
    # Ten rows were trained on, among them the one whose label nobody knows.
    assert (found["rows"], found["seen_before"]) == (290, 10)
    assert found["sides"]["champion"]["score"] == pytest.approx((210 - 10) / 290)
    assert found["sides"]["challenger"]["score"] == pytest.approx((270 - 10) / 290)
    assert found["gain"]["difference"] == pytest.approx(60 / 290)
    assert found["gain"]["certain"] is True
    assert "every row: 290" in found["notes"][0] and "10 rows" in found["notes"][1]
    json.dumps(found)


def test_without_labels_nothing_is_decided(tmp_path: Path) -> None:
    models = traffic(tmp_path, 20, champion=0.5, challenger=0.5, seen=20)
    with pytest.raises(InputError, match="0 labelled rows were answered by both"):
        compare_on_traffic(PipelineSettings(), FOUND, models, tmp_path / "traffic", metric="accuracy")


def test_a_text_that_is_asked_often_counts_once(tmp_path: Path) -> None:
    models = traffic(tmp_path, 30, champion=0.5, challenger=1.0)
    sha256 = {version: Adapter.load(models[side] / "artifacts" / "adapter").sha256 for side, version in SIDES.items()}
    copies = [
        answer(
            number + 100,
            request_id=f"copy-{number}",
            version=version,
            sha256=sha256[version],
            text_key=f"{0:020x}",
        )
        for number in range(50)
        for version in sha256
    ]
    write_records(tmp_path / "traffic", ANSWERS, copies)
    add_feedback(tmp_path / "traffic", [FeedbackRecord(START, f"copy-{number}", 0, "good") for number in range(50)])
    found = compare_on_traffic(PipelineSettings(), FOUND, models, tmp_path / "traffic", metric="accuracy")
    assert found["rows"] == 30


def test_answers_of_a_registry_that_was_started_anew_do_not_count(tmp_path: Path) -> None:
    models = traffic(tmp_path, 300, champion=0.7, challenger=0.9)
    before = [
        answer(number, request_id=f"before-{number}", version=version, text_key=f"{1000 + number:020x}")
        for number in range(50)
        for version in SIDES.values()
    ]
    write_records(tmp_path / "traffic", ANSWERS, before)
    add_feedback(tmp_path / "traffic", [FeedbackRecord(START, f"before-{number}", 0, "good") for number in range(50)])
    found = compare_on_traffic(PipelineSettings(), FOUND, models, tmp_path / "traffic", metric="accuracy")
    assert found["rows"] == 299  # all but the one whose label nobody knows


def test_an_older_version_cannot_be_judged(tmp_path: Path) -> None:
    models = traffic(tmp_path, 30, champion=0.5, challenger=1.0)
    (models["champion"] / "seen_rows.json").unlink()
    with pytest.raises(InputError, match="older beft"):
        compare_on_traffic(PipelineSettings(), FOUND, models, tmp_path / "traffic", metric="accuracy")


def test_several_labels_a_row_are_judged_at_each_versions_thresholds(tmp_path: Path) -> None:
    random, labels = np.random.default_rng(0), ("a", "b", "c")
    truth = random.random((200, 3)) < 0.4
    base = tiny_base(tmp_path / "base")
    models, records, given = {}, [], {}
    for side, version, threshold in (("champion", "1", 0.3), ("challenger", "2", 0.8)):
        probabilities = np.clip(truth * 0.4 + random.random((200, 3)) * 0.6, 0, 1).astype(np.float32)
        given[side] = probabilities >= threshold
        models[side] = tmp_path / side
        kind = Kind(labels, problem_type=MultiLabel(3, [threshold] * 3))
        sha256 = draw_adapter(base, kind).save(models[side] / "artifacts" / "adapter")
        write_json(models[side] / "seen_rows.json", [])
        records += [
            answer(
                number,
                version=version,
                sha256=sha256,
                role="answer" if version == "1" else "shadow",
                predicted=json.dumps([label for label, one in zip(labels, given[side][number], strict=True) if one]),
                probabilities=probabilities[number].tolist(),
            )
            for number in range(200)
        ]
    write_records(tmp_path / "traffic", ANSWERS, records)
    told = [
        {"request_id": f"request-{n}", "label": [label for label, one in zip(labels, truth[n], strict=True) if one]}
        for n in range(200)
    ]
    told[7]["label"] = ["a", "other"]  # which no adapter knows
    add_feedback(tmp_path / "traffic", read_feedback(told, "every row"))
    found = compare_on_traffic(PipelineSettings(), FOUND, models, tmp_path / "traffic", metric="micro_f1")
    assert found["rows"] == 199
    kept = np.arange(200) != 7
    for side in models:
        expected = f1_score(truth[kept], given[side][kept], average="micro")
        assert found["sides"][side]["score"] == pytest.approx(expected)
    every = np.tile(truth[kept].mean(0) >= min(0.5, truth[kept].mean(0).max()), (199, 1))
    assert found["floor"] == pytest.approx(f1_score(truth[kept], every, average="micro"))
    slices = {one["name"]: one for one in found["slices"]}
    assert slices["label=b"]["rows"] == truth[kept][:, 1].sum()
    right = {side: (given[side] == truth).all(1) for side in models}
    rows = kept & truth[:, 1]
    difference = right["challenger"][rows].mean() - right["champion"][rows].mean()
    assert slices["label=b"]["difference"] == pytest.approx(difference)
