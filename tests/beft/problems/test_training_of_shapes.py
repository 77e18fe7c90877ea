"""Every shape: trained as a plain loop trains it, alone or among other runs, killed or not; Fisher information."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from beft.bank.bank import Bank
from beft.encoding.tokenization import sorted_batches, training_batches
from beft.importance.methods.fisher import fisher_information
from beft.inference.predictions import predict_rows
from beft.inference.runs import Run
from beft.sites.site import find_sites, site_module
from beft.training.engine.fit import fit
from tests.support.killed_training import killed_after
from tests.support.rows import plain_settings
from tests.support.shapes import TASKS, task


@pytest.fixture(scope="module", params=TASKS)
def toy(request):
    return task(request.param)


def no_metric(_predictions, _labels):
    return 0.0


def run_of(toy, terms, *, seed=3, select="last", name="run", **settings):
    settings = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 8, "dropout": False} | settings
    sites = find_sites(toy.classifier.model, terms)
    return Run(name, sites, toy.classifier.head_parameters(), seed, plain_settings(**settings), select)


def plain_loop(toy, run):
    """Train the model's own biases with torch.optim.AdamW, one example at a time."""
    model = copy.deepcopy(toy.classifier.model)
    masks, trained = [], []
    for site in run.sites:
        parameter = site_module(model, site).bias
        masks.append(torch.zeros_like(parameter))
        masks[-1][site.start : site.stop] = 1
        trained.append(parameter)
    for name in run.head:
        trained.append(model.get_parameter(name))
        masks.append(torch.ones_like(trained[-1]))
    for parameter in trained:
        parameter.requires_grad_(True)
    settings, rows = run.settings, toy.train
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, eps=settings.adam_epsilon, weight_decay=0.0)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for epoch in range(1, settings.epochs + 1):
        for batch in training_batches(rows.lengths, settings.batch_size, seed=run.seed, epoch=epoch):
            optimizer.zero_grad()
            losses = torch.stack([toy.plain_loss(model, rows, int(example)) for example in batch])
            (losses.sum() / sum(toy.units(rows, int(example)) for example in batch)).backward()
            for parameter, mask in zip(trained, masks, strict=True):
                parameter.grad *= mask
            torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
            optimizer.step()
            schedule.step()
    return model


def test_trains_what_a_plain_loop_trains(toy):
    run = run_of(toy, ["value"])
    [result] = fit(toy.classifier, toy.train, None, [run], metric=no_metric)
    expected, start = plain_loop(toy, run), toy.classifier.model
    assert result.steps == 12
    assert max(float(delta.abs().max()) for delta in result.deltas.values()) > 1e-2
    for site, delta in result.deltas.items():
        moved = (site_module(expected, site).bias - site_module(start, site).bias)[site.start : site.stop]
        torch.testing.assert_close(delta, moved.detach(), rtol=0, atol=1e-9)
    for name, value in result.head.items():
        torch.testing.assert_close(value, expected.get_parameter(name).detach(), rtol=0, atol=1e-9)


def test_values_of_a_large_unit_are_trained_as_a_plain_loop_trains_them_divided():
    """Their deviation is 18: they are divided by 16, and the output layer is multiplied by it at last."""
    toy = task("regression")
    toy.classifier.newly_initialized = toy.classifier.head_parameters()  # so it starts at outputs of about 1
    run = run_of(toy, ["value"])
    [result] = fit(toy.classifier, replace(toy.train, labels=16 * toy.train.labels), None, [run], metric=no_metric)
    expected, start = plain_loop(toy, run), toy.classifier.model
    for site, delta in result.deltas.items():
        moved = site_module(expected, site).bias - site_module(start, site).bias
        torch.testing.assert_close(delta, moved.detach(), rtol=0, atol=1e-9)
    for name, value in result.head.items():
        torch.testing.assert_close(value, 16 * expected.get_parameter(name).detach(), rtol=0, atol=1e-8)


def test_learns_and_measures_on_dev(toy):
    run = run_of(toy, None, select="best", epochs=8, learning_rate=3e-2)
    [result] = fit(toy.classifier, toy.train, toy.dev, [run], metric=no_metric)
    assert result.history[-1]["train_loss"] < 0.9 * result.history[0]["train_loss"]
    best = copy.deepcopy(toy.classifier.model)
    for site, delta in result.deltas.items():
        site_module(best, site).bias[site.start : site.stop] += delta
    for name, value in result.head.items():
        best.get_parameter(name).copy_(value)
    with torch.no_grad():
        losses = [float(toy.plain_loss(best, toy.dev, example)) for example in range(len(toy.dev))]
    assert result.history[result.best_epoch - 1]["dev_loss"] == pytest.approx(
        sum(losses) / sum(toy.units(toy.dev, example) for example in range(len(toy.dev))), abs=1e-9
    )


def test_runs_of_one_pass_are_the_runs_alone(toy):
    """Law 3: other seeds, terms, lengths, rates and batch sizes, 50 steps or more."""
    seen = []

    def metric(predictions, _labels):
        seen.append(predictions)
        return float(len(predictions))

    runs = [
        run_of(toy, ["value"], name="value", seed=0, epochs=13, select="best"),
        run_of(toy, ["query", "value"], name="two terms", seed=1, epochs=3, batch_size=5, learning_rate=3e-2),
        run_of(toy, None, name="all biases", seed=2, epochs=2, clip_norm=0.05, warmup_fraction=0.2),
    ]
    together = fit(toy.classifier, toy.train, toy.dev, runs, metric=metric)
    for run, result in zip(runs, together, strict=True):
        [alone] = fit(toy.classifier, toy.train, toy.dev, [run], metric=metric)
        for record, expected in zip(result.history, alone.history, strict=True):
            assert record["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-8)
            assert record["dev_loss"] == pytest.approx(expected["dev_loss"], rel=1e-8)
        for site, delta in alone.deltas.items():
            torch.testing.assert_close(result.deltas[site], delta, rtol=0, atol=1e-9)
        for name, value in alone.head.items():
            torch.testing.assert_close(result.head[name], value, rtol=0, atol=1e-9)
    assert together[0].steps == 52
    if toy.classifier.problem_type.generates:  # epoch by epoch in the shared pass, run by run alone
        epochs = 13 + 3 + 2
        assert sorted(seen[:epochs]) == sorted(seen[epochs:])
        assert len({tuple(texts) for texts in seen}) > 5, "they must have something to differ in"


def test_an_interrupted_run_goes_on(toy, tmp_path, monkeypatch):
    run = run_of(toy, ["value"], dropout=True)
    [expected] = fit(toy.classifier, toy.train, None, [run], metric=no_metric)

    with killed_after(6, monkeypatch):
        fit(toy.classifier, toy.train, None, [run], metric=no_metric, checkpoints=tmp_path)
    [found] = fit(toy.classifier, toy.train, None, [run], metric=no_metric, checkpoints=tmp_path)
    assert found.steps_here == found.steps - 6
    assert found.history == expected.history
    for site, delta in found.deltas.items():
        assert torch.equal(delta, expected.deltas[site])


def test_fisher_information_is_that_of_single_examples(toy):
    """Also where a site's module is used without a batch axis, and example by example."""
    classifier, rows = toy.classifier, toy.train
    sites = find_sites(classifier.model, ["value"])
    batches = [
        (rows.batch(batch), rows.targets(batch), rows.sizes_of(batch)) for batch in sorted_batches(rows.lengths, 5)
    ]
    found = fisher_information(classifier, batches, sites)
    alone = [(rows.batch(np.array([at])), rows.targets([at]), rows.sizes_of(np.array([at]))) for at in range(len(rows))]
    one_by_one = fisher_information(classifier, alone, sites)
    deltas = {site: torch.zeros(site.width, dtype=torch.float64, requires_grad=True) for site in sites}
    sums = {site: torch.zeros(site.width, dtype=torch.float64) for site in sites}
    with Bank(classifier.model, deltas):
        for example in range(len(rows)):
            loss = toy.plain_loss(classifier.model, rows, example)
            for site, gradient in zip(sites, torch.autograd.grad(loss, list(deltas.values())), strict=True):
                sums[site] += gradient.square()
    for site in sites:
        torch.testing.assert_close(found[site], sums[site] / len(rows), rtol=1e-9, atol=1e-18)
        torch.testing.assert_close(one_by_one[site], sums[site] / len(rows), rtol=1e-9, atol=1e-18)


def test_predictions_do_not_depend_on_the_batch(toy):
    many = predict_rows(toy.classifier, toy.dev)
    one = predict_rows(toy.classifier, toy.dev, batch_tokens=1)
    assert len(many) == len(toy.dev)
    if toy.dev.words is not None:  # spans, each with a score
        assert [[span[:3] for span in row] for row in many] == [[span[:3] for span in row] for row in one]
        scores = [np.array([span.score for row in found for span in row]) for found in (many, one)]
        np.testing.assert_allclose(*scores, atol=1e-12)
    else:
        assert many == one if isinstance(many, list) else np.allclose(many, one, atol=1e-12)
