"""``train.method: auto`` on a base that knows the words of the labels: a mask token is compared, and may win."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from beft.adapters.adapter import Adapter
from beft.comparison.evaluation import evaluate_adapters
from beft.comparison.versions import Version, compare_versions
from beft.datasets.dataset import Dataset
from beft.evaluation.promotion.rules import PromotionRules
from beft.inference.predictor import Predictor
from beft.merging.choice import choose_merges
from beft.merging.matrix import NONE, merge_matrix
from beft.settings import MergeSettings, Settings
from beft.training.opening import open_session
from tests.beft.models.test_mask_head import tokenizer_with_mask
from tests.conftest import build_tiny

LABELS = ("good", "dull")
LETTERS = "bcdefghijklmnopqrstuvwxyz"


def save_base_that_repeats(folder):
    """A masked language model that predicts at a mask token the words that the text holds."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(build_tiny("bert", hidden_size=128).config)
    width = model.config.hidden_size
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
        model.bert.embeddings.word_embeddings.weight.normal_()
        first = model.bert.encoder.layer[0].attention
        first.self.value.weight.copy_(torch.eye(width))  # every token attends to all alike, and sees their mean
        for layer in model.bert.encoder.layer:
            layer.attention.self.value.bias.normal_(std=0.01)
            layer.attention.output.dense.weight.normal_(std=0.001)
        first.output.dense.weight.copy_(10 * torch.eye(width))
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(width))
    model.save_pretrained(folder)
    tokenizer_with_mask().save_pretrained(folder)
    return folder


def texts_with_a_word(rows, seed=0):
    chooser = random.Random(seed)
    texts = []
    for number in range(rows):
        words = [*chooser.choices(LETTERS, k=16), LABELS[number % 2]]
        chooser.shuffle(words)
        texts.append(" ".join(words))
    return texts, [LABELS[number % 2] for number in range(rows)]


def opened(base, *, size=12, name="data", seed=0, **train):
    texts, labels = texts_with_a_word(260, seed)
    settings = {
        "base": {"source": str(base), "threads": 1, "precision": "fp32", "device": "cpu"},
        "datasets": {name: {"max_length": 32}},
        "train": {"method": "auto", "epochs": 2, **train},
        "evaluate": {"resamples": 200},
    }
    data = Dataset.from_rows(texts, labels, test_rows=100, gate_rows=40, name=name, size=size)
    return open_session(Settings.from_mapping(settings), data)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    session = opened(save_base_that_repeats(tmp_path_factory.mktemp("base")))
    return session, session.train(["value"])


def test_a_mask_token_wins_where_the_base_knows_the_words(searched):
    session, trained = searched
    names = [one.candidate.name for one in trained.choice.compared]
    assert sum("mask token" in name for name in names) == 2
    chosen = trained.choice.chosen.candidate
    assert chosen.pooling == "mask" and trained.adapter.pooling == "mask"
    assert session.classifier.pooling == "model"
    assert trained.adapter.provenance["chosen"]["name"] == chosen.name


def test_where_the_minutes_are_too_few_for_a_mask_token_the_other_ways_are_compared(searched):
    base = searched[0].classifier.reference.folder
    choice = opened(base, search_minutes=1e-6).train(["value"]).choice
    assert {one.candidate.pooling for one in choice.compared} == {""}


def test_under_a_mask_token_the_loss_that_is_its_default_is_compared_first(searched):
    session = opened(searched[0].classifier.reference.folder, search_minutes=1e-6).with_pooling("mask")
    assert session.training(session.settings.train).loss == "cross_entropy"
    choice = session.train(["value"]).choice
    assert [one.candidate.training.loss for one in choice.compared[1:]] == ["cross_entropy"]


def test_such_an_adapter_is_evaluated_as_it_predicts(searched, tmp_path):
    """Against a predictor, which opens the base for the adapter: evaluation, and its row of the merge matrix."""
    session, trained = searched
    trained.adapter.save(tmp_path / "adapter")
    found = evaluate_adapters(session, {"value": trained.adapter}, target="value", splits=("test", "gate"))
    test = session.data.rows("test")
    base = session.classifier.reference.folder
    alone = Predictor(tmp_path / "adapter", base=base).predict(test.texts)
    probabilities = np.array([[row["probabilities"][label] for label in session.classifier.labels] for row in alone])
    np.testing.assert_allclose(found.predictions["value"]["test"], probabilities, atol=1e-6)
    accuracy = float((probabilities.argmax(1) == np.array(test.labels)).mean())
    scores = found.evaluation.splits["test"].scores
    assert scores["value"]["accuracy"].value == pytest.approx(accuracy)
    assert accuracy > scores["logistic_regression"]["accuracy"].value
    np.testing.assert_allclose(session.predict(trained.adapter, session.rows("test")), probabilities, atol=1e-6)

    version = Version("challenger", Adapter.load(tmp_path / "adapter"), 1000, frozenset())
    compared = compare_versions(session, [version], PromotionRules())
    gate = found.evaluation.splits["gate"].scores["value"]["accuracy"].value
    assert compared.sides["challenger"].score == pytest.approx(gate)


def test_such_an_adapter_is_merged_with_one_that_pools(searched):
    """Each is measured under the head, and at the token, that it was trained with."""
    session, trained = searched
    other = opened(session.classifier.reference.folder, name="other", seed=1, method="fixed")
    adapters = {"data": trained.adapter, "other": other.train(["value"]).adapter}
    sessions = {"data": session, "other": other}
    choices = choose_merges(MergeSettings(), adapters, sessions.__getitem__)
    merged = {method: choice.merged for method, choice in choices.items()}
    known = {name: {name: of.predict(adapters[name], of.rows("test"))} for name, of in sessions.items()}
    matrix = merge_matrix(adapters, merged, sessions.__getitem__, known)
    accuracy = {name: {row: score["accuracy"].value for row, score in of.scores.items()} for name, of in matrix.items()}
    test = session.data.rows("test")
    untouched = {site: torch.zeros_like(delta) for site, delta in trained.adapter.deltas.items()}
    own = session.with_pooling("mask")
    predicted = own.predict(trained.adapter.with_deltas(untouched), own.rows("test"))
    assert accuracy["data"][NONE] == pytest.approx((predicted.argmax(1) == np.array(test.labels)).mean())
    assert accuracy["data"]["data"] > 0.8
