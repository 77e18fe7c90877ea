"""The probe and the target's training: what starts where, what stays frozen, what the protocols differ in."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from beft.bank.bank import Bank
from beft.datasets.prepared import Rows
from beft.encoding.tokenization import Encoded
from beft.inference.runs import LabelledRows
from beft.problems.classification import Classification
from beft.problems.regression import Regression
from beft.settings import Settings
from beft.sites.site import find_sites, read_bias
from beft.training.head_start import head_start
from beft.training.probe import inert_components, run_probe
from beft.training.sample import DevMetric, Sample, joined, settings_of
from beft.training.target import train_terms
from beft.training_settings import ProbeSettings, TrainingSettings
from tests.beft.bank.test_inertness import moved_by_hand
from tests.conftest import ENCODER_DECODER, END, PAD, VOCABULARY
from tests.support.rows import random_rows, tiny_classifier

TRAINING = TrainingSettings(epochs=2, learning_rate=1e-2, batch_size=8)


def quiet(_line):
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def sample():
    return Sample(random_rows(80), random_rows(30, seed=5), "accuracy")


def test_joined_rows_have_every_column_of_both():
    one = Rows(["a", "b"], ["x", "y"], None, [0, 1], groups=["g", "g"], kept={"topic": ["art", "law"]})
    other = Rows(["c"], ["z"], None, [1], groups=["h"], kept={"topic": ["sea"]})
    every = joined(one, other)
    assert every == Rows(
        ["a", "b", "c"], ["x", "y", "z"], None, [0, 1, 1], groups=["g", "g", "h"], kept={"topic": ["art", "law", "sea"]}
    )
    assert every.select([2, 0]).kept == {"topic": ["sea", "art"]}


def test_probe_keeps_every_bias_before_and_after(sample):
    classifier = tiny_classifier()
    probe = run_probe(classifier, sample, Settings(), TRAINING, progress=quiet)
    sites = find_sites(classifier.model)
    assert set(probe.evidence.before) == set(probe.evidence.after) == set(probe.evidence.information) == set(sites)
    for site in sites:
        assert torch.equal(probe.evidence.before[site], read_bias(classifier.model, site))
        moved = probe.evidence.after[site] - probe.evidence.before[site]
        torch.testing.assert_close(moved, probe.result.deltas[site], rtol=0, atol=1e-12)
        assert bool(moved.any()) == (site.term != "key"), "all but the inert key biases are trained"
    assert {site.term for site in probe.frozen} == {"key"}


def test_paper_protocol_trains_everything_to_the_last_epoch(sample):
    classifier = tiny_classifier(dtype=torch.float32)
    settings = Settings.from_mapping({"protocol": "paper", "head": {"init": "random"}})
    whole = Sample(sample.train, None, "accuracy")
    probe = run_probe(classifier, whole, settings, TRAINING, progress=quiet)
    assert probe.frozen == ()
    assert probe.result.best_epoch == TRAINING.epochs
    assert set(probe.result.head) == {"bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}


def test_fisher_is_taken_before_the_probe(sample):
    """Against the squared gradients of single examples, with the head where the probe starts."""
    classifier = tiny_classifier()
    settings = Settings()
    start = head_start(classifier, sample, settings)
    probe = run_probe(classifier, sample, settings, TRAINING, progress=quiet)
    [site] = find_sites(classifier.model, ["value"])[:1]
    delta = torch.zeros(site.width, dtype=torch.float64, requires_grad=True)
    total = torch.zeros(site.width, dtype=torch.float64)
    with Bank(classifier.model, {site: delta}, start):
        for row in range(len(sample.train)):
            logits = classifier(sample.train.encoded.batch(np.array([row])))
            loss = functional.cross_entropy(logits, torch.from_numpy(sample.train.labels[[row]]))
            total += torch.autograd.grad(loss, delta)[0].square()
    torch.testing.assert_close(
        probe.evidence.information[site], total / len(sample.train), rtol=1e-5, atol=0
    )  # the head starts in fp32


@pytest.mark.parametrize("family", ENCODER_DECODER)
def test_long_texts_are_measured_up_to_the_end_token_that_a_head_reads(family):
    """Against shifts in the parameters themselves, over whole texts."""
    classifier = tiny_classifier(family)
    random = np.random.default_rng(0)
    lengths = np.array([40, 43, 46, 50, 55])
    ids = [[*random.integers(3, VOCABULARY, length - 1).tolist(), END] for length in lengths]
    encoded = Encoded(ids, None, lengths, 0, PAD)
    sites = find_sites(classifier.model, ["key", "value"], add=True)
    inert = inert_components(classifier, sites, encoded, 0)
    by_hand = moved_by_hand(classifier.model, sites, encoded.batch(range(4)))
    for site in sites:
        assert inert[site].tolist() == [moved < 1e-9 for moved in by_hand[site.name]], site.name


def test_train_terms_leaves_inert_sites_at_zero(sample):
    classifier = tiny_classifier()
    inert = run_probe(classifier, sample, Settings(), TRAINING, progress=quiet).evidence.inert
    result = train_terms(classifier, sample, Settings(), TRAINING, ["key", "value"], inert=inert, progress=quiet)
    assert set(result.deltas) == set(find_sites(classifier.model, ["key", "value"]))
    assert all(bool(delta.any()) == (site.term == "value") for site, delta in result.deltas.items())


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_head_starts_as_well_on_dev_as_a_linear_probe(family, sample):
    """At the first step the logits are those of a logistic regression on the features that the head sees."""
    classifier = tiny_classifier(family)
    settings = Settings.from_mapping({"head": {"init": "logistic_regression"}})
    start = head_start(classifier, sample, settings)
    assert f"{classifier.output_name}.weight" in start
    assert sample.dev is not None
    with Bank(classifier.model, {}, start), torch.no_grad():
        logits = torch.cat([classifier(sample.dev.encoded.batch(np.array([row]))) for row in range(len(sample.dev))])
    loss = functional.cross_entropy(logits.double(), torch.from_numpy(sample.dev.labels))
    shares = np.bincount(sample.train.labels, minlength=3) / len(sample.train)
    assert float(loss) < -np.log(shares)[sample.dev.labels].mean() + 0.1, "no worse than knowing the labels' shares"
    assert head_start(classifier, sample, Settings.from_mapping({"head": {"init": "random"}})) == {}


@pytest.mark.parametrize(
    ("shape", "targets", "most"),
    [
        (Classification(), np.array([0, 0, 0, 1, 2, 2] * 50), 3 / 300),  # each label counts once more than it stands
        (Regression(), np.array([0.5, 4.0, 3.2, 5.0]), 1e-12),
    ],
)
def test_the_best_constant_is_where_no_constant_is_better(shape, targets, most):
    """The gradient of the mean loss over constant outputs is zero there."""
    constant = shape.best_constant(targets, 3).requires_grad_(True)
    outputs = constant.expand(len(targets), -1)
    sizes = torch.ones(len(targets), dtype=torch.int64)
    shape.losses(outputs, torch.from_numpy(targets), sizes).mean().backward()
    assert constant.grad.abs().max() < most


def test_a_head_that_is_drawn_starts_at_the_best_constant_and_one_of_the_base_does_not(sample):
    drawn, own = tiny_classifier(), tiny_classifier()
    drawn.newly_initialized = ("classifier.weight", "classifier.bias")
    start = head_start(drawn, sample, Settings())
    assert set(start) == {"classifier.bias"}
    counts = np.bincount(sample.train.labels, minlength=3) + 1
    shares = torch.softmax(start["classifier.bias"], 0)
    np.testing.assert_allclose(shares.numpy(), counts / counts.sum(), rtol=1e-6)
    assert head_start(own, sample, Settings()) == {}
    assert head_start(drawn, sample, Settings.from_mapping({"protocol": "paper"})) == {}


@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_a_base_in_bf16_is_probed_from_the_best_constant(sample, pooling):
    """Fisher information is taken with that bias in fp32 beside a weight in bf16."""
    classifier = tiny_classifier(dtype=torch.bfloat16, pooling=pooling)
    classifier.newly_initialized = ("classifier.weight", "classifier.bias")
    probe = run_probe(classifier, sample, Settings(), TRAINING, progress=quiet)
    assert set(probe.result.head) == {"classifier.weight", "classifier.bias"}
    assert all(bool(information.isfinite().all()) for information in probe.evidence.information.values())


def test_settings_of_a_dataset_replace_those_of_the_section():
    settings = Settings.from_mapping({"datasets": {"imdb": {"epochs": 3}, "rotten_tomatoes": {"learning_rate": 0.5}}})
    section = ProbeSettings(epochs=2, learning_rate=1e-2, batch_size=8)
    read = section.model_copy(update={"loss": "cross_entropy"})  # that of train, which names none either
    assert settings_of(section, settings, "imdb", 5) == read.model_copy(update={"epochs": 3})
    assert settings_of(section, settings, "rotten_tomatoes", 5) == read.model_copy(update={"learning_rate": 0.5})


def test_the_probe_takes_the_loss_of_train_unless_it_names_its_own():
    settings = Settings.from_mapping({"train": {"loss": "contrastive", "temperature": 0.3}})
    taken = settings_of(settings.probe, settings, "rotten_tomatoes", 5)
    assert (taken.loss, taken.temperature) == ("contrastive", 0.3)
    own = settings_of(ProbeSettings(loss="both", temperature=0.2), settings, "rotten_tomatoes", 5)
    assert (own.loss, own.temperature) == ("both", 0.2)


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [(800, 16, 8), (8000, 16, 8), (799, 16, 8), (784, 16, 9), (240, 16, 27), (240, 8, 14), (3, 16, 30)],
)
def test_few_rows_take_more_epochs_unless_their_number_is_named(rows: int, batch_size: int, epochs: int) -> None:
    """400 steps, but 8 epochs at least and 30 at most; counted here step by step."""
    section = ProbeSettings(batch_size=batch_size)
    assert settings_of(section, Settings(), "rotten_tomatoes", rows).epochs == epochs
    assert epochs in (8, 30) or sum(len(range(0, rows, batch_size)) for _ in range(epochs - 1)) < 400
    named = section.model_copy(update={"epochs": 2, "loss": "cross_entropy", "learning_rate": 0.02})
    assert settings_of(named, Settings(), "rotten_tomatoes", rows) == named


@pytest.mark.parametrize(
    ("rows", "classes", "loss"),
    [(199, 2, "contrastive"), (200, 2, "cross_entropy"), (599, 6, "contrastive"), (16, 0, "cross_entropy")],
)
def test_the_loss_is_contrastive_by_default_below_a_hundred_rows_a_label(rows: int, classes: int, loss: str) -> None:
    settings = Settings()
    for section in (settings.train, settings.probe):
        assert settings_of(section, settings, "rotten_tomatoes", rows, classes=classes).loss == loss
    paper = Settings.from_mapping({"protocol": "paper"})
    assert settings_of(paper.train, paper, "rotten_tomatoes", rows, classes=classes).loss == "cross_entropy"
    named = Settings.from_mapping({"train": {"loss": "both"}})
    assert settings_of(named.train, named, "rotten_tomatoes", rows, classes=classes).loss == "both"


@pytest.mark.parametrize(("batch_size", "loss"), [(3, "cross_entropy"), (4, "contrastive")])
def test_the_loss_is_contrastive_by_default_where_a_batch_has_pairs_of_two_labels(batch_size: int, loss: str) -> None:
    settings = Settings()
    section = settings.train.model_copy(update={"batch_size": batch_size})
    assert settings_of(section, settings, "rotten_tomatoes", 50, classes=2).loss == loss


@pytest.mark.parametrize(("rows", "epochs"), [(16, 30), (48, 30), (128, 13), (384, 6), (5000, 6)])
def test_a_contrastive_loss_takes_a_hundred_steps_and_six_epochs_at_least(rows: int, epochs: int) -> None:
    section = ProbeSettings(loss="contrastive")
    assert settings_of(section, Settings(), "rotten_tomatoes", rows).epochs == epochs
    assert epochs in (6, 30) or (epochs - 1) * -(-rows // 16) < 100 <= epochs * -(-rows // 16)


def test_dev_metric_takes_the_most_probable_label():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    rows = LabelledRows(random_rows(3).encoded, np.array([0, 1, 1]))
    assert DevMetric("accuracy", rows)(probabilities, rows.labels) == pytest.approx(2 / 3)
