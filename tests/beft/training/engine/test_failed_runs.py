"""A run that fails ends alone: the others give what they give without it, and a restart does not repeat it."""

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from beft.comparison.baselines.lora import Lora
from beft.errors import TrainingError
from beft.inference.runs import FailedRun, Run, RunResult, finished
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from beft.training.learning_rates import at_each_rate, best_learning_rate
from beft.training.target import train_weights
from tests.support.killed_training import killed_after
from tests.support.rows import plain_settings, random_rows, tiny_classifier
from tests.support.weights import accuracy, quiet
from tests.support.weights import run_of as run_of_weights
from tests.support.weights import train as train_one_of_weights

TRAIN, DEV = random_rows(40), random_rows(20, seed=1)
LOST = 1e300
"""A learning rate after whose first step the loss is NaN."""


def runs_of(classifier, rates):
    sites, head = find_sites(classifier.model, ["value"]), classifier.head_parameters()
    settings = plain_settings(epochs=2, batch_size=8, dropout=False)
    return [
        Run(f"run {at}", sites, head, at, settings.model_copy(update={"learning_rate": rate, "learning_rates": ()}))
        for at, rate in enumerate(rates)
    ]


def test_the_others_of_its_pass_give_what_they_give_alone(tmp_path: Path) -> None:
    classifier = tiny_classifier()
    runs, said = runs_of(classifier, [1e-2, LOST, 3e-3]), []
    found = fit(classifier, TRAIN, DEV, runs, metric=accuracy, checkpoints=tmp_path, progress=said.append)
    assert isinstance(found[1], FailedRun)
    assert found[1].reason in said
    assert found[1].reason.startswith("run 1: ")
    assert "a learning_rate below 1e+300" in found[1].reason
    for at in (0, 2):
        [alone] = fit(classifier, TRAIN, DEV, [runs[at]], metric=accuracy, progress=quiet)
        together = finished(found[at])
        for site, delta in finished(alone).deltas.items():
            torch.testing.assert_close(together.deltas[site], delta, rtol=0, atol=1e-9)
        for name, value in finished(alone).head.items():
            torch.testing.assert_close(together.head[name], value, rtol=0, atol=1e-9)

    again = fit(classifier, TRAIN, DEV, runs, metric=accuracy, checkpoints=tmp_path, progress=quiet)
    assert again[1] == found[1], "it is not tried once more"
    assert [finished(again[at]).steps_here for at in (0, 2)] == [0, 0]


def test_a_pass_goes_on_after_a_restart_without_the_run_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = tiny_classifier()
    runs = runs_of(classifier, [1e-2, LOST])
    expected = fit(classifier, TRAIN, DEV, runs, metric=accuracy, progress=quiet)
    with killed_after(4, monkeypatch):
        fit(classifier, TRAIN, DEV, runs, metric=accuracy, checkpoints=tmp_path, progress=quiet)
    found = fit(classifier, TRAIN, DEV, runs, metric=accuracy, checkpoints=tmp_path, progress=quiet)
    assert found[1] == expected[1]
    first, alone = finished(found[0]), finished(expected[0])
    assert first.steps_here == alone.steps - 4
    assert all(torch.equal(delta, alone.deltas[site]) for site, delta in first.deltas.items())


def test_parameters_that_are_lost_in_the_last_step_are_no_result() -> None:
    """Without a dev split nothing else would tell."""
    classifier = tiny_classifier()
    [run] = runs_of(classifier, [LOST])
    run = replace(run, select="last", settings=run.settings.model_copy(update={"epochs": 1, "batch_size": 40}))
    infinite = replace(run, name="infinite", settings=run.settings.model_copy(update={"learning_rate": float("inf")}))
    [found] = fit(classifier, TRAIN, None, [infinite], metric=accuracy, progress=quiet)
    assert isinstance(found, FailedRun)
    assert "a trained parameter is NaN or infinite after epoch 1" in found.reason


def test_a_learning_rate_that_fails_is_left_out_of_the_choice() -> None:
    classifier = tiny_classifier()
    [run] = runs_of(classifier, [1e-2])
    run = replace(run, settings=run.settings.model_copy(update={"learning_rates": (LOST, 1e-2, 3e-3)}))
    results = fit(classifier, TRAIN, DEV, at_each_rate(run), metric=accuracy, progress=quiet)
    said: list[str] = []
    chosen = best_learning_rate(run, results, said.append)
    assert isinstance(chosen, RunResult)
    assert chosen.run.settings.learning_rate in (1e-2, 3e-3)
    assert [one["learning_rate"] for one in chosen.trials] == [LOST, 1e-2, 3e-3]
    assert "a learning_rate below 1e+300" in chosen.trials[0]["failed"]
    assert "1e+300: failed" in said[-1]
    assert chosen.steps_here == chosen.steps
    resumed = [one if isinstance(one, FailedRun) else replace(one, steps_here=at) for at, one in enumerate(results)]
    assert best_learning_rate(run, resumed, quiet).steps_here == 1, "the fewest of any rate"
    with pytest.raises(TrainingError, match="run 0@1e"):
        best_learning_rate(run, results[:1], quiet)


def test_weights_that_fail_at_one_rate_are_trained_at_the_others() -> None:
    from beft.settings import Settings
    from beft.training.sample import Sample

    classifier = tiny_classifier()
    settings = plain_settings(epochs=1, batch_size=8, dropout=False).model_copy(
        update={"learning_rate": 1e-3, "learning_rates": (1e-3, LOST)}
    )
    sample = Sample(TRAIN, DEV, "accuracy")
    own = Settings.from_mapping({"datasets": {"films": {}}})
    found = train_weights(classifier, sample, own, settings, Lora(2, 4), start={}, progress=quiet)
    assert found.run.settings.learning_rate == 1e-3
    assert "failed" in found.trials[1]
    with pytest.raises(TrainingError, match="a learning_rate below"):
        train_one_of_weights(classifier, Lora(2, 4), run_of_weights(classifier, learning_rate=1.0), lost_rows())


def test_what_did_not_fit_into_memory_is_gone_before_the_next_rate_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    from beft.settings import Settings
    from beft.training.sample import Sample

    classifier, held = tiny_classifier(), []

    def exhausted(*_: object, **__: object) -> None:
        assert all(one() is None for one in held)
        computed = torch.ones(4)
        computed.of_itself = computed  # type: ignore[attr-defined]
        held.append(weakref.ref(computed))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("beft.training.engine.weights.TrainingPass", exhausted)
    settings = plain_settings().model_copy(update={"learning_rates": (1e-3, 1e-2)})
    own = Settings.from_mapping({"datasets": {"films": {}}})
    with pytest.raises(TrainingError, match="out of memory"):
        train_weights(classifier, Sample(TRAIN, DEV, "accuracy"), own, settings, Lora(2, 4), start={}, progress=quiet)
    assert len(held) == 2


def lost_rows():
    """Rows whose loss is NaN: values where the classifier has labels."""
    rows = random_rows(16)

    class Lost(type(rows)):  # type: ignore[misc]
        def targets(self, examples: np.ndarray) -> torch.Tensor:
            return torch.full((len(examples), 3), float("nan"), dtype=torch.float64)

    return Lost(rows.encoded, rows.labels)
