"""What ``train.method: auto`` divides, trains and compares, against plain computations of the same."""

import copy
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given
from sklearn.linear_model import LogisticRegression

from beft.encoding.tokenization import Encoded
from beft.errors import InputError, SettingsError
from beft.heads.by_problem_type import path_operations
from beft.inference.features import extract_features
from beft.inference.predictions import sequence_outputs
from beft.inference.runs import LabelledRows, Run
from beft.problems.classification import Classification
from beft.settings import Settings
from beft.sites.site import find_sites
from beft.training.automatic.candidates import (
    FROZEN,
    Candidate,
)
from beft.training.automatic.cross_validation import linear_out_of_fold, trained_out_of_fold
from beft.training.automatic.folds import fold_count, repeated_folds
from beft.training.automatic.search import search_and_train
from beft.training.engine.fit import fit
from beft.training.head_start import head_start, start_operations
from beft.training.sample import Sample, settings_of
from beft.training_settings import Loss, TrainingSettings
from tests.conftest import PAD
from tests.support.rows import plain_settings, random_rows, tiny_classifier
from tests.support.shapes import task

BALANCED = "value, contrastive, balanced, rate 0.01"


def labelled(labels, *, texts=None, groups=None):
    """Rows of one token each that have these labels."""
    encoded = Encoded([[5]] * len(labels), None, np.ones(len(labels), dtype=np.int64), 0, PAD)
    source = None
    if texts is not None:
        source = SimpleNamespace(texts=texts, pairs=None, groups=groups, labels=labels, choices=None, answers=None)
    return LabelledRows(encoded, np.array(labels), source=source)


@given(st.lists(st.integers(0, 3), min_size=12, max_size=60), st.integers(2, 5), st.integers(0, 3))
@example([0, 1, 2] * 4, 5, 0)
def test_folds_hold_each_row_once_and_spread_the_labels(labels, folds, seed):
    rows = labelled(labels)
    folds = min(folds, int(np.bincount(labels).max()))  # as ``fold_count`` has it, some label fills every fold
    found = repeated_folds(rows, folds, 2, seed)
    assert found.shape == (2, len(labels)) and set(np.unique(found)) == set(range(folds))
    assert np.array_equal(found, repeated_folds(rows, folds, 2, seed))
    for division in found:
        for label in range(4):
            counts = np.bincount(division[rows.labels == label], minlength=folds)
            assert counts.max() - counts.min() <= 2


def test_rows_of_one_text_or_group_are_in_one_fold():
    texts = [f"text {row // 2}" for row in range(40)]
    labels = [row // 2 % 2 for row in range(40)]
    for division in repeated_folds(labelled(labels, texts=texts), 5, 3, 0):
        assert np.array_equal(division[::2], division[1::2])
    groups = [f"group {row // 4}" for row in range(40)]
    for division in repeated_folds(labelled(labels, texts=[str(row) for row in range(40)], groups=groups), 5, 3, 0):
        assert all(len(set(division[start : start + 4])) == 1 for start in range(0, 40, 4))


@pytest.mark.parametrize(("labels", "folds"), [([0] * 9 + [1] * 3, 3), ([0, 0, 1, 1], 2), ([0] * 50 + [1] * 50, 5)])
def test_there_are_as_many_folds_as_the_second_label_has_rows(labels, folds):
    assert fold_count(labelled(labels)) == folds


@pytest.mark.parametrize("labels", [[0] * 20, [0] * 20 + [1], [1]])
def test_rows_that_cannot_be_divided_are_refused(labels):
    with pytest.raises(InputError, match=r"two rows of two labels.*train\.method: fixed"):
        fold_count(labelled(labels))


@pytest.mark.parametrize(
    ("shape", "init", "fits"),
    [
        ("classification", "auto", 0),
        ("classification", "logistic_regression", 5 * 16 * 4 / 5 + 1),
        ("token_classification", "auto", 1),
        ("multi_label", "logistic_regression", 1),
        ("regression", "logistic_regression", 0),
    ],
)
def test_a_start_costs_the_fits_that_it_makes(shape, init, fits, monkeypatch):
    """Counted here: each fit of scikit-learn by its share of the rows."""
    if shape == "classification":
        classifier, rows, of_labels = tiny_classifier(pooling="mean", dtype=torch.float32), random_rows(60), 1
    else:
        given = task(shape, dtype=torch.float32, rows=60)
        classifier, rows, of_labels = given.classifier, given.train, 3 if shape == "multi_label" else 1
    settings = Settings.from_mapping({"head": {"init": init}})
    whole, made = rows.encoded.output_count, []
    fit_model = LogisticRegression.fit

    def counted(model, features, labels):
        made.append(len(features) / whole)
        return fit_model(model, features, labels)

    monkeypatch.setattr(LogisticRegression, "fit", counted)
    head_start(classifier, Sample(rows, None, "accuracy"), settings)
    assert sum(made) / of_labels == pytest.approx(fits, rel=1e-9)
    once = path_operations(classifier.problem_type, len(classifier.labels), whole, 32)
    of_path = 6 if shape == "token_classification" else 16
    planned = start_operations(classifier, settings, TrainingSettings(), whole, 32)
    assert planned == pytest.approx(fits * once / of_path)


def test_candidates_that_start_alike_share_the_start_of_a_fold(monkeypatch):
    """It was fitted anew for each of them; it stays the one of the rows that the fold learns from."""
    classifier = tiny_classifier(pooling="mean", dtype=torch.float32)
    classifier.newly_initialized = ("classifier.weight", "classifier.bias")
    rows = LabelledRows(random_rows(63).encoded, np.repeat([0, 1, 2], [30, 30, 3]))
    sample = Sample(rows, None, "macro_f1")
    asked = {"method": "auto", "epochs": 1, "learning_rates": [0.01, 0.02], "search_minutes": 1e-2}
    settings = Settings.from_mapping({"train": asked})
    fitted, planned = [], {}

    def counted(classifier, of_rows, settings, training):
        fitted.append((training.class_weights, [tuple(row) for row in of_rows.train.encoded.input_ids]))
        return head_start(classifier, of_rows, settings, training)

    def kept(classifier, rows, folds, compared, plan_run, **more):
        found = trained_out_of_fold(classifier, rows, folds, compared, plan_run, **more)
        planned.update(
            {(one.name, at): plan_run(one, np.flatnonzero(folds[0] != at)) for one in compared for at in (0, 1)}
        )
        return found

    monkeypatch.setattr("beft.training.sample.FEW_ROWS_A_LABEL", 1)
    monkeypatch.setattr("beft.training.automatic.candidates.MAX_REPEATS", 1)
    monkeypatch.setattr("beft.training.automatic.search.head_start", counted)
    monkeypatch.setattr("beft.training.automatic.search.trained_out_of_fold", kept)
    _, _, choice = search_and_train(classifier, sample, settings, by_loss(settings), "value")
    names = [one.candidate.name for one in choice.compared]
    assert sum("cross-entropy" in name for name in names) == 4 and sum("balanced" in name for name in names) == 2
    of_folds = [one for one in fitted if len(one[1]) < len(rows)]
    assert len(of_folds) == 2 * choice.repeats * choice.folds, "one for plain weights and one for balanced ones"
    [division] = repeated_folds(rows, choice.folds, 1, settings.seed)
    for (name, fold), run in planned.items():
        own = Sample(rows.take(np.flatnonzero(division != fold)), None, sample.metric)
        expected = {} if "contrastive" in name else head_start(classifier, own, settings, run.settings)
        assert run.initial_head.keys() == expected.keys()
        assert expected or "contrastive" in name
        assert all(torch.equal(run.initial_head[at], expected[at]) for at in expected)


@pytest.mark.parametrize(("rare_rows", "compared"), [(3, True), (20, False)])
def test_a_search_sees_by_its_rows_whether_a_label_is_rare(rare_rows, compared):
    classifier = tiny_classifier(pooling="mean", dtype=torch.float32)
    labels = np.repeat([0, 1], [80 - rare_rows, rare_rows])
    sample = Sample(LabelledRows(random_rows(80).encoded, labels), None, "macro_f1")
    settings = Settings.from_mapping({"train": {"method": "auto", "epochs": 1, "search_minutes": 1e-2}})
    _, _, choice = search_and_train(classifier, sample, settings, by_loss(settings), "value")
    assert (BALANCED in [one.candidate.name for one in choice.compared]) == compared
    assert all(one.failed is None for one in choice.compared)


@pytest.mark.parametrize(("rows_a_label", "compared"), [(11, "contrastive"), (12, "cross-entropy")])
def test_a_search_sees_by_its_rows_which_loss_is_more_promising(rows_a_label, compared, monkeypatch):
    monkeypatch.setattr("beft.training.sample.FEW_ROWS_A_LABEL", 12)
    classifier = tiny_classifier(pooling="mean", dtype=torch.float32)
    labels = np.repeat(np.arange(len(classifier.labels)), rows_a_label)
    sample = Sample(LabelledRows(random_rows(len(labels)).encoded, labels), None, "accuracy")
    settings = Settings.from_mapping({"train": {"method": "auto", "epochs": 1, "search_minutes": 1e-6}})
    _, _, choice = search_and_train(classifier, sample, settings, by_loss(settings), "value")
    assert [one.candidate.name for one in choice.compared] == [FROZEN, f"value, {compared}, rate 0.01"]


@pytest.mark.parametrize("shape", ["regression", "multi_label"])
def test_where_the_loss_is_cross_entropy_by_default_that_is_compared_however_few_the_minutes_are(shape):
    """Values and label sets counted as few rows at any number of them: the contrastive loss alone was compared."""
    given = task(shape, dtype=torch.float32, rows=60)
    settings = Settings.from_mapping({"train": {"method": "auto", "epochs": 1, "search_minutes": 1e-6}})
    by_default = settings_of(settings.train, settings, "rotten_tomatoes", 60, classes=0)
    assert by_default.loss == "cross_entropy"
    sample = Sample(given.train, None, {"regression": "pearson", "multi_label": "micro_f1"}[shape])
    _, _, choice = search_and_train(given.classifier, sample, settings, by_loss(settings), "value")
    [_, compared] = [one.candidate for one in choice.compared]
    assert compared.training == by_loss(settings)[by_default.loss].model_copy(update={"learning_rates": ()})


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_linear_out_of_fold_is_that_of_scikit_learn(class_weight):
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 6))
    labels = (features[:, 0] + 0.5 * random.normal(size=40) > 0.8).astype(np.int64)
    rows = labelled(labels.tolist())
    folds = repeated_folds(rows, 4, 2, 0)
    balanced = class_weight == "balanced"
    for found in linear_out_of_fold(Classification(), 2, features, rows, folds, balanced=balanced)[::5]:
        for repeat, division in enumerate(folds):
            for fold in range(4):
                train, held_out = division != fold, division == fold
                mean, deviation = features[train].mean(0), features[train].std(0)
                model = LogisticRegression(C=found.penalty, tol=1e-8, max_iter=10_000, class_weight=class_weight)
                model.fit((features[train] - mean) / deviation, labels[train])
                expected = model.decision_function((features[held_out] - mean) / deviation)
                logits = found.outputs[repeat, held_out]
                np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_trained_out_of_fold_is_what_separate_trainings_give():
    """In one pass over all rows each fold's run gets what a training on those rows alone predicts of the others."""
    classifier = tiny_classifier(pooling="mean")
    rows = random_rows(30)
    folds = repeated_folds(rows, 3, 1, 0)
    compared = [
        Candidate("one", ("value",), plain_settings(epochs=2, learning_rate=1e-2, batch_size=8, dropout=False)),
        Candidate(
            "other",
            ("query", "value"),
            plain_settings(epochs=2, learning_rate=3e-2, batch_size=8, dropout=False, loss="contrastive"),
        ),
    ]

    def run_of(candidate, learnt):
        assert len(learnt) == 20
        sites = find_sites(classifier.model, candidate.terms)
        return Run(candidate.name, sites, classifier.head_parameters(), 4, candidate.training, "last")

    found = trained_out_of_fold(
        classifier, rows, folds, compared, run_of, metric=lambda *_: 0.0, checkpoints=None, progress=lambda line: None
    )
    for candidate, outputs in zip(compared, found, strict=True):
        for fold in range(3):
            train, held_out = np.flatnonzero(folds[0] != fold), np.flatnonzero(folds[0] == fold)
            [result] = fit(classifier, rows.take(train), None, [run_of(candidate, train)], metric=lambda *_: 0.0)
            model = copy.deepcopy(classifier.model)
            named = dict(model.named_parameters())
            with torch.no_grad():
                for site, delta in result.deltas.items():
                    named[f"{site.module}.bias"].add_(delta)
                for name, value in result.head.items():
                    named[name].copy_(value)
            [alone] = sequence_outputs(classifier.with_model(model), rows.encoded).numpy()
            np.testing.assert_allclose(outputs.outputs[0, held_out], alone[held_out], atol=1e-5)


def sample_of(kind, classifier):
    """160 rows of two labels: the ends of a direction of the features of the base, or of one with other value biases.

    From the latter all is taken away that is linear in the base's own features, so that these cannot tell the labels.
    """
    rows = random_rows(1000)
    own = extract_features(classifier, rows.encoded, "head").double().numpy()
    features = own = own - own.mean(0)
    if kind == "moved":
        moved = copy.deepcopy(classifier.model)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for site in find_sites(moved, ["value"]):
                bias = dict(moved.named_parameters())[f"{site.module}.bias"]
                bias.add_(3 * torch.randn(bias.shape, generator=random))
        features = extract_features(classifier.with_model(moved), rows.encoded, "head").double().numpy()
        features = features - features.mean(0)
        features = features - own @ np.linalg.lstsq(own, features, rcond=None)[0]
    order = np.argsort(features @ np.linalg.svd(features)[2][0])
    chosen = rows.take(np.concatenate([order[:80], order[-80:]]))
    return Sample(LabelledRows(chosen.encoded, np.repeat([0, 1], 80)), None, "accuracy")


def by_loss(settings: Settings) -> dict[Loss, TrainingSettings]:
    losses: tuple[Loss, ...] = ("cross_entropy", "contrastive")
    return {loss: settings_of(settings.train.with_loss(loss), settings, "rotten_tomatoes", 40) for loss in losses}


def searched(kind):
    """The outcome of a search over frozen features and one contrastive training, and the classifier."""
    classifier = tiny_classifier(pooling="mean", dtype=torch.float32)
    sample = sample_of(kind, classifier)
    asked = {"method": "auto", "epochs": 30, "batch_size": 32, "search_minutes": 1e-4, "learning_rates": [0.3]}
    settings = Settings.from_mapping({"train": asked})
    return classifier, sample, *search_and_train(classifier, sample, settings, by_loss(settings), "value")


def test_rows_that_frozen_features_explain_get_zero_deltas_and_their_linear_model():
    classifier, sample, result, terms, choice = searched("frozen")
    assert choice.chosen.candidate.name == FROZEN and terms == ("value",)
    assert result.deltas and not any(delta.any() for delta in result.deltas.values())
    features = extract_features(classifier, sample.train.encoded, "head").double().numpy()
    scaled = (features - features.mean(0)) / features.std(0)
    model = LogisticRegression(C=choice.chosen.penalty, tol=1e-8, max_iter=100_000)
    expected = model.fit(scaled, sample.train.labels).decision_function(scaled)
    weight, bias = (result.head[name].double().numpy() for name in classifier.head_parameters())
    logits = features @ weight.T + bias
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, rtol=5e-3, atol=0.02)


def test_as_many_rows_that_need_other_biases_get_them():
    """No rule by the number of rows: these are as many as those of the test before."""
    _, _, result, terms, choice = searched("moved")
    assert choice.chosen.candidate.name == "value, contrastive, rate 0.3" and terms == ("value",)
    assert choice.to_json()["candidates"][0]["behind"]["difference"] > 0.1
    assert all(delta.any() for delta in result.deltas.values())


def test_no_fold_starts_from_rows_that_it_holds_out():
    """Labels by chance, which a head fitted on all rows would know: what a fold predicts of the others is a guess."""
    classifier = tiny_classifier(pooling="mean", dtype=torch.float32)
    rows = random_rows(40)
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1], 20))
    sample = Sample(LabelledRows(rows.encoded, labels), None, "accuracy")
    still = {"epochs": 1, "learning_rates": [1e-6], "head_learning_rate": 1e-6, "search_minutes": 3e-4}
    settings = Settings.from_mapping(
        {"head": {"init": "logistic_regression"}, "train": {"method": "auto", "batch_size": 40, **still}}
    )
    _, _, choice = search_and_train(classifier, sample, settings, by_loss(settings), "value")
    [found] = [one for one in choice.compared if one.candidate.name.startswith("value, cross-entropy")]
    assert found.metric < 0.75


def test_an_inert_target_term_is_left_out_of_what_is_compared():
    """A part of the runs then had no bias, and the search ended in a traceback."""
    classifier = tiny_classifier(pooling="mean", dtype=torch.float32)
    inert = {site: torch.full((site.width,), site.term == "key") for site in find_sites(classifier.model)}
    told = []
    settings = Settings.from_mapping({"train": {"method": "auto", "epochs": 1, "search_minutes": 1e-2}})
    sample = Sample(random_rows(40), None, "accuracy")
    result, terms, choice = search_and_train(
        classifier, sample, settings, by_loss(settings), "key", inert=inert, progress=told.append
    )
    names = [one.candidate.name for one in choice.compared]
    assert names == [FROZEN, "all biases, contrastive, rate 0.005", "all biases, cross-entropy, rate 0.005"]
    assert all(one.failed is None and "key" not in one.candidate.terms for one in choice.compared)
    assert {site.term for site in result.deltas} == set(terms)
    assert "auto: every key bias is inert, so no training of key alone is compared" in told
    with pytest.raises(InputError, match="no bias at final_norm"):
        search_and_train(classifier, sample, settings, by_loss(settings), "final_norm", inert=inert)


def test_where_every_bias_is_inert_frozen_features_are_what_is_left():
    classifier = tiny_classifier(pooling="mean", dtype=torch.float32)
    inert = {site: torch.ones(site.width, dtype=torch.bool) for site in find_sites(classifier.model)}
    settings = Settings.from_mapping({"train": {"method": "auto", "epochs": 1, "search_minutes": 1e-2}})
    sample = Sample(random_rows(40), None, "accuracy")
    result, terms, choice = search_and_train(classifier, sample, settings, by_loss(settings), "key", inert=inert)
    assert [one.candidate.name for one in choice.compared] == [FROZEN] and terms == ("key",)
    assert set(result.deltas) == set(find_sites(classifier.model, ["key"]))
    assert not any(delta.any() for delta in result.deltas.values())
    assert choice.to_json()["trains_biases"] is False


def test_under_the_published_protocol_nothing_is_chosen():
    with pytest.raises(SettingsError, match=r"train\.method: auto chooses, which protocol: paper does not"):
        Settings.from_mapping({"protocol": "paper", "train": {"method": "auto"}})
