"""Loss weights of unequal classes: scikit-learn's numbers, a plain loop's training, a shared pass as alone."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional

from beft.datasets.prepared import PreparedData
from beft.encoding.tokenization import training_batches
from beft.errors import InputError
from beft.inference.runs import Run
from beft.problems.class_weights import example_weights
from beft.problems.classification import Classification
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.regression import Regression
from beft.settings import Settings
from beft.sites.site import find_sites, site_module
from beft.training.engine.fit import fit
from beft.training.head_start import head_start
from beft.training.sample import Sample
from beft.training.session import Session
from beft.training_settings import TrainingSettings
from tests.support.rows import plain_settings, random_rows, tiny_classifier


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_balanced_weights_are_those_of_scikit_learn(labels):
    found = example_weights("balanced", Classification(), np.array(labels))
    np.testing.assert_allclose(found, compute_sample_weight("balanced", labels), rtol=1e-15)
    assert example_weights("none", Classification(), np.array(labels)).tolist() == [1.0] * len(labels)


@pytest.mark.parametrize("problem_type", [Regression(), MultipleChoice()])
def test_a_problem_type_without_classes_has_no_class_weights(problem_type):
    with pytest.raises(InputError, match="has no classes that all examples share: set class_weights of probe and"):
        example_weights("balanced", problem_type, np.array([0, 1]))
    assert example_weights("none", problem_type, np.array([0.5])).tolist() == [1.0]


@pytest.mark.parametrize("section", ["probe", "train"])
def test_a_session_refuses_them_before_it_trains(section):
    classifier = tiny_classifier()
    classifier.problem_type = Regression()
    settings = Settings.from_mapping({section: {"class_weights": "balanced"}, "datasets": {"own": {}}})
    facts = {"dataset": "own", "rows": {"train": 10, "dev": 2}}
    session = Session(classifier, settings, PreparedData(facts, lambda split: None))
    with pytest.raises(InputError, match="'regression' has no classes that all examples share"):
        session.training(getattr(settings, section))


def few_of_two_labels(rows):
    """Rows of which one label has most, made of random ones."""
    kept = [at for at, label in enumerate(rows.labels) if label == 0 or at % 7 == 0]
    return rows.take(np.array(kept))


def runs_of(classifier, **settings):
    """A weighted and a plain run of the value biases and the head."""
    sites, head = find_sites(classifier.model, ["value"]), classifier.head_parameters()
    plain = plain_settings(epochs=3, learning_rate=1e-2, batch_size=8, dropout=False, **settings)
    weighted = plain.model_copy(update={"class_weights": "balanced"})
    return Run("weighted", sites, head, 3, weighted, "last"), Run("plain", sites, head, 3, plain, "last")


def accuracy(probabilities, labels):
    return float((probabilities.argmax(-1) == labels).mean())


def plain_loop(classifier, rows, run):
    """Train the model's own biases with torch.optim.AdamW; each row's loss times scikit-learn's weight of its class."""
    model = copy.deepcopy(classifier.model)
    trained = [site_module(model, site).bias for site in run.sites] + [model.get_parameter(name) for name in run.head]
    for parameter in trained:
        parameter.requires_grad_(True)
    weights = torch.from_numpy(compute_sample_weight("balanced", rows.labels))
    settings = run.settings
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, eps=settings.adam_epsilon, weight_decay=0.0)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for epoch in range(1, settings.epochs + 1):
        for batch in training_batches(rows.lengths, settings.batch_size, seed=run.seed, epoch=epoch):
            optimizer.zero_grad()
            logits = model(**rows.batch(batch)).logits
            losses = functional.cross_entropy(logits, rows.targets(batch), reduction="none")
            (weights[torch.from_numpy(batch)] * losses).mean().backward()
            torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
            optimizer.step()
            schedule.step()
    return trained


def test_a_weighted_training_is_that_of_a_plain_loop_and_the_same_in_a_shared_pass():
    """Law 3 as well: a weighted and a plain run share a pass, computed whole or in parts."""
    classifier = tiny_classifier()
    train, dev = few_of_two_labels(random_rows(110)), random_rows(30, seed=9)
    weighted, plain = runs_of(classifier)
    [alone] = fit(classifier, train, dev, [weighted], metric=accuracy)
    expected = plain_loop(classifier, train, weighted)
    before = [site_module(classifier.model, site).bias for site in weighted.sites]
    for site, start, value in zip(weighted.sites, before, expected, strict=False):
        torch.testing.assert_close(start + alone.deltas[site], value, rtol=0, atol=1e-9)
    in_parts = [
        replace(run, settings=run.settings.model_copy(update={"micro_batch_size": 3})) for run in (plain, weighted)
    ]
    for runs in ([plain, weighted], in_parts):
        together = fit(classifier, train, dev, runs, metric=accuracy)
        for site, delta in alone.deltas.items():
            torch.testing.assert_close(together[1].deltas[site], delta, rtol=0, atol=1e-9)
            assert float((together[0].deltas[site] - delta).abs().max()) > 1e-4
    [only] = fit(classifier, train, dev, [plain], metric=accuracy)
    for site, delta in only.deltas.items():
        torch.testing.assert_close(together[0].deltas[site], delta, rtol=0, atol=1e-9)


def test_the_dev_loss_is_not_weighted():
    """Both losses of a training that moves nothing: that of train is weighted, that of dev is the plain mean."""
    classifier = tiny_classifier()
    rows = few_of_two_labels(random_rows(60))
    weighted, _ = runs_of(classifier)
    still = replace(weighted, settings=weighted.settings.model_copy(update={"learning_rate": 1e-12, "epochs": 1}))
    [found] = fit(classifier, rows, rows, [still], metric=accuracy)
    with torch.no_grad():
        logits = classifier.model(**rows.batch(np.arange(len(rows)))).logits
    losses = functional.cross_entropy(logits, torch.from_numpy(rows.labels), reduction="none").numpy()
    assert found.history[0]["dev_loss"] == pytest.approx(losses.mean(), abs=1e-6)
    wanted = (losses * compute_sample_weight("balanced", rows.labels)).mean()
    assert found.history[0]["train_loss"] == pytest.approx(wanted, abs=1e-6)
    assert abs(wanted - losses.mean()) > 1e-3


def test_a_head_starts_without_frequencies_where_classes_are_balanced():
    classifier = tiny_classifier()
    classifier.newly_initialized = ("classifier.weight", "classifier.bias")
    rows = few_of_two_labels(random_rows(60))
    sample = Sample(rows, None, "accuracy")
    [frequencies] = head_start(classifier, sample, Settings()).values()
    [balanced] = head_start(classifier, sample, Settings(), TrainingSettings(class_weights="balanced")).values()
    assert float(frequencies.abs().max()) > 0.5
    assert balanced.tolist() == [0.0, 0.0, 0.0]
