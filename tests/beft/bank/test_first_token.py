"""Leaving out the tokens that no head reads changes neither logits nor gradients, and is done nowhere else."""

from typing import get_args

import numpy as np
import pytest
import torch

from beft.bank.first_token import first_token_alone, reads_first_token_alone
from beft.settings import Pooling
from beft.sites.site import find_sites, site_module
from beft.training.engine.fit import fit
from tests.beft.training.engine.test_trainer import accuracy, mixed_runs
from tests.support.rows import random_rows, tiny_classifier

READS = [("bert", "model"), ("roberta", "model"), ("mpnet", "model"), ("distilbert", "model"), ("bert", "cls")]
READS += [("electra", "model"), ("deberta-v2", "model")]
READS_NOT = [("bert", "mean"), ("distilbert", "mean"), ("opt", "model"), ("gpt2", "model"), ("llama", "model")]
READS_NOT += [("bert", "last_token"), ("bert", "max"), ("bert", "weighted_mean"), ("bert", "mean_sqrt_len")]
READS_NOT += [("albert", "model"), ("gpt_neox", "model"), ("bart", "model"), ("t5", "model"), ("t5", "mean")]


def batch_of(rows=5):
    return random_rows(rows, ended=True).encoded.batch(np.arange(rows))


@pytest.mark.parametrize(("family", "pooling"), READS)
def test_logits_and_bias_gradients_stay_the_same(family, pooling):
    classifier = tiny_classifier(family, pooling=pooling)
    batch = batch_of()
    assert reads_first_token_alone(classifier, batch)
    biases = [site_module(classifier.model, site).bias.requires_grad_() for site in find_sites(classifier.model)]

    def logits_and_gradients():
        logits = classifier(batch)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), biases, allow_unused=True)

    expected, gradients = logits_and_gradients()
    seen = []
    last = find_sites(classifier.model, ["output"])[-1]
    handle = site_module(classifier.model, last).register_forward_hook(lambda _, inputs, out: seen.append(out.shape))
    with first_token_alone(classifier.model):
        found, of_first = logits_and_gradients()
    handle.remove()
    assert seen[0][:2] == (5, 1), "the last layer's output is computed for one token a row"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for gradient, other in zip(gradients, of_first, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-9, atol=1e-12)
    assert torch.equal(classifier(batch), expected), "outside the context all is as it was"


@pytest.mark.parametrize(("family", "pooling"), READS_NOT)
def test_heads_that_read_other_tokens_are_found_out(family, pooling):
    classifier = tiny_classifier(family, pooling=pooling)
    before = classifier(batch_of())
    assert not reads_first_token_alone(classifier, batch_of())
    assert torch.equal(classifier(batch_of()), before)


@pytest.mark.parametrize(("family", "pooling"), [("bert", "mean"), ("bert", "model")])
def test_a_head_of_zeros_hides_nothing(family, pooling):
    classifier = tiny_classifier(family, pooling=pooling)
    classifier.output_layer.weight.data.zero_()
    assert reads_first_token_alone(classifier, batch_of()) == (pooling == "model")


@pytest.mark.parametrize("pooling", [one for one in get_args(Pooling) if one != "mask"])
def test_every_pooling_is_trained(pooling):
    """But ``mask``, which needs a head of the base's files: tests/beft/models/test_mask_head.py."""
    classifier = tiny_classifier("bert", pooling=pooling)
    [found] = fit(classifier, random_rows(20), random_rows(10, seed=9), mixed_runs(classifier)[:1], metric=accuracy)
    assert found.steps


def test_a_training_ends_where_it_would_end_with_all_tokens(monkeypatch):
    """Seven runs that differ in everything, in one pass, with and without what no head reads."""
    train, dev = random_rows(60), random_rows(20, seed=9)

    def trained():
        classifier = tiny_classifier("bert")
        return fit(classifier, train, dev, mixed_runs(classifier), metric=accuracy)

    found = trained()
    monkeypatch.setattr("beft.training.engine.fit.reads_first_token_alone", lambda classifier, batch: False)
    for result, expected in zip(found, trained(), strict=True):
        for site, delta in expected.deltas.items():
            torch.testing.assert_close(result.deltas[site], delta, rtol=0, atol=1e-9)
