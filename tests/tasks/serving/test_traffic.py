"""Answers are kept whole, by day, capped in size, and found again."""

import time
from datetime import timedelta
from pathlib import Path

import pyarrow.compute as pc
import pytest

from beft.errors import BeftError, InputError
from tasks.serving import traffic
from tasks.serving.traffic import (
    ANSWERS,
    FEATURES,
    FeatureRecord,
    TrafficLog,
    find_answer,
    read_records,
    remove_oldest,
    write_records,
)
from tests.support.waiting import wait_until
from tests.tasks.serving.records import START, answer


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path)
    log.add([answer(number, text="naïve" if number == 3 else None) for number in range(10)])
    log.add([answer(10, version="2", value=1.5, probabilities=None, confidence=None)])
    log.close()
    found = read_records(tmp_path, ANSWERS).to_pylist()
    assert [record["request_id"] for record in found] == [f"request-{number}" for number in range(11)]
    assert found[0]["probabilities"] == [0.25, 0.75] and found[0]["text"] is None
    assert found[3]["text"] == "naïve"
    assert (found[10]["value"], found[10]["probabilities"]) == (1.5, None)
    [path] = tmp_path.glob("answers/*/*.parquet")
    assert path.parent.name == time.strftime("%Y-%m-%d", time.gmtime())
    assert not list(tmp_path.rglob("*.writing"))


def test_it_is_written_within_seconds_and_by_rows(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path, flush_seconds=0.05)
    log.add([answer()])
    _wait_for(tmp_path, 1)
    log.close()
    log = TrafficLog(tmp_path, flush_seconds=600, flush_rows=3)
    log.add([answer(number) for number in range(1, 4)])
    _wait_for(tmp_path, 4)
    log.close()


def _wait_for(folder: Path, records: int) -> None:
    wait_until(lambda: len(read_records(folder, ANSWERS)) >= records)


def test_a_time_is_read_alone(tmp_path: Path) -> None:
    write_records(tmp_path, ANSWERS, [answer(number) for number in range(10)])
    found = read_records(tmp_path, ANSWERS, since=START + timedelta(seconds=3))
    assert len(found) == 7
    every = read_records(tmp_path, ANSWERS)["request_id"].to_pylist()
    assert every == [f"request-{number}" for number in range(10)]
    assert len(read_records(tmp_path, ANSWERS, since=START + timedelta(days=36500))) == 0


def test_some_columns_of_some_records_are_read(tmp_path: Path) -> None:
    for start in (6, 0):
        write_records(tmp_path, ANSWERS, [answer(n, version=str(n % 2), tokens=n) for n in range(start, start + 6)])
    odd = pc.field("version") == "1"
    since = START + timedelta(seconds=3)
    found = read_records(tmp_path, ANSWERS, since=since, columns=["tokens", "predicted"], filters=odd)
    assert found.column_names == ["tokens", "predicted"]
    assert found["tokens"].to_pylist() == [3, 5, 7, 9, 11]
    none = read_records(tmp_path / "nothing", ANSWERS, columns=["tokens"], filters=odd)
    assert none.column_names == ["tokens"] and len(none) == 0


def test_the_oldest_go(tmp_path: Path) -> None:
    paths = [write_records(tmp_path, ANSWERS, [answer(number)]) for number in range(5)]
    for number, path in enumerate(paths):
        path.rename(path.with_name(f"{number:06d}-x.parquet"))
    size = max(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    remove_oldest(tmp_path / ANSWERS, 2 * size)
    assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == ["000003-x.parquet", "000004-x.parquet"]
    remove_oldest(tmp_path / ANSWERS, 0)
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["000004-x.parquet"]  # the newest stays


def test_a_disk_that_takes_nothing_is_told_and_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    log = TrafficLog(tmp_path / "file")
    log.add([answer()])
    log.close()
    assert log.dropped == 1
    assert "could not be kept" in caplog.text


def test_a_record_that_cannot_be_written_is_told_and_ends_no_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = TrafficLog(tmp_path, flush_seconds=600, flush_rows=2)
    features = FeatureRecord(START, "request-0", 0, "beft-films", b"\0\0")
    log.add([answer(), answer(1, request_id="\ud800"), features])
    wait_until(lambda: log.dropped == 2)
    assert "2 answers could not be kept" in caplog.text and "UnicodeEncodeError" in caplog.text
    log.add([answer(2), answer(3)])
    _wait_for(tmp_path, 2)
    log.close()
    assert read_records(tmp_path, ANSWERS)["request_id"].to_pylist() == ["request-2", "request-3"]
    assert len(read_records(tmp_path, FEATURES)) == 1
    assert log.dropped == 2


def test_old_files_that_stay_count_as_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path, max_bytes: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(traffic, "remove_oldest", refuse)
    log = TrafficLog(tmp_path)
    log.add([answer()])
    log.close()
    assert log.dropped == 0 and len(read_records(tmp_path, ANSWERS)) == 1
    assert "the oldest answers" in caplog.text and "Permission denied" in caplog.text


def test_what_waits_is_capped(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path, max_waiting=3)
    log.add([answer(number) for number in range(5)])
    log.close()
    assert log.dropped == 2 and len(read_records(tmp_path, ANSWERS)) == 3


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_records(tmp_path, ANSWERS, [answer()])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BeftError, match=path.name):
        read_records(tmp_path, ANSWERS)
    with pytest.raises(BeftError, match=path.name):
        find_answer(tmp_path, "request-0")


def test_an_answer_is_found_by_its_request(tmp_path: Path) -> None:
    write_records(tmp_path, ANSWERS, [answer(1, row=1), answer(1), answer(2), answer(1, role="shadow", version="2")])
    found = find_answer(tmp_path, "request-1")
    assert [(one["row"], one["role"]) for one in found] == [(0, "answer"), (0, "shadow"), (1, "answer")]
    with pytest.raises(InputError, match="'request-9'"):
        find_answer(tmp_path, "request-9")
