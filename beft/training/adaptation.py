"""The two trainings of an adaptation: the probe of all bias terms, and the target term; and of weights beside them.

Under ``protocol: beft`` the epoch is chosen on dev and inert sites stay frozen. Under ``protocol: paper`` the whole
sample is trained on, the last epoch counts and every site is trained, as in the published code.
"""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beft.bank.bank import Bank
from beft.bank.inertness import measure_inertness
from beft.datasets.prepared import Rows
from beft.encoding.examples import Predictions
from beft.encoding.tokenization import Encoded, sorted_batches
from beft.errors import TrainingError
from beft.heads.by_shape import linear_head
from beft.importance.methods.fisher import fisher_information
from beft.importance.probe_result import Evidence
from beft.inference.features import extract_features
from beft.inference.predictions import score_rows
from beft.inference.runs import FailedRun, LabelledRows, Run, RunResult
from beft.models.classifier import Classifier
from beft.models.out_of_memory import is_out_of_memory, out_of_memory_reason
from beft.process_state import with_own_threads
from beft.settings import ProbeSettings, Settings, TrainingSettings
from beft.sites.offloading import module_device
from beft.sites.site import BiasSite, find_sites, read_bias
from beft.training.fit import fit
from beft.training.learning_rates import at_each_rate, best_on_dev
from beft.training.weight_method import WeightMethod
from beft.training.weights import WeightsResult, fit_weights

log = logging.getLogger("beft.training.adaptation")

Progress = Callable[[str], None]

_INERTNESS_ROWS = 4
_INERTNESS_TOKENS = 32


@dataclass(frozen=True)
class Sample:
    """The rows that may be learnt from: train, and dev that chooses; dev is None under ``protocol: paper``."""

    train: LabelledRows
    dev: LabelledRows | None
    metric: str

    @property
    def truncated(self) -> int:
        """How many texts were longer than the maximal length and were cut."""
        return self.train.encoded.truncated + (self.dev.encoded.truncated if self.dev else 0)


@dataclass(frozen=True)
class Probe:
    """A finished probe.

    Attributes:
        evidence: Every bias before and after, Fisher information from before the training, and what is inert.
        frozen: The sites that were not trained because all of their components are inert.
        result: How the training went.
    """

    evidence: Evidence
    frozen: tuple[BiasSite, ...]
    result: RunResult


def make_sample(
    classifier: Classifier, train: Rows, dev: Rows, *, max_length: int, metric: str, protocol: str = "beft"
) -> Sample:
    """Encode the sample; under ``protocol: paper`` train and dev are one and nothing is left to choose with."""
    if protocol == "paper":
        return Sample(labelled(classifier, joined(train, dev), max_length, training=True), None, metric)
    return Sample(labelled(classifier, train, max_length, training=True), labelled(classifier, dev, max_length), metric)


def labelled(classifier: Classifier, rows: Rows, max_length: int, *, training: bool = False) -> LabelledRows:
    """Encode rows for a classifier, in its shape; ``training`` leaves out what only predictions need."""
    return classifier.examples(rows, max_length, training=training)


def joined(first: Rows, second: Rows) -> Rows:
    """The rows of both, in this order."""

    def both(name: str) -> Any:
        one, other = getattr(first, name), getattr(second, name)
        return None if one is None or other is None else [*one, *other]

    kept = {name: [*values, *second.kept[name]] for name, values in first.kept.items() if name in second.kept}
    return replace(first, **{field.name: both(field.name) for field in fields(Rows) if field.name != "kept"}, kept=kept)


def learnt_rows(rows: Mapping[str, int], protocol: str) -> int:
    """How many of the rows of each split a training learns from; under ``protocol: paper`` those of dev as well."""
    return rows["train"] + (rows["dev"] if protocol == "paper" else 0)


def settings_of(section: ProbeSettings, settings: Settings, dataset: str, rows: int) -> TrainingSettings:
    """A training section with what the dataset's own settings replace, and a length that fits so many rows."""
    own = settings.datasets[dataset]
    changes: dict[str, Any] = {} if own.epochs is None else {"epochs": own.epochs}
    if own.learning_rate is not None:
        changes |= {"learning_rate": own.learning_rate, "learning_rates": ()}
    return section.model_copy(update=changes).over(rows)


@dataclass(frozen=True)
class DevMetric:
    """A metric over some rows, as ``fit`` takes it; without rows (there is no dev) it is never asked."""

    name: str
    rows: LabelledRows | None

    def __call__(self, predictions: Predictions, _: Any) -> float:
        """Its value for the predictions of the rows."""
        assert self.rows is not None
        return score_rows(self.name, predictions, self.rows)


@with_own_threads
def head_start(classifier: Classifier, sample: Sample, settings: Settings) -> dict[str, Tensor]:
    """Where the head starts: what is not named starts as the model has it.

    ``best_constant`` names the output layer's bias, where it is drawn and not the base's own: the biases of the base
    then do not have to find the values' mean, or the labels' frequencies, first of all (benchmarks/recipes.md).
    ``logistic_regression`` names the layer, as a linear model on what it sees (ridge regression of values, a
    conditional logit of choices): linear probing before fine-tuning.
    """
    kind = settings.head_init
    if kind == "random" or not classifier.shape.has_head:
        return {}
    if kind == "best_constant":
        return _best_constant(classifier, sample)

    def seen(rows: LabelledRows) -> tuple[np.ndarray, LabelledRows]:
        return extract_features(classifier, rows.encoded, "head").numpy(), rows

    weight, bias = linear_head(
        classifier.shape,
        len(classifier.labels),
        seen(sample.train),
        seen(sample.dev) if sample.dev else None,
        metric=sample.metric,
        seed=settings.seed,
    )
    device = module_device(classifier.output_layer)
    start = {f"{classifier.output_name}.weight": weight.to(device)}
    if classifier.output_layer.bias is not None:
        start[f"{classifier.output_name}.bias"] = bias.to(device)
    return start


def _best_constant(classifier: Classifier, sample: Sample) -> dict[str, Tensor]:
    bias = f"{classifier.output_name}.bias"
    constant = classifier.shape.best_constant(sample.train.labels, len(classifier.labels))
    if constant is None or bias not in classifier.drawn:
        return {}
    return {bias: constant.to(module_device(classifier.output_layer), torch.float32)}


@with_own_threads
def run_probe(
    classifier: Classifier,
    sample: Sample,
    settings: Settings,
    training: TrainingSettings,
    *,
    checkpoints: Path | None = None,
    progress: Progress = log.info,
) -> Probe:
    """Train all bias terms at once, and keep what the importance methods need.

    Args:
        training: The probe's own training settings.
        checkpoints: Where an interrupted training is found and continued.

    Raises:
        InputError: The base has no bias terms and none are to be added.
    """
    model = classifier.model
    sites = find_sites(model, add=settings.base.add_biases)
    start = head_start(classifier, sample, settings)
    progress(f"probe: measuring which of {len(sites)} bias sites are inert")
    inert = inert_components(classifier, sites, sample.train.encoded, settings.seed)
    frozen = () if settings.protocol == "paper" else tuple(site for site in sites if inert[site].all())
    progress(f"probe: Fisher information of {len(sample.train)} examples")
    with Bank(model, {}, start):
        information = fisher_information(
            classifier, labelled_batches(classifier, sample.train, training.batch_size), sites
        )
    trained = tuple(site for site in sites if site not in frozen)
    run = _run(classifier, sample, settings, training, "probe", trained, start)
    result = with_frozen(_fit(classifier, sample, run, checkpoints, progress), frozen)
    before = {site: read_bias(model, site).cpu() for site in sites}
    after = {site: before[site] + result.deltas[site] for site in sites}
    return Probe(Evidence(before, after, information, inert), frozen, result)


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
    start = head_start(classifier, sample, settings)
    name = "+".join(terms)
    run = _run(classifier, sample, settings, training, name, trained, start)
    return with_frozen(_fit(classifier, sample, run, checkpoints, progress), frozen)


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
) -> WeightsResult:
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
    start = head_start(classifier, sample, settings) if start is None else start
    run = _run(classifier, sample, settings, training, method.name, (), start)
    metric = DevMetric(sample.metric, sample.dev)
    results: list[WeightsResult | FailedRun] = []
    for one in at_each_rate(run):
        exhausted: str | None = None
        try:
            results.append(
                fit_weights(classifier, sample.train, sample.dev, one, method, metric=metric, progress=progress)
            )
        except TrainingError as error:
            results.append(FailedRun(one, str(error)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            exhausted = out_of_memory_reason(error)
        if exhausted is not None:  # the error, which held on to what was computed, is gone here
            gc.collect()
            torch.cuda.empty_cache()
            results.append(FailedRun(one, f"{one.name}: {exhausted}"))
    return best_on_dev(run, results, progress)


@with_own_threads
def inert_components(
    classifier: Classifier, sites: Sequence[BiasSite], encoded: Encoded, seed: int
) -> dict[BiasSite, Tensor]:
    """Measure on a few short rows which components of the sites change no logit (fp64 or fp32, by random shifts)."""
    usable = np.flatnonzero(encoded.lengths >= min(4, int(encoded.lengths.max())))
    rows = usable[np.argsort(encoded.lengths[usable], kind="stable")][:_INERTNESS_ROWS]
    batch = encoded.batch(rows, classifier.device)
    if encoded.answers is None:  # an answer stands at the end
        batch = {name: tensor[:, :_INERTNESS_TOKENS] for name, tensor in batch.items()}
    return measure_inertness(
        classifier.model,
        sites,
        batch=batch,
        seed=seed,
        logits=lambda model, tokens: classifier.over(model)(tokens),
    )


def with_frozen(result: RunResult, frozen: Sequence[BiasSite]) -> RunResult:
    """The result with a delta of zero for the sites that were left frozen."""
    dtype = next((delta.dtype for delta in result.deltas.values()), torch.float32)
    zeros = {site: torch.zeros(site.width, dtype=dtype) for site in frozen}
    return replace(result, deltas={**result.deltas, **zeros})


def _fit(classifier: Classifier, sample: Sample, run: Run, checkpoints: Path | None, progress: Progress) -> RunResult:
    metric = DevMetric(sample.metric, sample.dev)
    runs = at_each_rate(run)
    results = fit(classifier, sample.train, sample.dev, runs, metric=metric, checkpoints=checkpoints, progress=progress)
    return best_on_dev(run, results, progress)


def _run(
    classifier: Classifier,
    sample: Sample,
    settings: Settings,
    training: TrainingSettings,
    name: str,
    sites: tuple[BiasSite, ...],
    start: Mapping[str, Tensor],
) -> Run:
    return Run(
        name=name,
        sites=sites,
        head=classifier.head_parameters("paper" if settings.protocol == "paper" else settings.head.train),
        seed=settings.seed,
        settings=training,
        select="last" if sample.dev is None else "best",
        initial_head=start,
    )


def labelled_batches(
    classifier: Classifier, rows: LabelledRows, batch_size: int
) -> "list[tuple[Mapping[str, Tensor], Tensor, Tensor]]":
    """Rows as Fisher information takes them: tokens, targets, and sequences of each example."""
    return [
        (rows.batch(batch, classifier.device), rows.targets(batch), rows.sizes_of(batch))
        for batch in sorted_batches(rows.lengths, batch_size)
    ]
