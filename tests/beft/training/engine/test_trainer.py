"""Law 3: many runs in one pass each give what they give alone. Law 4's part of the bank: any mix of rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from beft.bank.bank import Bank
from beft.encoding.tokenization import parts_of_like_length, training_batches
from beft.errors import InputError
from beft.files import read_json
from beft.inference.runs import Run
from beft.models.classifier import Classifier
from beft.sites.batch_axis import measure_row_axes, one_axis
from beft.sites.site import BiasSite, find_sites, site_module
from beft.training.engine.activation_checkpointing import activation_checkpointing
from beft.training.engine.cost import saved_bytes
from beft.training.engine.fit import fit
from tests.conftest import FAMILIES, from_config
from tests.support.killed_training import killed_after
from tests.support.rows import plain_settings, random_rows, tiny_classifier

LONG = ["bert", "mpnet", "opt", "gpt2", "llama"]  # separate, relative positions, decoder, fused, grouped queries
SHORT = ["deberta-v2", "albert", "gptj", "gpt_neox", "phi3", "gemma3_text", "bart", "t5"]


def accuracy(probabilities, labels):
    return float((probabilities.argmax(-1) == labels).mean())


def mixed_runs(classifier, *, add=False, dropout=False):
    """Runs that differ in everything that a run may differ in."""
    known = {site.term for site in find_sites(classifier.model, add=add)}

    def run(name, terms, seed, select="best", head="output", **settings):
        settings = {"epochs": 4, "learning_rate": 1e-2, "batch_size": 8, "dropout": dropout} | settings
        sites = find_sites(classifier.model, terms, add=add) if terms != [] else ()
        return Run(name, sites, classifier.head_parameters(head), seed, plain_settings(**settings), select)

    second = "query" if "query" in known else "output"
    return [
        run("value", ["value"], 0),
        run("value, another seed", ["value"], 1, warmup_fraction=0.2, head_learning_rate=1e-3),
        run("two terms", [second, "value"], 2, epochs=5, batch_size=5, learning_rate=3e-2),
        run("head only", [], 3, epochs=2, schedule="constant"),
        run("all biases", None, 4, select="last", clip_norm=0.05),
        run("full head", ["value"], 5, head="full", adam_epsilon=1e-8),
        run("impatient", ["value"], 6, epochs=40, learning_rate=0.1, patience=1),
    ]


@pytest.mark.parametrize("family", LONG)
def test_runs_of_one_pass_are_the_runs_alone(family):
    classifier = tiny_classifier(family)
    train, dev = random_rows(110), random_rows(40, seed=9)
    runs = mixed_runs(classifier, add=True)
    together = fit(classifier, train, dev, runs, metric=accuracy)
    for run, result in zip(runs, together, strict=True):
        [alone] = fit(classifier, train, dev, [run], metric=accuracy)
        assert result.run is run
        assert result.steps == alone.steps
        assert result.best_epoch == alone.best_epoch
        assert set(result.deltas) == set(alone.deltas)
        assert [sorted(record) for record in result.history] == [sorted(record) for record in alone.history]
        for record, expected in zip(result.history, alone.history, strict=True):
            assert record == pytest.approx(expected, rel=1e-8)
        for site, delta in alone.deltas.items():
            torch.testing.assert_close(result.deltas[site], delta, rtol=0, atol=1e-9)
        for name, value in alone.head.items():
            torch.testing.assert_close(result.head[name], value, rtol=0, atol=1e-9)
    assert together[0].steps == 56
    assert together[6].steps < 40 * 14, "it has stopped early"
    assert max(float(delta.abs().max()) for delta in together[0].deltas.values()) > 1e-2
    different = next(iter(together[0].deltas))
    assert float((together[0].deltas[different] - together[1].deltas[different]).abs().max()) > 1e-3


@pytest.mark.parametrize("family", SHORT)
def test_a_few_steps_of_one_pass_are_those_of_the_runs_alone(family):
    """Shared layers and positions, interleaved and unequal parts, an encoder with a decoder: what differs in kind."""
    classifier = tiny_classifier(family)
    train, dev = random_rows(30, ended=True), random_rows(10, seed=9, ended=True)
    tolerance = 1e-5 if family == "gptj" else 1e-9  # GPT-J casts queries and keys to fp32, Adam amplifies its rounding
    runs = [run for run in mixed_runs(classifier, add=True)[:5] if run.name != "value, another seed"]
    runs = [replace(run, settings=run.settings.model_copy(update={"epochs": 2})) for run in runs]
    for run, result in zip(runs, fit(classifier, train, dev, runs, metric=accuracy), strict=True):
        [alone] = fit(classifier, train, dev, [run], metric=accuracy)
        assert set(result.deltas) == set(alone.deltas)
        for site, delta in alone.deltas.items():
            assert delta.any() or site.term == "key"
            torch.testing.assert_close(result.deltas[site], delta, rtol=0, atol=tolerance)
        for name, value in alone.head.items():
            torch.testing.assert_close(result.head[name], value, rtol=0, atol=tolerance)


def test_in_fp32_the_metrics_of_a_pass_are_those_of_the_runs_alone():
    """Adam amplifies rounding where a gradient is near zero, so in fp32 what is promised is what the runs predict."""
    classifier = tiny_classifier(dtype=torch.float32)
    train, dev = random_rows(110), random_rows(200, seed=9)
    runs = mixed_runs(classifier)
    for run, result in zip(runs, fit(classifier, train, dev, runs, metric=accuracy), strict=True):
        [alone] = fit(classifier, train, dev, [run], metric=accuracy)
        assert result.history[0]["dev_loss"] == pytest.approx(alone.history[0]["dev_loss"], abs=1e-3)
        assert result.history[0]["dev_metric"] == pytest.approx(alone.history[0]["dev_metric"], abs=0.02)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_how_runs_are_grouped_changes_no_result(at_once):
    classifier = tiny_classifier()
    train, dev = random_rows(60), random_rows(20, seed=9)
    runs = mixed_runs(classifier)[:5]
    grouped = fit(classifier, train, dev, runs, metric=accuracy, at_once=at_once)
    for one, other in zip(grouped, fit(classifier, train, dev, runs, metric=accuracy), strict=True):
        for site, delta in one.deltas.items():
            torch.testing.assert_close(delta, other.deltas[site], rtol=0, atol=1e-9)


def test_parts_of_a_batch_add_up_to_its_gradient():
    classifier = tiny_classifier()
    train, dev = random_rows(60), random_rows(20, seed=9)
    runs = mixed_runs(classifier)[:3]
    parts = [replace(run, settings=run.settings.model_copy(update={"micro_batch_size": 3})) for run in runs]
    whole = fit(classifier, train, dev, runs, metric=accuracy)
    for one, other in zip(whole, fit(classifier, train, dev, parts, metric=accuracy), strict=True):
        for site, delta in one.deltas.items():
            torch.testing.assert_close(delta, other.deltas[site], rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["bert", "opt", "gpt2", "llama", "albert", "t5"])
def test_recomputed_activations_change_nothing_but_what_is_kept(family):
    """Also with dropout, whose masks are drawn the same way again; a decoder's cache is not filled twice."""
    classifier = tiny_classifier(family)
    train, dev = random_rows(40, ended=True), random_rows(20, seed=9, ended=True)
    runs = mixed_runs(classifier, add=True, dropout=True)[:3]
    kept = fit(classifier, train, dev, runs, metric=accuracy)
    again = [replace(run, settings=run.settings.model_copy(update={"activation_checkpointing": True})) for run in runs]
    for one, other in zip(kept, fit(classifier, train, dev, again, metric=accuracy), strict=True):
        for site, delta in one.deltas.items():
            torch.testing.assert_close(delta, other.deltas[site], rtol=0, atol=1e-12)
    sizes = []
    for on in (False, True):
        with activation_checkpointing(classifier.model, on=on):
            sizes.append(saved_bytes(classifier, train, 8))
    assert sizes[1] < sizes[0] / 2
    assert not any("forward" in module.__dict__ for module in classifier.model.modules())


def test_an_interrupted_pass_goes_on_in_the_same_groups(tmp_path, monkeypatch):
    """The plan is read again even when there would be room for another one; dropout's masks are the same."""
    train, dev = random_rows(60), random_rows(20, seed=9)
    classifier = tiny_classifier()
    runs = mixed_runs(classifier, dropout=True)[:4]
    expected = fit(classifier, train, dev, runs, metric=accuracy, at_once=2)

    with killed_after(45, monkeypatch):
        fit(classifier, train, dev, runs, metric=accuracy, at_once=2, checkpoints=tmp_path)
    [plan] = tmp_path.glob("plan-*.json")
    assert read_json(plan) == [[0, 1], [2, 3]]
    found = fit(classifier, train, dev, runs, metric=accuracy, checkpoints=tmp_path)
    assert sum(result.steps_here for result in found) < sum(result.steps for result in found) - 45
    for one, other in zip(found, expected, strict=True):
        assert one.history == other.history
        for site, delta in one.deltas.items():
            assert torch.equal(delta, other.deltas[site])


@pytest.mark.parametrize("runs", [2, 4, 12])
def test_little_is_padded_when_runs_are_computed_together(runs):
    """At each step the runs have texts of about the same length; where they do not, the step is computed in parts."""
    lengths = np.clip(np.random.default_rng(0).lognormal(3.2, 0.5, 800), 4, 128).astype(np.int64)
    batches = [training_batches(lengths, 16, seed=seed, epoch=1) for seed in range(runs)]
    assert any(not np.array_equal(batches[0][at], batches[1][at]) for at in range(len(batches[0])))
    padded = parts = 0
    for step in zip(*batches, strict=True):
        of_step = lengths[np.concatenate(step)]
        for part in parts_of_like_length(of_step, min_rows=16):
            padded, parts = padded + len(part) * int(of_step[part].max()), parts + 1
    assert 1 - runs * lengths.sum() / padded < 0.1
    assert parts < 2 * len(batches[0]), "most steps are still computed whole"


def test_sites_that_all_rows_share_are_trained_alone():
    """DeBERTa's key projection also sees one table of positions for all rows: two runs cannot share that pass."""
    model = from_config("deberta-v2", relative_attention=True, pos_att_type=["c2p", "p2c"], share_att_key=True)
    classifier = Classifier(model.double(), None, None, ("a", "b", "c"))
    path = "deberta.encoder.layer.0.attention.self."
    key = BiasSite("key", 0, path + "key_proj", "bias", 0, 32, False)
    value = BiasSite("value", 0, path + "value_proj", "bias", 0, 32, False)
    settings = plain_settings(epochs=2, learning_rate=1e-2, batch_size=8, dropout=False)
    rows = random_rows(40)
    head = classifier.head_parameters()
    runs = [
        Run(f"{seed} {site.term}", (site,), head, seed, settings, "last") for seed in (0, 1) for site in (value, key)
    ]
    said: list[str] = []
    together = fit(classifier, rows, None, runs, metric=accuracy, progress=said.append)
    assert sum("2 runs: 131 trainable" in line for line in said) == 1, "the two of the value projection"
    for run, result in zip(runs, together, strict=True):
        [alone] = fit(classifier, rows, None, [run], metric=accuracy)
        for site, delta in alone.deltas.items():
            torch.testing.assert_close(result.deltas[site], delta, rtol=0, atol=1e-9)


def bank_of(classifier, vectors, batch, *, add=True, requires_grad=False):
    """A bank with random vectors and heads for every site, and the same as one bank a vector."""
    model = classifier.model
    generator = torch.Generator().manual_seed(7)
    shared = ("query", "key") if "deberta" in model.config.model_type else ()  # positions pass by them for all rows
    sites = [site for site in find_sites(model, add=add) if site.term not in shared]
    deltas = {
        site: (torch.randn(vectors, site.width, generator=generator, dtype=torch.float64) * 0.3).requires_grad_(
            requires_grad
        )
        for site in sites
    }
    head = {
        name: torch.randn(vectors, *model.get_parameter(name).shape, generator=generator, dtype=torch.float64)
        for name in classifier.head_parameters("full")
    }
    modules = {site.module: site_module(model, site) for site in sites}
    measured = measure_row_axes(classifier, modules, batch)
    assert measured is not None
    axes = {name: one_axis(uses) for name, uses in measured.items()}
    singles = [
        Bank(model, {s: d[at].detach() for s, d in deltas.items()}, {n: t[at] for n, t in head.items()})
        for at in range(vectors)
    ]
    return Bank(model, deltas, head, axes=axes), singles


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_of_a_mixed_batch_gets_the_logits_that_it_gets_alone(family, tiny_batch):
    classifier = tiny_classifier(family)
    batch = tiny_batch(rows=7)
    many, singles = bank_of(classifier, 4, batch)
    chosen = torch.tensor([2, 0, 2, 3, 0, 2, 3])  # in no order, and one is not used
    with many.choose(chosen):
        mixed = classifier(batch)
    for row, vector in enumerate(chosen.tolist()):
        with singles[vector]:
            alone = classifier({name: tensor[row : row + 1] for name, tensor in batch.items()})
        tolerance = 1e-6 if family == "gptj" else 1e-11  # GPT-J casts queries and keys to fp32
        torch.testing.assert_close(mixed[row : row + 1], alone, rtol=0, atol=tolerance)


def test_a_vector_gets_the_gradient_of_its_own_rows(tiny_batch):
    classifier = tiny_classifier()
    batch = tiny_batch(rows=5)
    many, _ = bank_of(classifier, 3, batch, requires_grad=True)
    with many.choose(torch.tensor([0, 2, 0, 0, 2])):
        classifier(batch)[[0, 2, 3]].square().sum().backward()
    for site, delta in many.deltas.items():
        assert delta.grad is not None
        if site.term != "key":  # whose gradient is rounding
            assert float(delta.grad[0].abs().max()) > 0
        assert float(delta.grad[1:].abs().max()) == 0


def test_a_choice_that_does_not_fit_is_an_error(tiny_batch):
    classifier = tiny_classifier()
    batch = tiny_batch(rows=5)
    many, _ = bank_of(classifier, 3, batch)
    with pytest.raises(InputError, match="3 vectors"):
        many.choose(torch.tensor([0, 3]))
    with many, pytest.raises(InputError, match="5 rows, but a vector was chosen for none"):
        classifier(batch)
    with many.choose(torch.tensor([0, 1])), pytest.raises(InputError, match="5 rows, but a vector was chosen for 2"):
        classifier(batch)
