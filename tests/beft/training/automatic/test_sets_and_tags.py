"""``train.method: auto`` where a row has several labels, or its words have tags."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_recall_curve

from beft.encoding.iob2 import NO_WORD, tagged_spans
from beft.errors import InputError
from beft.inference.features import extract_features
from beft.inference.runs import LabelledRows
from beft.problems.multi_label import MultiLabel
from beft.settings import Settings
from beft.training.automatic.cross_validation import linear_out_of_fold
from beft.training.automatic.folds import fold_count, repeated_folds
from beft.training.automatic.search import search_and_train
from beft.training.sample import Sample
from beft.training_settings import Loss, TrainingSettings
from tests.beft.training.automatic.test_automatic import by_loss, labelled
from tests.support.shapes import task


def test_label_sets_get_thresholds_on_rows_that_were_held_out():
    """Scored, chosen and answered at the thresholds that are best out of fold, found here by trying every cut."""
    given = task("multi_label", dtype=torch.float32, rows=60)
    classifier, rows = given.classifier, given.train
    assert fold_count(rows) == 5
    sample = Sample(rows, None, "micro_f1")
    asked = {"method": "auto", "epochs": 2, "search_minutes": 1e-2}
    settings = Settings.from_mapping({"head": {"train": "output"}, "train": asked})
    result, _, choice = search_and_train(classifier, sample, settings, by_loss(settings), "value")
    assert result.head and len(choice.compared) > 2 and all(one.failed is None for one in choice.compared)
    probabilities = expit(choice.chosen.known_outputs)
    truth = np.tile(rows.labels, (len(probabilities), 1))
    stacked = probabilities.reshape(-1, 3)
    thresholds = choice.problem_type.to_json()["thresholds"]
    for label, threshold in enumerate(thresholds):
        precision, recall, _ = precision_recall_curve(truth[:, label], stacked[:, label])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
        assert f1_score(truth[:, label], stacked[:, label] >= threshold) == pytest.approx(best, abs=1e-9)
    of_divisions = [f1_score(rows.labels, one >= thresholds, average="micro") for one in probabilities]
    assert choice.chosen.metric == pytest.approx(np.mean(of_divisions), abs=1e-9)


def test_label_sets_of_frozen_features_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 6))
    sets = (features[:, :3] + 0.5 * random.normal(size=(40, 3)) > 0).astype(np.int64)
    sets[:, 2] = 0  # no row has it: its frequency stands
    rows = LabelledRows(labelled([0] * 40).encoded, sets)
    [division] = folds = repeated_folds(rows, 4, 1, 0)
    found = linear_out_of_fold(MultiLabel(3), 3, features, rows, folds)[4]
    for fold in range(4):
        train, held_out = division != fold, division == fold
        mean, deviation = features[train].mean(0), features[train].std(0)
        for label in range(2):
            model = LogisticRegression(C=found.penalty, tol=1e-8, max_iter=10_000)
            model.fit((features[train] - mean) / deviation, sets[train, label])
            expected = model.decision_function((features[held_out] - mean) / deviation)
            np.testing.assert_allclose(found.outputs[0, held_out, label], expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(expit(found.outputs[0, held_out, 2]), 1 / (train.sum() + 2))


def test_rows_with_spans_are_spread_over_folds_and_there_are_no_more_folds_than_of_them():
    rows = task("token_classification", rows=40).train
    tags = np.where(np.arange(40)[:, None] < 8, rows.labels, np.where(rows.labels == NO_WORD, NO_WORD, 0))
    assert fold_count(replace(rows, labels=tags)) == 5
    for division in repeated_folds(replace(rows, labels=tags), 4, 2, 0):
        assert np.bincount(division[:8], minlength=4).tolist() == [2] * 4
    few = np.where(np.arange(40)[:, None] < 3, rows.labels, tags.min(1, keepdims=True) * 0)
    assert fold_count(replace(rows, labels=few)) == 3
    with pytest.raises(InputError, match="or two rows with spans"):
        fold_count(replace(rows, labels=np.zeros_like(few)))


def test_tags_are_scored_by_the_words_of_rows_that_were_held_out():
    given = task("token_classification", dtype=torch.float32, rows=40)
    classifier, rows = given.classifier, given.train
    sizes = [len(words) for words in rows.words]
    folds = repeated_folds(rows, 4, 1, 0)
    features = extract_features(classifier, rows.encoded, "head").double().numpy()
    found = linear_out_of_fold(classifier.problem_type, 2, features, rows, folds)[3]
    of_row, tags = np.repeat(np.arange(40), sizes), rows.labels[rows.labels != NO_WORD]
    held_out = np.isin(of_row, np.flatnonzero(folds[0] == 1))
    mean, deviation = features[~held_out].mean(0), features[~held_out].std(0)
    model = LogisticRegression(C=found.penalty, tol=1e-8, max_iter=10_000)
    model.fit((features[~held_out] - mean) / deviation, tags[~held_out])
    expected = model.predict_proba((features[held_out] - mean) / deviation)
    np.testing.assert_allclose(softmax(found.outputs[0, held_out], axis=1)[:, model.classes_], expected, atol=1e-3)

    settings = Settings.from_mapping({"train": {"method": "auto", "epochs": 4, "search_minutes": 1e-2}})
    alone: dict[Loss, TrainingSettings] = {"cross_entropy": by_loss(settings)["cross_entropy"]}
    _, _, choice = search_and_train(classifier, Sample(rows, None, "entity_f1"), settings, alone, "value")
    assert all(one.failed is None for one in choice.compared)
    true = {(row, *span) for row, spans in enumerate(rows.truth.spans) for span in map(tuple_of_span, spans)}
    scores = []
    for outputs in choice.chosen.known_outputs:
        spans = tagged_spans(outputs.argmax(1), np.ones(len(outputs)), rows.words)
        answered = {(row, *tuple_of_span(span)) for row, of_row in enumerate(spans) for span in of_row}
        scores.append(2 * len(answered & true) / (len(answered) + len(true)))
    assert choice.chosen.metric == pytest.approx(np.mean(scores), abs=1e-9)


def tuple_of_span(span):
    """Start, end and label."""
    return tuple(span)[:3]
