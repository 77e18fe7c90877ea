"""Values of any unit are learnt alike: another unit changes the output layer by its factor, and nothing else."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from beft.comparison.baselines.lora import Lora
from beft.inference.runs import LabelledRows, Run, RunResult, finished
from beft.models.classifier import Classifier
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.regression import Regression
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from beft.training.engine.weights import fit_weights
from tests.support.rows import plain_settings
from tests.support.shapes import task
from tests.support.weights import quiet


def correlation(values: np.ndarray, truth: np.ndarray) -> float:
    return float(np.corrcoef(values, truth)[0, 1])


def in_unit(rows: LabelledRows, factor: float) -> LabelledRows:
    """The rows with values whose standard deviation is the factor, or nearly so."""
    return replace(rows, labels=rows.labels / task("regression", rows=40).train.labels.std() * factor)


def trained(loss: str, factor: float, *, classifier: Classifier | None = None, method: str = "biases") -> RunResult:
    toy = task("regression", rows=40)
    if classifier is None:
        classifier = toy.classifier
        classifier.newly_initialized = classifier.head_parameters()
    train, dev = in_unit(toy.train, factor), in_unit(toy.dev, factor)
    settings = plain_settings(epochs=3, learning_rate=1e-2, batch_size=8, dropout=False, loss=loss)
    sites = find_sites(classifier.model, ["value"]) if method == "biases" else ()
    run = Run("run", sites, classifier.head_parameters(), 3, settings, "best" if loss == "cross_entropy" else "last")
    if method == "biases":
        [result] = fit(classifier, train, dev, [run], metric=correlation, progress=quiet)
    else:
        result = fit_weights(classifier, train, dev, run, Lora(2, 4), metric=correlation, progress=quiet)
    assert finished(result).run == run
    return finished(result)


def assert_same_but_for_the_unit(one: RunResult, other: RunResult, factor: float) -> None:
    """To the bit: a power of 4 changes no mantissa."""
    assert {site: delta.tolist() for site, delta in one.deltas.items()} == {
        site: delta.tolist() for site, delta in other.deltas.items()
    }
    assert {name: (value * factor).tolist() for name, value in one.head.items()} == {
        name: value.tolist() for name, value in other.head.items()
    }
    if one.weights is not None and other.weights is not None:
        assert {name: value.tolist() for name, value in one.weights.values.items()} == {
            name: value.tolist() for name, value in other.weights.values.items()
        }
    for record, same in zip(one.history, other.history, strict=True):
        assert record.keys() == same.keys()
        if "dev_loss" in record:
            assert record["dev_loss"] * factor**2 == same["dev_loss"]
            assert record["dev_metric"] == pytest.approx(same["dev_metric"], abs=1e-12)
        if not one.run.settings.contrastive:
            assert record["train_loss"] * factor**2 == same["train_loss"]


@pytest.mark.parametrize("factor", [64.0, 0.0625])
@pytest.mark.parametrize(
    ("loss", "method"), [("cross_entropy", "biases"), ("both", "biases"), ("cross_entropy", "lora")]
)
def test_another_unit_changes_the_output_layer_alone(loss: str, method: str, factor: float) -> None:
    assert_same_but_for_the_unit(trained(loss, 1.0, method=method), trained(loss, factor, method=method), factor)


def test_a_head_of_the_base_starts_as_it_is() -> None:
    """A base that was trained on these values goes on from its own outputs."""
    own, larger = task("regression", rows=40).classifier, copy.deepcopy(task("regression", rows=40).classifier)
    with torch.no_grad():
        for parameter in larger.output_layer.parameters():
            parameter.mul_(16)
    one = trained("cross_entropy", 1.0, classifier=own)
    assert_same_but_for_the_unit(one, trained("cross_entropy", 16.0, classifier=larger), 16)


@pytest.mark.parametrize(("spread", "scale"), [(0.6, 1), (1.5, 1), (1.9, 1), (2.1, 4), (29.0, 16), (0.3, 0.25), (0, 1)])
def test_the_scale_is_the_nearest_power_of_four(spread: float, scale: float) -> None:
    assert Regression().target_scale(3 + spread * np.array([1.0, -1.0] * 10)) == scale
    assert MultipleChoice().target_scale(np.array([0, 1, 2])) == 1


def test_values_of_a_large_unit_are_learnt() -> None:
    """120 steps of a rate of 0.01 alone do not even reach the mean of the values."""
    toy = task("regression", rows=40)
    classifier = toy.classifier
    classifier.newly_initialized = classifier.head_parameters()
    train = in_unit(toy.train, 100.0)
    settings = plain_settings(epochs=40, learning_rate=1e-2, batch_size=16, dropout=False)
    run = Run("run", find_sites(classifier.model, ["value"]), classifier.head_parameters(), 3, settings, "last")
    [result] = fit(classifier, train, None, [run], metric=correlation, progress=quiet)
    assert finished(result).history[-1]["train_loss"] < 0.9 * train.labels.var()
