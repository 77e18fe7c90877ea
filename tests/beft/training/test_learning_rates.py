"""Learning rates that are tried in one pass: each as if alone, the best on dev, and no rate without dev."""

from dataclasses import replace

import pytest
import torch

from beft.comparison.baselines.head_only import HeadSearch
from beft.comparison.baselines.lora import Lora
from beft.errors import InputError, SettingsError
from beft.inference.runs import Run, RunResult
from beft.settings import Settings
from beft.training.engine.fit import fit
from beft.training.learning_rates import at_each_rate, best_learning_rate, rate_grid
from beft.training.probe import run_probe
from beft.training.sample import Sample, settings_of
from beft.training.target import train_terms, train_weights
from beft.training_settings import ProbeSettings, TrainingSettings
from tests.support.rows import random_rows, tiny_classifier

RATES = (3e-4, 3e-2, 0.5)
ONE_RATE = TrainingSettings(epochs=2, batch_size=8, warmup_fraction=0.0, head_learning_rate=None)


def quiet(_line):
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def sample():
    return Sample(random_rows(56), random_rows(40, seed=5), "accuracy")


def at(rate):
    return ONE_RATE.model_copy(update={"learning_rate": rate})


def with_rates(*rates):
    return ONE_RATE.model_copy(update={"learning_rates": rates})


def test_the_best_rate_is_the_one_that_trainings_alone_find(sample):
    """In fp64 without dropout the chosen run is, number for number, the best of the single trainings."""
    classifier = tiny_classifier()
    lines: list[str] = []
    found = train_terms(classifier, sample, Settings(), with_rates(*RATES), ["value"], progress=lines.append)
    alone = [train_terms(classifier, sample, Settings(), at(rate), ["value"], progress=quiet) for rate in RATES]
    records = [one.history[one.best_epoch - 1] for one in alone]
    best = max(range(3), key=lambda one: (records[one]["dev_metric"], -records[one]["dev_loss"]))
    assert found.run.name == "value"
    assert found.run.settings.learning_rate == RATES[best]
    assert found.run.settings.learning_rates == ()
    for site, delta in alone[best].deltas.items():
        torch.testing.assert_close(found.deltas[site], delta, rtol=0, atol=1e-9)
    for tried, rate, record, result in zip(found.trials, RATES, records, alone, strict=True):
        assert (tried["learning_rate"], tried["best_epoch"]) == (rate, result.best_epoch)
        assert tried["dev_metric"] == pytest.approx(record["dev_metric"])
        assert tried["dev_loss"] == pytest.approx(record["dev_loss"], rel=1e-9)
    assert len({one["dev_loss"] for one in found.trials}) == 3, "rates that give the same would choose nothing"
    assert "3 runs in 1 pass" in lines
    assert any(f"learning rate {RATES[best]:g} is the best on dev" in line for line in lines)


def test_the_probe_and_weights_are_searched_alike(sample):
    """All biases choose among their rates too; weights are tried at as many, spread about their own as the biases'."""
    classifier = tiny_classifier()
    probe = run_probe(classifier, sample, Settings(), with_rates(1e-3, 1e-2), progress=quiet)
    assert [one["learning_rate"] for one in probe.result.trials] == [1e-3, 1e-2]
    training = with_rates(5e-3, 2e-2).model_copy(update={"learning_rate": 1e-3})
    method = Lora(rank=2)
    found = train_weights(classifier, sample, Settings(), training, method, progress=quiet)
    assert [one["learning_rate"] for one in found.trials] == [5e-3, 2e-2]
    alone = [train_weights(classifier, sample, Settings(), at(rate), method, progress=quiet) for rate in (5e-3, 2e-2)]
    records = [one.history[one.best_epoch - 1] for one in alone]
    best = max(range(2), key=lambda one: (records[one]["dev_metric"], -records[one]["dev_loss"]))
    for name, value in alone[best].weights.values.items():
        torch.testing.assert_close(found.weights.values[name], value, rtol=0, atol=1e-12)


def test_a_tie_is_decided_by_the_dev_loss_then_by_the_order():
    run = Run("value", (), ("head",), 0, with_rates(*RATES))
    runs = at_each_rate(run)
    assert [one.name for one in runs] == ["value@0.0003", "value@0.03", "value@0.5"]

    def chosen(*measured):
        results = [
            RunResult(one, {}, {}, [{"epoch": 1, "dev_metric": metric, "dev_loss": loss}], 1, 5, 5, 2.0, 0)
            for one, (metric, loss) in zip(runs, measured, strict=True)
        ]
        return best_learning_rate(run, results, quiet)

    assert chosen((0.5, 0.1), (0.7, 0.9), (0.6, 0.1)).run.settings.learning_rate == 3e-2
    assert chosen((0.7, 0.3), (0.7, 0.2), (0.7, 0.4)).run.settings.learning_rate == 3e-2
    assert chosen((0.7, 0.3), (0.6, 0.2), (0.7, 0.3)).run.settings.learning_rate == 3e-4
    assert chosen((0.7, 0.3), (0.6, 0.2), (0.7, 0.3)).seconds == 6.0, "a search costs what all of it takes"


def test_one_rate_in_the_list_is_that_rate(sample):
    classifier = tiny_classifier()
    run = Run("head", (), classifier.head_parameters(), 0, with_rates(2e-2))
    [only] = at_each_rate(run)
    assert (only.name, only.settings.learning_rate) == ("head", 2e-2)
    results = fit(classifier, sample.train, sample.dev, [only], metric=lambda *_: 0.0, progress=quiet)
    assert best_learning_rate(run, results, quiet).trials == ()


def test_a_grid_is_a_decade_about_the_usual_rate():
    assert rate_grid(1e-2) == (3e-3, 1e-2, 3e-2)
    assert rate_grid(5e-5) == (1.5e-5, 5e-5, 1.5e-4)
    assert rate_grid(0.5) == (0.15, 0.5, 1.0) and rate_grid(1.0) == (0.3, 1.0)


def test_rates_need_dev():
    with pytest.raises(SettingsError, match="chosen on dev, which protocol: paper has not"):
        Settings.from_mapping({"protocol": "paper", "train": {"learning_rates": [1e-3, 1e-2]}})
    with pytest.raises(InputError, match="no dev split to choose one with"):
        at_each_rate(replace(Run("value", (), ("head",), 0, with_rates(*RATES)), select="last"))
    with pytest.raises(SettingsError, match="greater than 0"):
        Settings.from_mapping({"train": {"learning_rates": [0.0]}})


def test_a_dataset_s_own_rate_is_not_searched_and_head_only_tries_every_rate():
    settings = Settings.from_mapping({"datasets": {"imdb": {"learning_rate": 0.5}}})
    section = ProbeSettings(**with_rates(*RATES).model_dump())
    found = settings_of(section, settings, "imdb", rows=56)
    assert found.model_dump() == ONE_RATE.model_copy(update={"learning_rate": 0.5}).model_dump()
    assert {7e-4, 0.07} < set(HeadSearch.from_training(with_rates(7e-4, 0.07)).learning_rates)
