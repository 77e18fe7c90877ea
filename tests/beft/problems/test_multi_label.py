"""Multi-label classification: its predictions, thresholds from dev alone, and its adapters on disk."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from beft.adapters.adapter import Adapter
from beft.comparison.evaluation import evaluate_adapters
from beft.comparison.versions import CHALLENGER, CHAMPION, Version, compare_versions
from beft.datasets.dataset import Dataset
from beft.datasets.prepared import Rows
from beft.errors import InputError
from beft.evaluation.promotion.rules import PromotionRules
from beft.inference.predictions import predict_rows, sequence_outputs
from beft.inference.predictor import Predictor
from beft.metrics.label_sets import choose_thresholds
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.choosing import choose_problem_type
from beft.problems.multi_label import MultiLabel
from beft.problems.registry import read_problem_type
from beft.settings import Settings
from beft.training.opening import open_session
from tests.conftest import build_tiny
from tests.support.tiny_bases import WORDS, make_adapter, save_base

TAGS = ("film", "good", "was")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), build_tiny("bert"))


@pytest.fixture(scope="module")
def data():
    chooser = random.Random(0)
    texts = list(dict.fromkeys(" ".join(chooser.choices(WORDS, k=5)) for _ in range(150)))
    return Dataset.from_rows(
        texts, [[tag for tag in TAGS if tag in text.split()] for text in texts], test_rows=30, gate_rows=30
    )


def opened(base, data, **sections):
    training = {"epochs": 2, "learning_rate": 0.02, "batch_size": 8}
    settings = {
        "base": {"source": str(base), "threads": 1, "precision": "fp32", "device": "cpu"},
        "probe": training,
        "train": training,
        "evaluate": {"resamples": 100},
        **sections,
    }
    return open_session(Settings.from_mapping(settings), data)


def test_a_label_is_given_from_its_threshold_on():
    outputs = torch.tensor([[0.0, -2.0, 3.0], [-1.0, 2.0, 0.1]], dtype=torch.float64)
    probabilities = torch.sigmoid(outputs).numpy()
    plain = MultiLabel(3).predictions(outputs, torch.ones(2))
    np.testing.assert_allclose(plain, probabilities)
    thresholds = [0.2, 0.05, 0.9]
    scores = MultiLabel(3, thresholds).predictions(outputs, torch.ones(2))
    assert ((scores >= 0.5) == (probabilities >= thresholds)).all()
    assert (np.argsort(scores, axis=0) == np.argsort(probabilities, axis=0)).all()


def test_the_best_constant_has_no_slope():
    targets = np.array([[1, 0], [1, 0], [0, 0], [1, 0]])
    found = MultiLabel(2).best_constant(targets, 2)
    # With one row with and one without each label added, the mean loss is least there.
    more = torch.tensor(np.concatenate([targets, [[1, 1], [0, 0]]]))
    outputs = found.repeat(6, 1).requires_grad_(True)
    MultiLabel(2).losses(outputs, more, torch.ones(6)).sum().backward()
    assert outputs.grad.sum(0).abs().max() < 1e-12


def test_rows_become_ones_and_zeros(base):
    classifier = load_classifier(
        resolve_base(str(base)), TAGS, compute=Compute("cpu", "fp32", 1), problem_type=MultiLabel(3)
    )
    rows = Rows(["1", "2", "3"], ["good film", "dull", "was good"], None, [[0, 1], [], [1, 2]])
    found = classifier.examples(rows, 16)
    assert found.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]
    assert np.asarray(found.truth.label_sets).tolist() == found.labels.tolist()
    with pytest.raises(InputError, match="row 1 has the label 3, but there are 3 labels"):
        classifier.examples(Rows(["1", "2"], ["a", "b"], None, [[0], [3]]), 16)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"labels": 0},
        {"labels": 2, "thresholds": [0.5]},
        {"labels": 1, "thresholds": [1.0]},
        {"labels": 1, "thresholds": ["x"]},
    ],
)
def test_what_is_no_multi_label_problem_is_refused(value):
    with pytest.raises(InputError, match="multi_label"):
        read_problem_type({"name": "multi_label", **value})


def test_a_set_of_labels_is_not_ranked_by_a_language_model():
    assert choose_problem_type("multi_label", labels=TAGS, decoder=True).to_json()["labels"] == 3
    with pytest.raises(InputError, match=r"use head\.kind: classifier"):
        choose_problem_type("multi_label", labels=TAGS, decoder=True, kind="language_model")


def test_an_adapter_keeps_its_thresholds_and_peft_gives_its_logits(base, tmp_path):
    from peft import PeftModel

    problem_type = MultiLabel(3, [0.25, 0.5, 0.75])
    classifier = load_classifier(
        resolve_base(str(base)), TAGS, compute=Compute("cpu", "fp32", 1), problem_type=problem_type
    )
    adapter = make_adapter(classifier, ("query", "value"))
    adapter.save(tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / "beft.json").read_text())
    assert record["shape"] == {"name": "multi_label", "labels": 3, "thresholds": [0.25, 0.5, 0.75]}
    assert any("thresholds" in reason for reason in record["peft"]["reasons"])
    again = Adapter.load(tmp_path / "adapter")
    assert again.problem_type.to_json() == problem_type.to_json() and again.peft.opens == "whole"

    with pytest.raises(InputError, match="thresholds for 2 labels, but 3 labels"):
        replace(adapter, problem_type=MultiLabel(2)).save(tmp_path / "other")

    rows = classifier.examples(Rows(["1", "2"], ["a good film", "dull"], None, []), 16)
    with adapter.attached(classifier):
        [expected] = sequence_outputs(classifier, rows.encoded)
    batch = rows.batch(np.arange(2))
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(**batch).logits.double(), expected, rtol=0, atol=1e-5)
    adapter.fold(classifier, tmp_path / "plain")
    folded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    assert folded.config.problem_type == "multi_label_classification"
    assert list(folded.config.id2label.values()) == list(TAGS)
    with torch.no_grad():
        torch.testing.assert_close(folded(**batch).logits.double(), expected, rtol=0, atol=1e-5)


def test_an_exported_model_keeps_the_thresholds(base, tmp_path):
    """Its logits and the file beside it give the sets that the adapter gives, which 0.5 for all does not."""
    texts = list(WORDS)
    reference, compute = resolve_base(str(base)), Compute("cpu", "fp32", 1)
    classifier = load_classifier(reference, TAGS, compute=compute, problem_type=MultiLabel(3))
    adapter = make_adapter(classifier, ("value",))
    rows = classifier.examples(Rows(texts, texts, None, []), 16)
    with adapter.attached(classifier):
        [logits] = sequence_outputs(classifier, rows.encoded)
    found = 1 / (1 + np.exp(-logits.numpy()))
    # Each threshold stands between two of the probabilities of its label, far from both.
    ordered = np.sort(found, axis=0)
    at = [int(np.diff(ordered[:, label]).argmax()) for label in range(3)]
    thresholds = [float(ordered[row : row + 2, label].mean()) for label, row in enumerate(at)]
    adapter = replace(adapter, problem_type=MultiLabel(3, thresholds))
    adapter.save(tmp_path / "adapter")
    Adapter.load(tmp_path / "adapter").fold(classifier, tmp_path / "plain")

    kept = json.loads((tmp_path / "plain" / "beft_fold.json").read_text())["shape"]
    assert kept == {"name": "multi_label", "labels": 3, "thresholds": thresholds}
    folded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        probabilities = folded(**rows.batch(range(len(texts)))).logits.sigmoid().numpy()
    given = [
        [label for label, yes in zip(TAGS, row, strict=True) if yes] for row in probabilities >= kept["thresholds"]
    ]
    answers = Predictor(tmp_path / "adapter", base=base).predict(texts)
    assert given == [answer["labels"] for answer in answers]
    assert (probabilities >= kept["thresholds"]).sum() != (probabilities >= 0.5).sum()


def test_an_attached_adapter_predicts_at_its_own_thresholds(base):
    classifier = load_classifier(
        resolve_base(str(base)), TAGS, compute=Compute("cpu", "fp32", 1), problem_type=MultiLabel(3)
    )
    own = load_classifier(
        resolve_base(str(base)), TAGS, compute=Compute("cpu", "fp32", 1), problem_type=MultiLabel(3, [0.1, 0.2, 0.9])
    )
    adapter = make_adapter(own, ("query",))
    rows = classifier.examples(Rows(["1"], ["a good film"], None, []), 16)
    with adapter.attached(classifier):
        scores = predict_rows(classifier, rows)
        [outputs] = sequence_outputs(classifier, rows.encoded)
    np.testing.assert_allclose(scores, adapter.problem_type.predictions(outputs, torch.ones(1)))
    assert classifier.problem_type.thresholds == (0.5, 0.5, 0.5)


def test_thresholds_come_from_dev_alone(base, data, tmp_path):
    session = opened(base, data)
    result = session.train(["value"])
    result.adapter.save(tmp_path / "adapter")
    dev = data.rows("dev")
    answer = Predictor(tmp_path / "adapter", base=base).answer(dev.texts)
    truth = np.array([[number in of_row for number in range(3)] for of_row in dev.labels])
    expected = choose_thresholds(answer.probabilities.double().numpy(), truth)
    assert result.adapter.problem_type.thresholds == pytest.approx(expected, abs=1e-5)
    assert set(result.best) >= {"dev_metric", "dev_loss"}

    compared = evaluate_adapters(session, {"value": result.adapter}, target="value", splits=("test", "gate"))
    assert list(compared.evaluation.metrics) == ["micro_f1", "multi_label_macro_f1", "subset_accuracy"]
    assert set(compared.tuning) == {"head_only", "logistic_regression"}

    changed = result.adapter
    versions = [
        Version(CHALLENGER, changed, 1000, frozenset(data.rows("train").ids)),
        Version(CHAMPION, changed, 1000, frozenset()),
    ]
    met = compare_versions(session, versions, PromotionRules(slice_rows=10))
    assert met.gain is not None and met.gain.difference == 0 and 0 < met.floor < 1
    assert {one.name for one in met.slices} >= {"label=film", "label=good", "label=was", "length=short"}
    assert all(one.difference == 0 for one in met.slices)


def test_without_dev_every_threshold_is_one_half(base, data):
    result = opened(base, data, protocol="paper").train(["value"])
    assert result.adapter.problem_type.thresholds == (0.5, 0.5, 0.5)
