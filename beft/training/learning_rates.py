"""Learning rates that are tried side by side: each is a run of its own, and the best on dev is the one that counts."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from beft.errors import InputError, TrainingError
from beft.inference.runs import FailedRun, Run, RunResult
from beft.metrics.registry import rank_on_dev
from beft.settings import Settings
from beft.training_settings import TrainingSettings

log = logging.getLogger("beft.training.engine.fit")

RATE_FACTORS = (0.3, 1.0, 3.0)
"""What a usual learning rate is multiplied by where the rate is searched and none are named.

Three rates about half a decade apart span one decade. The papers' own searches are as wide: BitFit (arXiv 2106.10199)
tries 1e-4 to 1e-3 for biases and 1e-5 to 5e-5 for full fine-tuning, BERT 2e-5 to 5e-5. Finer steps would choose by
the noise of dev: twice the default rate could not be told from it on two datasets (benchmarks/README.md).
"""


def rate_grid(rate: float) -> tuple[float, ...]:
    """The learning rates that are tried about a usual one, each once, none above 1."""
    return tuple(dict.fromkeys(min(1.0, float(f"{rate * factor:.6g}")) for factor in RATE_FACTORS))


def searched(training: TrainingSettings, settings: Settings, dataset: str) -> TrainingSettings:
    """A training whose learning rate is searched: about the one that it has, unless the settings name what is tried.

    They do by ``learning_rates``, by the dataset's own ``learning_rate``, and by ``protocol: paper``, which has no dev
    split to choose with.
    """
    if settings.protocol == "paper" or training.learning_rates or settings.datasets[dataset].learning_rate is not None:
        return training
    return training.model_copy(update={"learning_rates": rate_grid(training.learning_rate)})


def at_own_rate(
    training: TrainingSettings, usual: float, settings: Settings, *, rate: float | None = None, search: bool = False
) -> TrainingSettings:
    """A training of weights, whose learning rates are other ones than those of the biases, and as many.

    Where the biases' rates are 0.5 and 2 times their own, so are those of the weights.

    Args:
        training: As the settings have it for biases.
        usual: The usual rate of the weights.
        rate: The only one that is tried; None: the usual one, searched as the biases' is.
        search: Whether it is searched where the settings name no rates for the biases.
    """
    if rate is not None:
        return training.model_copy(update={"learning_rate": rate, "learning_rates": ()})
    scale = usual / training.learning_rate
    rates = tuple(one * scale for one in training.learning_rates)
    if search and not rates and settings.protocol != "paper":
        rates = rate_grid(usual)
    return training.model_copy(update={"learning_rate": usual, "learning_rates": rates})


def at_each_rate(run: Run) -> list[Run]:
    """The run at each of its settings' ``learning_rates``, or the run itself where they name none.

    Raises:
        InputError: Rates are named for a run that has no dev split to choose with.
    """
    rates = tuple(dict.fromkeys(run.settings.learning_rates))
    if not rates:
        return [run]
    if run.select != "best" and not run.settings.contrastive:  # which is measured on dev at its last epoch
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
        The chosen result, with all that was tried, and the seconds that all of it took. Where any of it was continued
        from a checkpoint, ``steps_here`` says so.

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
        steps_here=min(result.steps_here for result in known),
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
