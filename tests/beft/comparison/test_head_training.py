"""The head of a method beside bias terms: where it starts, how long it is trained alone, and the scores from there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from beft.comparison.common import Common
from beft.comparison.measuring import measure, measure_many
from beft.comparison.probe_scores import score_probes
from beft.training.session import Session
from tests.beft.comparison.conftest import opened_at, quiet

FEW = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-2}
"""A training whose loss follows from the rows, which are few: it is contrastive."""


@pytest.mark.parametrize(("base", "head"), [("bert", {}), ("roberta", {"train": "full"})])
def test_the_scores_are_those_of_the_probe(folder: Path, base: str, head: dict[str, str]) -> None:
    """By a seed that is not the session's, too, which draws another layer under RoBERTa's output layer."""
    settings = {"probe": FEW, "train": FEW, "head": head}
    own = opened_at(folder, base, **settings)
    assert own.training(own.settings.probe).contrastive
    results = measure_many(own, [("value", 0), ("all_biases", 0), ("all_biases", 1)], progress=quiet)
    scored = score_probes(own, results, progress=quiet)
    assert [one.probe.run.seed for one in scored] == [0, 1]
    for one in scored:
        expected = opened_at(folder, base, seed=one.probe.run.seed, **settings).probe(progress=quiet).scores()
        for term in expected.inert:
            assert one.scores.of_term(term) == pytest.approx(expected.of_term(term), rel=1e-9)
            assert one.scores.is_inert(term) == expected.is_inert(term)
        found, wanted = dict(one.scores.selection.ranking), dict(expected.selection.ranking)
        assert list(found) == list(wanted)
        assert found == pytest.approx(wanted)


def test_the_head_starts_as_the_training_weighs_the_classes(session: Session) -> None:
    """Which may be another way in probe than in train; of the best constant each label counts once more."""
    common, train = Common(session, (), quiet), session.sample.train
    rows = np.concatenate([np.flatnonzero(train.labels == 0)[:20], np.flatnonzero(train.labels == 1)[:5]])
    vars(common)["sample"] = replace(session.sample, train=train.take(rows))
    training = session.training(session.settings.train)
    for weights, shares in (("none", [21 / 27, 6 / 27]), ("balanced", [0.5, 0.5])):
        start = common.head_start(0, training.model_copy(update={"class_weights": weights}))
        assert torch.softmax(start["classifier.bias"], 0).tolist() == pytest.approx(shares)


@pytest.mark.parametrize(
    ("loss", "head", "epochs"),
    [
        # 8 steps an epoch: contrastive 100, else 400, in 30 epochs at most
        ("auto", "output", {"value": 13, "key": 30}),
        ("cross_entropy", "output", {"value": 30, "key": 30}),
        ("auto", "full", {"value": 13, "key": 30, "head_only": 30}),
    ],
)
def test_a_head_alone_is_trained_as_long_as_its_own_loss_takes(
    folder: Path, loss: str, head: str, epochs: dict[str, int]
) -> None:
    own = opened_at(folder, train={"batch_size": 8, "loss": loss}, head={"pooling": "model", "train": head})
    assert own.facts["rows"]["train"] == 64
    for one in measure_many(own, [(method, 0) for method in epochs], progress=quiet):
        of_method = epochs[one.run.method]
        assert one.training.epochs == len(one.history) == of_method
        assert one.history[-1]["step"] == 8 * of_method
        assert one.training.loss == ("contrastive" if of_method == 13 else "cross_entropy")


def test_a_length_that_a_run_names_is_that_of_a_head_alone(folder: Path) -> None:
    own = opened_at(folder, train={"batch_size": 8})
    named = own.training(own.settings.train).model_copy(update={"epochs": 3})
    found = measure(own, "key", training=named, progress=quiet)
    assert (found.training.epochs, found.training.loss) == (3, "cross_entropy")
