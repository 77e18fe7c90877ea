"""The time that is told before a training against the one that it takes, by a clock that counts what is computed."""

import re
import time
from collections.abc import Callable

import pytest
import torch

from beft.inference.runs import Run
from beft.sites.site import find_sites
from beft.training.engine import timing
from beft.training.engine.fit import fit, training_time
from tests.support.rows import plain_settings, random_rows, tiny_classifier
from tests.support.shapes import task

OVERHEAD, TOKEN = 0.05, 0.001
"""Seconds of every forward pass, and of each of its tokens, padding counted."""


def no_metric(predictions, labels):
    return 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[torch.nn.Module], Callable[[], float]]:
    """A clock that stands still but for the forward passes of a model: ``clock(model)()`` is its time."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def watch(model: torch.nn.Module) -> Callable[[], float]:
        def count(module: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
            now[0] += OVERHEAD + TOKEN * kwargs["input_ids"].numel()

        model.register_forward_pre_hook(count, with_kwargs=True)
        return lambda: now[0]

    return watch


def runs_of(classifier, count, *, epochs=3, **settings):
    sites, head = find_sites(classifier.model, ["value"], add=True), classifier.head_parameters()
    values = plain_settings(epochs=epochs, learning_rate=1e-3, batch_size=8, dropout=False, **settings)
    return [Run(f"run {seed}", sites, head, seed, values) for seed in range(count)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("longest", [5, 40])
def test_a_training_takes_what_was_told(clock, count, longest):
    classifier = tiny_classifier(dtype=torch.float32)
    train, dev = random_rows(300, longest=longest), random_rows(100, seed=5, longest=longest)
    now, runs = clock(classifier.model), runs_of(classifier, count)
    told = training_time(classifier, train, dev, runs)
    expected = sum(told.seconds(train, dev, run.settings.epochs) for run in runs)
    began = now()
    fit(classifier, train, dev, runs, metric=no_metric, at_once=count, progress=lambda line: None)
    assert expected == pytest.approx(now() - began, rel=0.1)


@pytest.mark.parametrize("name", ["multiple_choice", "candidates", "generated"])
def test_rows_of_several_sequences_and_generated_answers(clock, name):
    made = task(name, dtype=torch.float32, rows=80)
    now, runs = clock(made.classifier.model), runs_of(made.classifier, 1)
    told = training_time(made.classifier, made.train, made.dev, runs)
    began = now()
    fit(made.classifier, made.train, made.dev, runs, metric=no_metric, at_once=1, progress=lambda line: None)
    assert told.seconds(made.train, made.dev, 3) == pytest.approx(now() - began, rel=0.25)


def test_the_first_line_says_it(clock):
    classifier = tiny_classifier(dtype=torch.float32)
    train, dev = random_rows(300, longest=30), random_rows(60, seed=5, longest=30)
    now, said = clock(classifier.model), []
    fit(
        classifier,
        train,
        dev,
        runs_of(classifier, 2),
        metric=no_metric,
        progress=lambda line: said.append((now(), line)),
    )
    [(began, line)] = [(at, line) for at, line in said if "about" in line and "activations" in line]
    told = re.match(r"300 rows, 2 runs: about (\d+) s, and \d+ MB for the activations", line)
    assert told is not None, line
    assert int(told[1]) == pytest.approx(now() - began, rel=0.15)
    assert began < 0.4 * now(), "measuring takes a part of what a training of these few steps takes"


def test_few_steps_are_measured_of_a_slow_base(clock, monkeypatch):
    classifier = tiny_classifier(dtype=torch.float32)
    train = random_rows(400)
    steps: list[int] = []
    plain = timing.TrainingPass._step
    monkeypatch.setattr(timing.TrainingPass, "_step", lambda self, *args: (steps.append(1), plain(self, *args))[1])
    clock(classifier.model)
    training_time(classifier, train, None, runs_of(classifier, 1), seconds=0.01)
    assert len(steps) == 2


def test_nothing_is_changed():
    """Neither the base, nor the random numbers that are drawn afterwards, nor the runs."""
    classifier, rows = tiny_classifier(), random_rows(40)
    before = {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    told = training_time(classifier, rows, rows, runs_of(classifier, 1, warmup_fraction=0.1))
    assert torch.equal(torch.rand(4), expected)
    assert told.train > 0 and told.dev > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.model.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.model.modules())
    assert told.seconds(rows, rows, 6) == pytest.approx(3 * told.seconds(rows, rows, 2))
    assert told.seconds(rows, None, 1) == pytest.approx(told.train * int(rows.encoded.lengths.sum()))


def test_what_does_not_fit_has_no_time(monkeypatch):
    """The passes themselves are halved then, or fail with their reason."""
    classifier, rows = tiny_classifier(), random_rows(20)
    said: list[str] = []

    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("beft.training.engine.fit.time_pass", exhausted)
    [result] = fit(classifier, rows, rows, runs_of(classifier, 1), metric=no_metric, progress=said.append)
    assert result.steps == 9
    assert any(
        re.fullmatch(r"20 rows, 1 run: \d+ MB for the activations of a batch of the longest rows", line)
        for line in said
    )
