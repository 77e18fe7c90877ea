"""The metrics of labels against definitions written out and scikit-learn; every metric offline and in memory."""

import math
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from beft.errors import InputError
from beft.metrics.counts import label_counts
from beft.metrics.kinds import LabelKind
from beft.metrics.registry import METRICS, combined, known_metric, metric, score

ROOT = Path(__file__).parents[3]
TRUTH = [0, 1, 1, 0, 1, 2, 2, 0]
LABEL_METRICS = ["accuracy", "f1", "macro_f1", "matthews"]
PREDICTED = [0, 1, 0, 0, 2, 2, 1, 0]


def f1_by_hand(truth: list[int], predicted: list[int], label: int) -> float:
    """F1 as the harmonic mean of precision and recall."""
    hits = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
    if hits == 0:
        return 0.0
    precision, recall = hits / predicted.count(label), hits / truth.count(label)
    return 2 * precision * recall / (precision + recall)


def matthews_by_hand(truth: list[int], predicted: list[int]) -> float:
    """The Pearson correlation of two 0/1 lists."""
    return float(np.corrcoef(truth, predicted)[0, 1])


def by_scikit_learn(name: str, truth: list[int], predicted: list[int]) -> float:
    if name == "accuracy":
        return float(accuracy_score(truth, predicted))
    if name == "f1":
        return float(f1_score(truth, predicted, zero_division=0.0))
    if name == "macro_f1":
        return float(f1_score(truth, predicted, average="macro", zero_division=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about single labels
        return float(matthews_corrcoef(truth, predicted))


def test_values_against_definitions_written_out() -> None:
    truth, predicted = [0, 1, 1, 0, 1, 1, 0, 0, 1], [0, 1, 0, 0, 1, 1, 1, 0, 1]
    expected = {
        "accuracy": 7 / 9,
        "f1": f1_by_hand(truth, predicted, 1),
        "macro_f1": (f1_by_hand(truth, predicted, 0) + f1_by_hand(truth, predicted, 1)) / 2,
        "matthews": matthews_by_hand(truth, predicted),
    }
    for name, value in expected.items():
        assert metric(name).compute(predictions=predicted, references=truth) == {name: pytest.approx(value, abs=1e-12)}
        assert score(name, truth, predicted, 2) == pytest.approx(value, abs=1e-12)


def test_three_labels_against_definitions_written_out() -> None:
    macro = sum(f1_by_hand(TRUTH, PREDICTED, label) for label in range(3)) / 3
    assert metric("macro_f1").compute(predictions=PREDICTED, references=TRUTH)["macro_f1"] == pytest.approx(macro)
    true_of, predicted_of = np.eye(3)[TRUTH], np.eye(3)[PREDICTED]

    def covariance(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a - a.mean(0)) * (b - b.mean(0))).sum())

    correlation = covariance(true_of, predicted_of) / math.sqrt(
        covariance(true_of, true_of) * covariance(predicted_of, predicted_of)
    )
    assert metric("matthews").compute(predictions=PREDICTED, references=TRUTH)["matthews"] == pytest.approx(correlation)
    assert score("matthews", TRUTH, PREDICTED, 3) == pytest.approx(correlation)


@given(
    st.integers(2, 4).flatmap(
        lambda labels: st.tuples(
            st.just(labels),
            st.lists(
                st.tuples(st.integers(0, labels - 1), st.integers(0, labels - 1), st.integers(0, 5)), min_size=1
            ).filter(lambda rows: any(weight for _, _, weight in rows)),
        )
    )
)
def test_weighted_counts_equal_scikit_learn_on_repeated_rows(
    drawn: tuple[int, list[tuple[int, int, int]]],
) -> None:
    labels, rows = drawn
    truth, predicted, weights = (np.array(column) for column in zip(*rows, strict=True))
    repeated_truth, repeated = np.repeat(truth, weights).tolist(), np.repeat(predicted, weights).tolist()
    counts = label_counts(truth, predicted, weights.astype(float), labels)
    for name in LABEL_METRICS:
        kind = METRICS[name]
        assert isinstance(kind, LabelKind)
        if kind.labels in (None, labels):
            value = float(kind.from_counts(counts))
            assert math.isfinite(value)
            assert kind.lowest - 1e-12 <= value <= 1 + 1e-12
            if len(repeated) > 1 or name != "matthews":
                assert value == pytest.approx(by_scikit_learn(name, repeated_truth, repeated), abs=1e-9)


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="Did you mean 'accuracy'"):
        metric("acuracy")
    with pytest.raises(InputError, match="Did you mean 'macro_f1'"):
        combined(["accuracy", "macrof1"])


def test_f1_refuses_more_than_two_labels() -> None:
    with pytest.raises(InputError, match="use macro_f1"):
        metric("f1").compute(predictions=PREDICTED, references=TRUTH)
    with pytest.raises(InputError, match="use macro_f1"):
        known_metric("f1").check_labels(3)


def test_constant_predictions_give_no_nan() -> None:
    truth, constant = [0, 1, 0, 1], [0, 0, 0, 0]
    values = combined(LABEL_METRICS).compute(predictions=constant, references=truth)
    assert values == {"accuracy": 0.5, "f1": 0.0, "macro_f1": pytest.approx(1 / 3), "matthews": 0.0}
    assert combined(["f1", "matthews"]).compute(predictions=constant, references=constant) == {"f1": 0, "matthews": 0}


def test_batches_and_single_rows_give_what_one_call_gives() -> None:
    names = ["accuracy", "macro_f1", "matthews"]
    whole = combined(names).compute(predictions=PREDICTED, references=TRUTH)
    batched = combined(names)
    batched.add_batch(predictions=np.array(PREDICTED[:3]), references=np.array(TRUTH[:3]))
    batched.add_batch(predictions=PREDICTED[3:], references=TRUTH[3:])
    assert batched.compute() == whole
    assert list(whole) == names
    single = metric("accuracy")
    for predicted, true in zip(PREDICTED, TRUTH, strict=True):
        single.add(prediction=predicted, reference=true)
    assert single.compute() == {"accuracy": whole["accuracy"]}
    assert single.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}  # nothing is left from before


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0.2, 0.8], [0, 1], "whole numbers"),
        ([[0.2, 0.8]], [1], "shape"),
        (["a"], [1], "whole numbers"),
        ([0, 1], [0], "2 predictions for 1 references"),
        ([-100], [0], "negative"),
        ([], [], "no rows"),
    ],
)
def test_what_is_no_label_index_is_refused(predictions: list[object], references: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric("accuracy").compute(predictions=predictions, references=references)


def test_compute_without_rows_says_so() -> None:
    with pytest.raises(InputError, match="no rows"):
        metric("matthews").compute()
    with pytest.raises(InputError, match="whole numbers"):
        metric("accuracy").add(prediction=0.7, reference=1)


def test_the_random_stream_of_numpy_is_left_alone() -> None:
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    metric("accuracy").compute(predictions=PREDICTED, references=TRUTH)
    assert np.random.rand() == expected


def test_many_at_once_keep_their_rows_apart() -> None:
    def compute(share: int) -> float:
        module = metric("accuracy")
        for index in range(50):
            module.add_batch(predictions=[0], references=[int(index % 10 >= share)])
        return float(module.compute()["accuracy"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(compute, range(8))) == pytest.approx([share / 10 for share in range(8)])


OFFLINE = """
import socket, sys
def refuse(*_, **__):
    raise OSError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = refuse
import beft.metrics.registry, beft.evaluation.bootstrap, beft.evaluation.scores, beft.metrics.counts
assert not {"evaluate", "sklearn", "datasets"} & set(sys.modules), "slow imports at the start"
values = beft.metrics.registry.combined(["accuracy", "f1", "macro_f1", "matthews"]).compute(
    predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
assert values["accuracy"] == 0.75, values
values = beft.metrics.registry.combined(["pearson", "spearman"]).compute(predictions=[0.1, 0.2], references=[1.0, 3.0])
assert min(values.values()) > 0.999, values
assert beft.metrics.registry.metric("drop_f1").compute(predictions=["7"], references=[["7.0", "x"]]) == {"drop_f1": 1.0}
"""


def test_offline_with_a_home_that_cannot_be_written_and_nothing_imported_early() -> None:
    home = "/proc/no-home"  # not even root can make a folder there
    names = ("HOME", "HF_HOME", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")
    environment = {**os.environ, **dict.fromkeys(names, home)}
    found = subprocess.run(
        [sys.executable, "-c", OFFLINE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
