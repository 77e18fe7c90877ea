"""Learning rates that are tried side by side: each is a run of its own, and the best on dev is the one that counts."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from beft.errors import InputError, TrainingError
from beft.inference.runs import FailedRun, Run, RunResult
from beft.metrics.registry import rank_on_dev

log = logging.getLogger("beft.training.engine.fit")


def at_each_rate(run: Run) -> list[Run]:
    """The run at each of its settings' ``learning_rates``, or the run itself where they name none.

    Raises:
        InputError: Rates are named for a run that has no dev split to choose with.
    """
    rates = tuple(dict.fromkeys(run.settings.learning_rates))
    if not rates:
        return [run]
    if run.select != "best":
        raise InputError(
            f"run {run.name!r} names {len(rates)} learning rates, but there is no dev split to choose one with "
            "(protocol: paper); name a single learning_rate"
        )
    return [
        replace(
            run,
            name=run.name if len(rates) == 1 else f"{run.name}@{rate:g}",
            settings=run.settings.model_copy(update={"learning_rate": rate, "learning_rates": ()}),
        )
        for rate in rates
    ]


def best_learning_rate(
    run: Run, results: Sequence[RunResult | FailedRun], progress: Callable[[str], None] = log.info
) -> RunResult:
    """The result with the best dev metric; lower dev loss decides between equals, then the order.

    A rate that failed is left out.

    Args:
        run: What was asked for; the result carries its name.
        results: Of ``at_each_rate(run)``, in its order.
        progress: Is told of the choice.

    Returns:
        The chosen result, with all that was tried, and the seconds that all of it took.

    Raises:
        TrainingError: All of them failed.
    """
    known = [result for result in results if not isinstance(result, FailedRun)]
    if not known:
        raise TrainingError("; ".join(result.reason for result in results if isinstance(result, FailedRun)))
    if len(results) == 1:
        return replace(known[0], run=replace(known[0].run, name=run.name))
    trials = tuple(_on_dev(result) for result in results)
    chosen = known[best_trial([one for one in trials if "failed" not in one])]
    listed = ", ".join(
        f"{one['learning_rate']:g}: " + ("failed" if "failed" in one else f"{one['dev_metric']:.4f}") for one in trials
    )
    progress(f"{run.name}: learning rate {chosen.run.settings.learning_rate:g} is the best on dev ({listed})")
    return replace(
        chosen,
        run=replace(chosen.run, name=run.name),
        trials=trials,
        seconds=sum(result.seconds for result in known),
    )


def best_trial(trials: Sequence[Mapping[str, Any]]) -> int:
    """Which of several has the best ``dev_metric``; lower ``dev_loss`` decides between equals, then the order."""
    return max(range(len(trials)), key=lambda at: (*rank_on_dev(trials[at]["dev_metric"], trials[at]["dev_loss"]), -at))


def _on_dev(result: RunResult | FailedRun) -> dict[str, Any]:
    """What a rate gave, at its best epoch, or why it failed."""
    if isinstance(result, FailedRun):
        return {"learning_rate": result.run.settings.learning_rate, "failed": result.reason}
    record = next(one for one in result.history if one["epoch"] == result.best_epoch)
    return {
        "learning_rate": result.run.settings.learning_rate,
        "dev_metric": record["dev_metric"],
        "dev_loss": record["dev_loss"],
        "best_epoch": result.best_epoch,
    }
