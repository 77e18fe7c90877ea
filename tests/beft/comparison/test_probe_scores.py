"""Which probe's scores stand beside a run."""

from dataclasses import replace
from typing import Any

from beft.comparison.probe_scores import ScoredProbe, scores_for
from beft.comparison.result import MethodResult, MethodRun
from beft.importance.probe_result import Scores
from beft.importance.selection import Selection
from beft.training_settings import TrainingSettings


def result(method: str, seed: int, learning_rate: float | None, epochs: int = 3) -> MethodResult:
    """A run that names its training, as those do that compare lengths or rates."""
    training = None if learning_rate is None else TrainingSettings(epochs=epochs, learning_rate=learning_rate)
    numbers: dict[str, Any] = {"trained_parameters": 8, "head_parameters": 2, "model_parameters": 100, "seconds": 1.0}
    run = MethodRun(method, seed, training)
    return MethodResult(run, {}, {}, None, peak_memory_bytes=None, training=training, **numbers)


def scored(seed: int, learning_rate: float, epochs: int = 3) -> ScoredProbe:
    """A probe whose scores are its own."""
    selection = Selection("value", "magnitude", f"seed {seed}, {learning_rate:g}, {epochs} epochs", (), "magnitude")
    return ScoredProbe(result("all_biases", seed, learning_rate, epochs), Scores((), {}, selection))


def test_the_only_probe_of_the_seed_and_length_is_taken_whatever_its_learning_rate() -> None:
    probes = [scored(0, 0.1), scored(1, 0.1), scored(0, 0.1, epochs=5)]
    assert scores_for(result("value", 0, 0.01), probes) is probes[0].scores
    assert scores_for(result("value", 1, 0.01), probes) is probes[1].scores
    assert scores_for(result("value", 0, 0.01, epochs=5), probes) is probes[2].scores
    assert scores_for(result("value", 2, 0.1), probes) is None


def test_of_several_the_one_of_the_same_learning_rate_is_taken() -> None:
    probes = [scored(0, 0.1), scored(0, 0.01)]
    assert scores_for(result("value", 0, 0.01), probes) is probes[1].scores
    assert scores_for(result("value", 0, 0.5), probes) is None


def test_a_length_of_the_settings_is_the_same_whatever_it_comes_to() -> None:
    """A head alone is trained longer than a probe by a contrastive loss."""
    probe, longer = scored(0, 0.1), result("key", 0, 0.01, epochs=20)
    assert scores_for(longer, [probe]) is None
    of_settings = replace(probe, probe=replace(probe.probe, run=MethodRun("all_biases", 0)))
    assert scores_for(replace(longer, run=MethodRun("key", 0)), [of_settings, scored(0, 0.1)]) is probe.scores


def test_a_method_without_epochs_has_none() -> None:
    assert scores_for(result("logistic_regression", 0, None), [scored(0, 0.1)]) is None
