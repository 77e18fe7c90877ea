"""A look at traffic: quiet where nothing changed, an alarm for each kind of change, fresh rows each time."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beft.errors import InputError
from beft.files import write_json
from beft.serving.reference import DriftReference
from tasks.serving.monitoring import Look, LookState, MonitorRules, look, report_of
from tasks.serving.traffic import ANSWERS, FEATURES, FeatureRecord, write_records
from tests.tasks.serving.records import SHA256, START, answer

RULES = MonitorRules(looks=20, min_rows=100)
WIDTH = 8


def reference(rows: int = 400) -> DriftReference:
    random = np.random.default_rng(0)
    return DriftReference(
        random.normal(size=(rows, WIDTH)).astype(np.float16),
        random.integers(5, 30, rows).astype(np.int32),
        np.zeros(rows, np.float32),
        random.integers(0, 2, rows).astype(np.float32),
        random.uniform(0.5, 1, rows).astype(np.float32),
    )


def come_in(folder: Path, rows: int, *, seed: int = 1, start: int = 0, **change: Any) -> None:
    """Traffic like the reference, but for what is changed."""
    random = np.random.default_rng(seed)
    good, confident, longer = change.get("good", 0.5), change.get("confident", 0.5), change.get("longer", 0)
    answers, features = [], []
    for number in range(start, start + rows):
        answers.append(
            answer(
                number,
                predicted="good" if random.random() < good else "bad",
                confidence=float(random.uniform(confident, 1)),
                tokens=int(random.integers(5, 30)) + longer,
                unknown_tokens=change.get("unknown", 0),
                **{name: change[name] for name in ("version", "sha256") if name in change},
            )
        )
        vector = random.normal(change.get("topic", 0.0), size=WIDTH).astype("<f2").tobytes()
        features.append(FeatureRecord(START + timedelta(seconds=number), f"request-{number}", 0, "beft-films", vector))
    write_records(folder, ANSWERS, answers)
    write_records(folder, FEATURES, features)


def at(folder: Path, own: DriftReference | None = None, **values: Any) -> Look:
    adapter = {"model": "beft-films", "version": "1", "sha256": SHA256, "labels": ("bad", "good")}
    how: dict[str, Any] = {**adapter, "since": None, **values}
    return look(own or reference(), folder, rules=RULES, **how)


def test_nothing_changed(tmp_path: Path) -> None:
    come_in(tmp_path, 400)
    found = at(tmp_path)
    assert not found.alarm and found.rows == 400
    assert [test.name for test, _ in found.tests] == [
        "answers",
        "confidence",
        "tokens of a row",
        "unknown tokens, share of a row",
        "features of the base",
    ]
    assert found.alpha == pytest.approx(0.05 / 20)
    assert MonitorRules().alpha == pytest.approx(0.05 / 720)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"good": 0.9}, "answers"),
        ({"confident": 0.8}, "confidence"),
        ({"longer": 15}, "tokens of a row"),
        ({"unknown": 2}, "unknown tokens, share of a row"),
        ({"topic": 0.5}, "features of the base"),
    ],
)
def test_each_change_raises_its_alarm(change: dict[str, float], name: str, tmp_path: Path) -> None:
    come_in(tmp_path, 400, **change)
    found = at(tmp_path)
    assert [test.name for test, raised in found.tests if raised] == [name]
    assert "DRIFT" in report_of(found)


def test_few_rows_are_left_for_later(tmp_path: Path) -> None:
    come_in(tmp_path, 60)
    state = LookState(tmp_path / "state.json")
    first = at(tmp_path)
    assert not first.tests and "too few" in report_of(first)
    state.note(first)
    assert state.since("beft-films", "1") is None
    come_in(tmp_path, 60, start=60)
    assert at(tmp_path).rows == 120


def test_a_row_is_looked_at_once(tmp_path: Path) -> None:
    come_in(tmp_path, 200)
    state = LookState(tmp_path / "state.json")
    state.note(at(tmp_path))
    come_in(tmp_path, 150, start=200, seed=2, good=0.95)
    second = at(tmp_path, since=state.since("beft-films", "1"))
    assert second.rows == 150 and second.alarm


def test_other_versions_and_shadows_are_left_out(tmp_path: Path) -> None:
    come_in(tmp_path, 200)
    others = [answer(number, version="2", predicted="good") for number in range(500)]
    shadows = [answer(number, role="shadow", predicted="good") for number in range(500)]
    # A registry that was started anew: its version 1 is another adapter.
    before = [answer(number, sha256="b" * 64, predicted="good") for number in range(500)]
    write_records(tmp_path, ANSWERS, [*others, *shadows, *before])
    assert at(tmp_path).rows == 200


def test_features_of_rows_that_another_version_answered_are_left_out(tmp_path: Path) -> None:
    come_in(tmp_path, 1000, version="2", sha256="b" * 64, topic=2.0)
    come_in(tmp_path, 400, start=1000)
    found = at(tmp_path)
    assert found.rows == 400 and not found.alarm
    assert [test.rows[1] for test, _ in found.tests if test.name == "features of the base"] == [300]


def test_other_models_are_left_out(tmp_path: Path) -> None:
    come_in(tmp_path, 200)
    far = np.full(WIDTH, 9.0, "<f2").tobytes()
    for number in range(2):
        write_records(tmp_path, ANSWERS, [answer(n, name="beft-other", predicted="good") for n in range(200)])
        times = [START + timedelta(seconds=n) for n in range(200)]
        write_records(
            tmp_path, FEATURES, [FeatureRecord(time, f"other-{number}", 0, "beft-other", far) for time in times]
        )
    found = at(tmp_path)
    assert found.rows == 200 and not found.alarm
    [features] = [test for test, _ in found.tests if test.name == "features of the base"]
    assert features.rows == (300, 200)


def test_values_have_no_confidence(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    records = [
        answer(number, value=float(random.normal()), confidence=None, probabilities=None, predicted="x", tokens=10)
        for number in range(300)
    ]
    write_records(tmp_path, ANSWERS, records)
    own = DriftReference(
        np.empty((0, WIDTH), np.float16),
        np.full(300, 10, np.int32),
        np.zeros(300, np.float32),
        random.normal(size=300).astype(np.float32),
        np.empty(0, np.float32),
    )
    found = at(tmp_path, own, labels=())
    assert [test.name for test, _ in found.tests] == ["answers", "tokens of a row", "unknown tokens, share of a row"]
    assert not found.alarm


@pytest.mark.parametrize("longer", [0, 15])
def test_the_number_of_a_choice_is_not_compared(longer: int, tmp_path: Path) -> None:
    come_in(tmp_path, 400, longer=longer)
    found = at(tmp_path, labels=(), choices=True)
    names = ["confidence", "tokens of a row", "unknown tokens, share of a row", "features of the base"]
    assert {test.name: raised for test, raised in found.tests} == {
        name: name == "tokens of a row" and longer > 0 for name in names
    }
    write_json(tmp_path / "look.json", found.to_json())  # which takes no NaN
    assert "Not compared: answers" in report_of(found)


def test_choices_of_an_older_reference_have_their_confidence_compared_alone(tmp_path: Path) -> None:
    come_in(tmp_path, 400, longer=15, unknown=2, topic=0.5)
    old = replace(reference(), of_rows=False)
    found = at(tmp_path, old, labels=(), choices=True)
    assert [(test.name, raised) for test, raised in found.tests] == [("confidence", False)]
    assert "register it again" in report_of(found)
    labelled = at(tmp_path, old, labels=("bad", "good"))
    assert len(labelled.tests) == 5  # each row is one sequence: nothing was other then


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = reference(50)
    written.write(tmp_path / "reference.safetensors")
    read = DriftReference.read(tmp_path / "reference.safetensors")
    for name in ("features", "lengths", "unknown", "answers", "confidence"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    (tmp_path / "reference.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="register the adapter again"):
        DriftReference.read(tmp_path / "reference.safetensors")


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("kind", ["labels", "spans"])
def test_each_label_of_several_is_compared(share: float, kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    drawn = [
        [*(["a"] if random.random() < 0.5 else []), *(["b"] if has_b else [])] for has_b in random.random(300) < share
    ]
    told: list[list[Any]] = [
        [{"start": at, "end": at + 1, "label": label} for at, label in enumerate(2 * labels)]
        if kind == "spans"
        else labels
        for labels in drawn
    ]
    records = [answer(number, predicted=json.dumps(of_row)) for number, of_row in enumerate(told)]
    write_records(tmp_path, ANSWERS, records)
    own = DriftReference(
        np.empty((0, WIDTH), np.float16),
        np.full(300, 5, np.int32),
        np.zeros(300, np.float32),
        np.stack([random.random(300) < 0.5, random.random(300) < 0.3], 1).astype(np.float32),
        np.full(300, 0.75, np.float32),
    )
    own.write(tmp_path / "reference.safetensors")
    own = DriftReference.read(tmp_path / "reference.safetensors")
    found = at(tmp_path, own, labels=("a", "b"))
    raised = {test.name: alarm for test, alarm in found.tests}
    assert raised == {
        "answers: a": False,
        "answers: b": share == 0.8,
        "confidence": False,
        "tokens of a row": False,
        "unknown tokens, share of a row": False,
    }
