"""What `beft bench` measures: each number against the clock that the work itself is measured with."""

from dataclasses import replace

import pytest

from beft.datasets.dataset import Dataset
from beft.errors import InputError, TrainingError
from beft.settings import Settings
from beft.training import speed
from beft.training.session import Session
from beft.training.speed import (
    DatasetSpeed,
    MachineSpeed,
    WorkSpeed,
    likely_reasons,
    measure_speed,
    to_json,
    whole_run_seconds,
)
from tests.support.shapes import task
from tests.support.tiny_bases import WORDS, load, save_base

SETTINGS = {"base": {"precision": "fp32"}, "probe": {"epochs": 2}, "train": {"epochs": 3, "loss": "cross_entropy"}}


def dataset() -> Dataset:
    texts = [f"{WORDS[number % 10]} {WORDS[number // 10 % 10]} {WORDS[number // 100]} good" for number in range(200)]
    return Dataset.from_rows(texts, ["up", "down"] * 100, test_rows=40, gate_rows=40)


@pytest.fixture(scope="module")
def session(tiny, tmp_path_factory) -> Session:
    classifier = load(save_base(tmp_path_factory.mktemp("speed") / "base", tiny("bert")))
    data = dataset()
    settings = Settings.from_mapping(SETTINGS | {"datasets": {data.name: {}}})
    return Session(replace_labels(classifier), settings, data)


def replace_labels(classifier):
    classifier.labels = ("down", "up")
    return classifier


def work(name, seconds, share=0.8):
    return WorkSpeed(name, "", seconds, 10.0, 1e9, share)


def found(seconds=10.0, share=0.8, name="one"):
    works = (work("Fisher information", 1.0), work("probe", seconds), work("training of value", 4.0, share))
    return DatasetSpeed(name, {"train": 8}, 5.0, (*works, work("1,000 predictions", 70.0)), 5.0, 1e9)


MACHINE = MachineSpeed("cpu", "some CPU", "bf16", 2, 4, 0.1, 1e11)


def test_every_work_is_measured_and_nothing_changed(session):
    before = {name: tensor.clone() for name, tensor in session.classifier.model.state_dict().items()}
    one = measure_speed(session, seconds=0.05)
    assert [work.work for work in one.works] == [
        "Fisher information",
        "probe",
        "training of value",
        "1,000 predictions",
    ]
    assert all(work.rows_per_second > 0 and work.operations_per_second > 0 and work.share > 0 for work in one.works)
    fisher, probe, train, predictions = one.works
    rows = one.rows["train"]
    assert fisher.seconds == pytest.approx(rows / fisher.rows_per_second)
    assert probe.seconds >= 2 * rows / probe.rows_per_second
    assert train.seconds >= 3 * rows / train.rows_per_second
    assert predictions.seconds == pytest.approx(1000 / predictions.rows_per_second)
    assert one.run_seconds == pytest.approx(fisher.seconds + probe.seconds + train.seconds + one.evaluation_seconds)
    assert all(tensor.equal(before[name]) for name, tensor in session.classifier.model.state_dict().items())


def test_the_evaluation_is_what_is_predicted(session):
    """Twice all splits (the head sees another pooling than the features), then test and gate, then test."""
    rows = {split: session.rows(split) for split in ("train", "dev", "gate", "test")}
    tokens = {split: int(part.encoded.lengths.sum()) for split, part in rows.items()}
    expected = 2 * sum(tokens.values()) + tokens["test"] + tokens["gate"] + tokens["test"]
    assert session.classifier.pooling == "model"
    assert speed._evaluated_tokens(session, rows["test"]) == expected


def test_several_learning_rates_take_longer(session):
    train = {**SETTINGS["train"], "learning_rates": [1e-3, 1e-2, 2e-2]}
    settings = Settings.from_mapping(SETTINGS | {"train": train, "datasets": {"rows": {}}})
    *_, train, _ = measure_speed(replace(session, settings=settings), seconds=0.05).works
    assert train.extent.endswith("3 learning rates")
    assert train.seconds >= 3 * 3 * session.facts["rows"]["train"] / train.rows_per_second


def test_a_language_model_is_measured_by_its_tokens(session, monkeypatch):
    made = task("candidates", rows=60)
    settings = session.settings.model_copy(
        update={"base": session.settings.base.model_copy(update={"add_biases": True})}
    )
    decoder = Session(made.classifier, settings, session.data)
    monkeypatch.setattr(Session, "sample", speed_sample(made))
    monkeypatch.setattr(Session, "rows", lambda self, split: made.dev)
    one = measure_speed(decoder, seconds=0.05)
    assert one.tokens == pytest.approx(made.train.encoded.lengths.sum() / len(made.train))
    assert one.tokens > made.train.lengths.mean(), "the sequences of both answers count"
    assert all(work.share > 0 for work in one.works)


def speed_sample(made):
    from beft.training.sample import Sample

    return Sample(made.train, made.dev, "accuracy")


def test_what_does_not_fit_into_memory_is_one_error(session, monkeypatch):
    def exhausted(*_args):
        raise MemoryError

    monkeypatch.setattr(speed, "_measure", exhausted)
    with pytest.raises(TrainingError, match="out of memory"):
        measure_speed(session, seconds=0.05)


def test_a_base_without_biases_is_refused(tiny, tmp_path, session):
    bare = replace_labels(load(save_base(tmp_path / "bare", tiny("llama"))))
    with pytest.raises(InputError, match="add_biases"):
        measure_speed(replace(session, classifier=bare), seconds=0.05)


def test_datasets_that_find_cores_are_computed_at_once():
    two = [found(), found(30.0)]
    assert two[0].run_seconds == 20.0
    assert whole_run_seconds(two, MACHINE) == (20 + 40) / 2
    assert whole_run_seconds(two, replace(MACHINE, threads=4)) == 60
    assert whole_run_seconds(two, replace(MACHINE, device="cuda")) == 60
    assert to_json(MACHINE, two)["datasets"][1]["run_seconds"] == 40


@pytest.mark.parametrize(
    ("changes", "flags", "share", "expected"),
    [
        ({}, {"avx512f", "avx512_bf16"}, 0.8, []),
        ({"load": 3.5}, {"avx512f", "avx512_bf16"}, 0.8, ["load average was 3.5 on 4 cores"]),
        ({"threads": 8}, {"avx512f", "avx512_bf16"}, 0.8, ["base.threads is 8"]),
        ({"precision": "fp32"}, {"avx512f", "avx512_bf16"}, 0.8, ["base.precision is fp32"]),
        ({}, {"avx2"}, 0.8, ["emulates bf16", "neither AMX nor AVX-512"]),
        ({"precision": "fp32"}, {"avx2"}, 0.2, ["neither AMX nor AVX-512"]),
        ({"precision": "fp32"}, set(), 0.8, []),
        ({"device": "cuda", "load": 9.0}, {"avx2"}, 0.2, ["leave a GPU idle"]),
        ({"device": "cuda", "precision": "fp32"}, {"avx2"}, 0.8, ["this GPU multiplies bf16 faster"]),
    ],
)
def test_reasons(monkeypatch, changes, flags, share, expected):
    monkeypatch.setattr(speed, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(speed, "cpu_multiplies_bf16", lambda: "avx512_bf16" in flags)
    reasons = likely_reasons(replace(MACHINE, **changes), [found(), found(share=share)])
    assert len(reasons) == len(expected)
    assert all(part in reason for part, reason in zip(expected, reasons, strict=True))
