"""Methods that move nothing but bias vectors and the head: all of them are runs of shared passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from beft.bank.bank import Bank
from beft.comparison.attempt import attempt, attempt_together
from beft.comparison.common import Common
from beft.comparison.result import MethodResult, MethodRun, NotAvailable
from beft.errors import InputError
from beft.inference.runs import FailedRun, Run, RunResult
from beft.models.memory import PeakMemory
from beft.settings import ALL_BIASES, TERMS
from beft.sites.site import BiasSite, find_sites
from beft.training.engine.fit import fit
from beft.training.learning_rates import at_each_rate, best_learning_rate, searched
from beft.training.sample import DevMetric
from beft.training.target import with_frozen


@dataclass(frozen=True)
class _Planned:
    """A run as the engine takes it, and the sites that it leaves frozen because they are inert."""

    requested: MethodRun
    run: Run
    frozen: tuple[BiasSite, ...]


def train_together(
    common: Common, requested: Sequence[MethodRun], checkpoints: Path | None
) -> list[MethodResult | NotAvailable]:
    """Train all of them, in as few passes as memory allows; in their order."""
    planned = [attempt(one, partial(_plan, common, one, at)) for at, one in enumerate(requested)]
    possible = [one for one in planned if isinstance(one, _Planned)]
    results = attempt_together([one.requested for one in possible], partial(_train, common, possible, checkpoints))
    found = iter(results)
    return [next(found) if isinstance(one, _Planned) else one for one in planned]


def _plan(common: Common, requested: MethodRun, number: int) -> _Planned:
    settings, paper = common.settings, common.settings.protocol == "paper"
    section = settings.probe if requested.method == ALL_BIASES else settings.train
    sites: tuple[BiasSite, ...] = ()
    if requested.method in TERMS or requested.method == ALL_BIASES:
        terms = None if requested.method == ALL_BIASES else [requested.method]
        sites = find_sites(common.classifier.model, terms, add=settings.base.add_biases)
    inert = {} if paper else common.inert(sites)
    frozen = tuple(site for site in sites if site in inert and inert[site].all())
    trained = tuple(site for site in sites if site not in frozen)
    if not trained and not common.head:
        why = "there is no head to train" + (f", and every {requested.method} bias is inert" if sites else "")
        raise InputError(f"{requested.method}: {why}")
    if not trained:
        section = section.with_loss("cross_entropy")  # no other trains a head, and the length follows from the loss
    training = requested.training or common.session.training(section)
    if requested.options.search_rates and requested.training is None:
        training = searched(training, settings, common.session.dataset)
    if not trained and training.head_learning_rate:
        training = training.model_copy(update={"learning_rates": ()})  # they are of biases, and none are trained
    if not trained:
        training = training.with_loss("cross_entropy")  # of a training that the run names, whose length is kept
    run = Run(
        name=f"{requested.method}-{requested.seed}-{number}",
        sites=trained,
        head=common.head,
        seed=requested.seed,
        settings=training,
        select=training.select(dev=common.sample.dev is not None),
        initial_head=common.head_start(requested.seed, training),
    )
    at_each_rate(run)  # whether its rates can be chosen at all
    return _Planned(requested, run, frozen)


def _train(common: Common, planned: Sequence[_Planned], checkpoints: Path | None) -> list[MethodResult | NotAvailable]:
    if not planned:
        return []
    sample, classifier = common.sample, common.classifier
    metric = DevMetric(sample.metric, sample.dev)
    at_rates = [at_each_rate(one.run) for one in planned]
    every = [run for runs in at_rates for run in runs]
    memory = PeakMemory(classifier.device)
    results = iter(
        fit(
            classifier,
            sample.train,
            sample.dev,
            every,
            metric=metric,
            checkpoints=checkpoints,
            progress=common.progress,
        )
    )
    peak = memory.above()
    of_each = [[next(results) for _ in runs] for runs in at_rates]
    return [
        attempt(one.requested, partial(_result, common, one, found, peak, len(every)))
        for one, found in zip(planned, of_each, strict=True)
    ]


def _result(
    common: Common, planned: _Planned, at_rates: Sequence[RunResult | FailedRun], peak: int | None, runs_in_pass: int
) -> MethodResult:
    """What the best of a run's learning rates gives.

    Raises:
        TrainingError: All of them failed.
    """
    found = best_learning_rate(planned.run, at_rates, common.progress)
    device = common.classifier.device
    deltas = {site: delta.to(device) for site, delta in found.deltas.items()}
    head = {name: value.to(device) for name, value in found.head.items()}
    with Bank(common.classifier.model, deltas, head):
        predictions = common.predict()
    trained = sum(delta.numel() for delta in found.deltas.values())
    return MethodResult(
        run=planned.requested,
        predictions=predictions,
        scores=common.scores(predictions),
        dev=found.history[found.best_epoch - 1].get("dev_metric"),
        trained_parameters=trained,
        head_parameters=sum(value.numel() for value in found.head.values()),
        model_parameters=common.model_parameters,
        seconds=found.seconds,
        peak_memory_bytes=peak,
        runs_in_pass=runs_in_pass,
        best_epoch=found.best_epoch,
        history=found.history,
        training=found.run.settings,
        trials=found.trials,
        deltas=with_frozen(found, planned.frozen).deltas,
        head=found.head,
        inert=None if common.settings.protocol == "paper" or planned.requested.method not in TERMS else not trained,
    )
