"""The training of the target term and the head; and of weights of the base, which methods of comparison train.

Under ``protocol: beft`` the epoch is chosen on dev and inert sites stay frozen. Under ``protocol: paper`` the whole
sample is trained on, the last epoch counts and every site is trained, as in the published code.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from beft.inference.runs import Run, RunResult
from beft.models.classifier import Classifier
from beft.process_state import with_own_threads
from beft.settings import Settings
from beft.sites.site import BiasSite, find_sites
from beft.training.engine.fit import fit
from beft.training.engine.weight_method import WeightMethod
from beft.training.engine.weights import fit_weights
from beft.training.head_start import head_start
from beft.training.learning_rates import at_each_rate, best_learning_rate
from beft.training.sample import DevMetric, Sample
from beft.training_settings import TrainingSettings

log = logging.getLogger("beft.training.target")

Progress = Callable[[str], None]


@with_own_threads
def train_terms(
    classifier: Classifier,
    sample: Sample,
    settings: Settings,
    training: TrainingSettings,
    terms: Sequence[str],
    *,
    inert: Mapping[BiasSite, Tensor] | None = None,
    checkpoints: Path | None = None,
    progress: Progress = log.info,
) -> RunResult:
    """Train the target term (or several terms), and the head.

    Args:
        inert: What the probe measured; sites that are wholly inert stay frozen at a delta of zero.

    Raises:
        InputError: The base has no bias for a term and none are to be added.
        TrainingError: The training failed at every learning rate: NaN, infinite, or out of memory.
    """
    sites = find_sites(classifier.model, terms, add=settings.base.add_biases)
    frozen: tuple[BiasSite, ...] = ()
    if inert is not None and settings.protocol != "paper":
        frozen = tuple(site for site in sites if site in inert and inert[site].all())
    trained = tuple(site for site in sites if site not in frozen)
    start = head_start(classifier, sample, settings, training)
    name = "+".join(terms)
    run = planned_run(classifier, sample, settings, training, name, trained, start)
    return with_frozen(fit_run(classifier, sample, run, checkpoints, progress), frozen)


@with_own_threads
def train_weights(
    classifier: Classifier,
    sample: Sample,
    settings: Settings,
    training: TrainingSettings,
    method: WeightMethod,
    *,
    start: Mapping[str, Tensor] | None = None,
    progress: Progress = log.info,
) -> RunResult:
    """Train weights of the base, and the head, on what the target term is trained on and as it is.

    Args:
        training: With a learning rate (or several, which are trained one after another) that suits weights; the
            biases' own is far too large for them.
        method: Which weights.
        start: Where the head starts; None: as the settings say.

    Raises:
        InputError: The method does not fit the base.
        TrainingError: The training failed at every learning rate: NaN, infinite, or out of memory.
    """
    start = head_start(classifier, sample, settings, training) if start is None else start
    run = planned_run(classifier, sample, settings, training, method.name, (), start)
    metric = DevMetric(sample.metric, sample.dev)
    results = [
        fit_weights(classifier, sample.train, sample.dev, one, method, metric=metric, progress=progress)
        for one in at_each_rate(run)
    ]
    return best_learning_rate(run, results, progress)


def planned_run(
    classifier: Classifier,
    sample: Sample,
    settings: Settings,
    training: TrainingSettings,
    name: str,
    sites: tuple[BiasSite, ...],
    start: Mapping[str, Tensor],
) -> Run:
    """The run of some sites and the head, as the settings have it."""
    return Run(
        name=name,
        sites=sites,
        head=classifier.head_parameters("paper" if settings.protocol == "paper" else settings.head.train),
        seed=settings.seed,
        settings=training,
        select=training.select(dev=sample.dev is not None),
        initial_head=start,
    )


def fit_run(
    classifier: Classifier, sample: Sample, run: Run, checkpoints: Path | None, progress: Progress
) -> RunResult:
    """Train a run at each of its learning rates, and keep the one that is best on dev.

    Raises:
        TrainingError: It failed at every learning rate.
    """
    metric = DevMetric(sample.metric, sample.dev)
    runs = at_each_rate(run)
    results = fit(classifier, sample.train, sample.dev, runs, metric=metric, checkpoints=checkpoints, progress=progress)
    return best_learning_rate(run, results, progress)


def with_frozen(result: RunResult, frozen: Sequence[BiasSite]) -> RunResult:
    """The result with a delta of zero for the sites that were left frozen."""
    dtype = next((delta.dtype for delta in result.deltas.values()), torch.float32)
    zeros = {site: torch.zeros(site.width, dtype=dtype) for site in frozen}
    return replace(result, deltas={**result.deltas, **zeros})
