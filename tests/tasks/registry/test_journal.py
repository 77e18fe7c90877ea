"""The journal keeps every entry once, and survives a line that a crash cut short."""

import json
from pathlib import Path

from tasks.registry.journal import append_entry, read_journal


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "mlflow" / "journal.jsonl"
    first = append_entry(path, "alias", {"alias": "champion", "to": "1"}, moved_to="1")
    second = append_entry(path, "alias", {"alias": "champion", "to": "2"}, moved_to="2", moved_from="1")
    assert [entry["id"] for entry in read_journal(path)] == [first, second]
    assert [entry["moved_to"] for entry in read_journal(path)] == ["1", "2"]
    assert first != second


def test_the_same_entry_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = append_entry(path, "gate decision", {"model": "m"}, reason="because")
    again = append_entry(path, "gate decision", {"model": "m"}, reason="told in other words")
    assert first == again
    assert [entry["reason"] for entry in read_journal(path)] == ["because"]


def test_a_reason_may_hold_what_unicode_takes_for_a_line_break(tmp_path: Path) -> None:
    append_entry(tmp_path / "journal.jsonl", "alias", 1, reason="one\u2028two\x85three")
    assert [entry["reason"] for entry in read_journal(tmp_path / "journal.jsonl")] == ["one\u2028two\x85three"]


def test_a_cut_line_is_left_out_and_hurts_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    append_entry(path, "alias", 1)
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    append_entry(path, "alias", 2)
    assert len(read_journal(path)) == 2
    assert json.loads(path.read_text().splitlines()[-1])["kind"] == "alias"


def test_a_line_that_was_cut_within_a_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    append_entry(path, "alias", 1, reason="größer")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: whole.index("ß".encode()) + 1])
    assert [entry["reason"] for entry in read_journal(path)] == ["größer"]
    append_entry(path, "alias", 2, reason="später")
    assert [entry["reason"] for entry in read_journal(path)] == ["größer", "später"]


def test_no_journal_has_no_entries(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl") == []
