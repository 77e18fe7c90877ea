"""What ``train.method: auto`` divides, plans, compares and chooses, against plain computations of the same."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from beft.encoding.tokenization import Encoded
from beft.errors import InputError, SettingsError, TrainingError
from beft.heads.by_problem_type import path_operations
from beft.inference.features import extract_features
from beft.inference.predictions import sequence_outputs
from beft.inference.runs import LabelledRows, Run
from beft.problems.classification import Classification
from beft.problems.regression import Regression
from beft.settings import Settings
from beft.sites.site import find_sites
from beft.training.automatic.candidates import (
    FROZEN,
    MAX_REPEATS,
    NOMINAL_LINEAR_OPERATIONS,
    NOMINAL_OPERATIONS,
    Candidate,
    candidates,
    has_rare_label,
    plan_search,
)
from beft.training.automatic.choice import Scored, choose
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


def test_the_plan_keeps_to_its_minutes():
    both: dict[Loss, TrainingSettings] = {"cross_entropy": TrainingSettings(epochs=10)}
    both["contrastive"] = TrainingSettings(epochs=10, loss="contrastive")
    ways = candidates(both, "value", ["query", "value"])
    assert ways[0] == Candidate(FROZEN) and len(ways) == 7
    tokens, operations = 1000, NOMINAL_OPERATIONS / 4000  # an epoch over all rows takes a quarter of a second
    # Six trainings of 10 epochs over four fifths of the rows, five times: 6 x 10 x 4 x 0.25 s = a minute.
    whole = plan_search(ways, tokens, operations, 2.5, folds=5)
    assert (len(whole.candidates), whole.repeats, whole.seconds) == (7, 2, pytest.approx(120))
    assert plan_search(ways, tokens, operations, 1000, folds=5).repeats == MAX_REPEATS
    less = plan_search(ways, tokens, operations, 0.4, folds=5)
    assert (len(less.candidates), less.repeats, less.seconds) == (3, 1, pytest.approx(20))
    assert less.candidates == tuple(ways[:3])
    assert less.folds == 5
    # Both losses over three folds, 2 x 10 x 2 x 0.25 s, rather than one over five.
    fewer_folds = plan_search(ways, tokens, operations, 10.1 / 60, folds=5)
    assert (fewer_folds.candidates, fewer_folds.folds, fewer_folds.seconds) == (tuple(ways[:3]), 3, pytest.approx(10))
    one_loss = plan_search(ways, tokens, operations, 9.9 / 60, folds=5)
    assert (len(one_loss.candidates), one_loss.folds, one_loss.seconds) == (2, 4, pytest.approx(7.5))
    least = plan_search(ways, tokens, operations, 0.01, folds=5)
    assert [one.name for one in least.candidates] == [FROZEN, "value, contrastive, rate 0.01"]
    assert (least.folds, least.repeats) == (3, 1)
    assert plan_search(ways, tokens, operations, 0.01, folds=2).folds == 2


def test_the_linear_models_count_in_the_minutes():
    """With 77 labels they take longer than the trainings; the minutes did not see them."""
    ways = [Candidate(FROZEN), Candidate("one", ("value",), TrainingSettings(epochs=10))]
    tokens, operations = 1000, NOMINAL_OPERATIONS / 4000
    without = plan_search(ways, tokens, operations, 1, folds=5)
    assert (without.repeats, without.seconds) == (MAX_REPEATS, pytest.approx(40))
    # Five fits on four fifths of the rows, 4 x 5 s, beside five trainings, 4 x 10 x 0.25 s.
    many = plan_search(ways, tokens, operations, 1, folds=5, linear=5 * NOMINAL_LINEAR_OPERATIONS)
    assert (many.repeats, many.seconds) == (2, pytest.approx(60))
    operations = path_operations(Classification(), 77, 1232, 384)
    assert 0.5 < operations / NOMINAL_LINEAR_OPERATIONS / 7.1 < 2  # seconds, measured
    assert path_operations(Regression(), 0, 1000, 384) == 0


def test_the_linear_models_that_heads_start_at_count_in_the_minutes():
    """Once for all candidates that start alike: the two of cross-entropy, not the balanced one or the contrastive."""
    training = TrainingSettings(epochs=10)
    changes = ({}, {"learning_rate": 0.03}, {"class_weights": "balanced"}, {"loss": "contrastive"})
    trained = [Candidate(str(at), ("value",), training.model_copy(update=change)) for at, change in enumerate(changes)]
    ways = [Candidate(FROZEN), *trained]
    tokens, operations = 1000, NOMINAL_OPERATIONS / 4000
    start = 3 * NOMINAL_LINEAR_OPERATIONS
    plan = plan_search(ways, tokens, operations, 2, folds=5, start=start)
    # 4 x 10 x 4 x 0.25 s of trainings, and two starts on four fifths of the rows of five parts, 2 x 4 x 3 s.
    assert (len(plan.candidates), plan.repeats, plan.seconds) == (5, 1, pytest.approx(64))
    fewer = plan_search(ways[:3], tokens, operations, 0.6, folds=5, start=start)
    assert (len(fewer.candidates), fewer.repeats, fewer.seconds) == (3, 1, pytest.approx(32))


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


def test_with_many_rows_cross_entropy_is_the_more_promising_loss():
    """As it is the default then: it is compared however few the minutes are, and taken where others hardly win."""
    both: dict[Loss, TrainingSettings] = {"cross_entropy": TrainingSettings(epochs=10)}
    both["contrastive"] = TrainingSettings(epochs=10, loss="contrastive")
    ways = candidates(both, "value", ["query", "value"], few=False)
    assert [one.training.loss for one in ways[1:5]] == ["cross_entropy", "contrastive"] * 2
    least = plan_search(ways, 1000, NOMINAL_OPERATIONS, 0.01, folds=5)
    assert [one.name for one in least.candidates] == [FROZEN, "value, cross-entropy, rate 0.01"]


def test_rates_that_are_named_are_those_compared():
    training = TrainingSettings(epochs=3, learning_rates=(0.2, 0.1))
    ways = candidates({"cross_entropy": training}, "value", ["value"], prompted=training)
    assert {one.training.learning_rate for one in ways[1:]} == {0.2, 0.1}
    assert [one.training.learning_rate for one in ways if one.pooling == "mask"] == [0.2, 0.1]


@pytest.mark.parametrize(
    ("few", "first"),
    [(True, ["contrastive", "mask", "cross_entropy"]), (False, ["cross_entropy", "contrastive", "mask"])],
)
def test_with_few_rows_words_for_the_labels_come_before_a_head_that_knows_none(few, first):
    """So that a search that compares only one training of each loss has them."""
    both: dict[Loss, TrainingSettings] = {"cross_entropy": TrainingSettings(epochs=3)}
    both["contrastive"] = TrainingSettings(epochs=3, loss="contrastive")
    ways = candidates(both, "value", ["value"], few=few, prompted=both["cross_entropy"])
    assert [one.pooling or one.training.loss for one in ways[1:4]] == first
    assert sum(one.pooling == "mask" for one in ways) == 2 and len(ways) == len(set(ways))


def test_balanced_weights_are_compared_where_a_label_is_rare():
    plain: dict[Loss, TrainingSettings] = {"cross_entropy": TrainingSettings(epochs=3)}
    plain["contrastive"] = TrainingSettings(epochs=3, loss="contrastive")
    names = [one.name for one in candidates(plain, "value", ["value"], rare=True)]
    trained = [f"value, {how}, rate 0.01" for how in ("contrastive", "cross-entropy")]
    assert names[:5] == [FROZEN, *trained, f"{FROZEN}, balanced", BALANCED]
    frozen, balanced = candidates(plain, "value", ["value"], rare=True)[3:5]
    assert balanced.training == TrainingSettings(epochs=3, loss="contrastive", class_weights="balanced")
    assert balanced.to_json()["class_weights"] == frozen.to_json()["class_weights"] == "balanced"
    many = [one.name for one in candidates(plain, "value", ["value"], rare=True, few=False)]
    assert "value, cross-entropy, balanced, rate 0.01" in many and BALANCED not in many
    assert BALANCED not in [one.name for one in candidates(plain, "value", ["value"])]
    weighed = {loss: one.model_copy(update={"class_weights": "balanced"}) for loss, one in plain.items()}
    found = candidates(weighed, "value", ["value"], rare=True)
    assert BALANCED not in [one.name for one in found], "all are so"
    assert {one.to_json()["class_weights"] for one in found} == {"balanced"}


@pytest.mark.parametrize(
    ("counts", "rare"),
    [([50, 50], False), ([97, 3], True), ([8] * 77, False), ([8] * 76 + [4], True), ([10, 6], False)],
)
def test_a_label_is_rare_beside_others(counts, rare):
    assert has_rare_label(np.repeat(np.arange(len(counts)), counts)) == rare


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


def made(name, right, *, failed=None):
    """A candidate that predicts the rows of ``right`` rightly, of 20 rows of two labels."""
    if failed:
        return Scored(Candidate(name), failed=failed)
    labels = np.arange(20) % 2
    predicted = np.where(np.isin(np.arange(20), right), labels, 1 - labels)
    outputs = np.zeros((1, 20, 2))
    outputs[0, np.arange(20), predicted] = 3.0
    return Scored(Candidate(name), accuracy_score(labels, predicted), 0.0, outputs)


def trained(name, right):
    """A candidate with biases."""
    found = made(name, right)
    return replace(found, candidate=Candidate(name, ("value",)))


def chosen_of(*compared):
    return choose(
        compared, Classification(), labelled((np.arange(20) % 2).tolist()), "accuracy", folds=5, repeats=1, seed=0
    )


def test_the_best_is_chosen_and_of_equals_the_cheapest():
    first = chosen_of(made("frozen", range(12)), made("value", range(15)), made("all", range(3, 18)))
    assert first.chosen.candidate.name == "value"
    listed = first.to_json()["candidates"]
    assert listed[0]["behind"]["difference"] == pytest.approx(3 / 20)
    assert listed[0]["behind"]["low"] <= 3 / 20 <= listed[0]["behind"]["high"]
    assert "behind" not in listed[1] and listed[2]["behind"]["difference"] == 0
    assert listed[2]["behind"]["low"] < 0 < listed[2]["behind"]["high"]
    assert chosen_of(made("frozen", range(15)), made("value", range(5, 20))).chosen.candidate.name == "frozen"


def test_the_most_promising_way_is_left_only_for_one_that_is_better_by_a_standard_error():
    """Of 20 rows the best has k more right than the first, and as many errors of its own as that one has."""
    promising = trained("value", range(12))
    # One row better, and on eight they differ: the standard error is sqrt(9 / 20 - 1 / 400) / sqrt(20), 0.15.
    hardly = trained("all", [*range(8), *range(12, 17)])
    assert chosen_of(made("frozen", range(3)), promising, hardly).chosen.candidate.name == "value"
    # Five rows better and none worse: 0.25 with a standard error of 0.1.
    assert chosen_of(made("frozen", range(17)), promising, hardly).chosen.candidate.name == "frozen"
    equal = chosen_of(made("frozen", range(4, 16)), promising, trained("all", range(3)))
    assert equal.chosen.candidate.name == "frozen", "of equals the cheapest"


def test_what_failed_is_not_chosen():
    found = chosen_of(made("frozen", range(3)), made("value", (), failed="the loss is NaN"))
    assert found.chosen.candidate.name == "frozen"
    assert found.to_json()["candidates"][1]["failed"] == "the loss is NaN"
    with pytest.raises(TrainingError, match="value: the loss is NaN"):
        chosen_of(made("value", (), failed="the loss is NaN"))


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
