"""How fast a base is trained and computed on this machine, on the real rows of a dataset: what ``beft bench`` shows.

Each work is measured beside the matrix products of the base's linear layers alone, for batches of the same size. Its
share of their rate tells whether beft is slow or the machine is: what both lack to a large product is the machine's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from beft.encoding.examples import LabelledRows
from beft.encoding.tokenization import sorted_batches, token_batches
from beft.errors import TrainingError
from beft.inference.batching import tokens_at_once
from beft.inference.predictions import predict_rows
from beft.inference.products import (
    compute_products,
    counted_operations,
    linear_layers,
    median_seconds,
    product_operations,
)
from beft.inference.runs import Run
from beft.limits import usable_cores
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute
from beft.models.machine import cpu_flags, cpu_multiplies_bf16, cpu_name, large_product_rate, load_average, synchronize
from beft.models.memory import is_out_of_memory, out_of_memory_reason
from beft.process_state import cpu_threads
from beft.settings import Settings
from beft.sites.site import BiasSite, find_sites
from beft.training.engine.fit import fit, training_time
from beft.training.learning_rates import at_each_rate
from beft.training.probe import row_information
from beft.training.session import Session
from beft.training.target import planned_run
from beft.training_settings import TrainingSettings

LOW_SHARE = 0.4
"""Below this share of the products alone, something else takes most of the time."""

PREDICTIONS = 1000

_FISHER, _PROBE, _PREDICTIONS = "Fisher information", "probe", f"{PREDICTIONS:,} predictions"
_TERM = "value"
_BUSY = 0.5  # processes of others for each core
_FISHER_BATCHES = 4


@dataclass(frozen=True)
class WorkSpeed:
    """How fast one kind of work is.

    Attributes:
        work: Its name.
        extent: How much of it the settings ask for.
        seconds: How long that takes, about.
        rows_per_second: Rows that are trained on, or predicted, in a second.
        operations_per_second: Of the products with weights: two for each pair of numbers multiplied.
        share: Of the rate of the products alone on batches of the same size.
    """

    work: str
    extent: str
    seconds: float
    rows_per_second: float
    operations_per_second: float
    share: float


@dataclass(frozen=True)
class DatasetSpeed:
    """How fast a base is on a dataset.

    Attributes:
        rows: Rows by split.
        tokens: Tokens of a train row, on average.
        works: Fisher information, probe, training and predictions.
        evaluation_seconds: Of the evaluation of a run: every split under the frozen base, test and gate under the
            adapter, test under the probe's.
        products: Operations a second of the products alone, forward and backward, for a training batch.
    """

    dataset: str
    rows: dict[str, int]
    tokens: float
    works: tuple[WorkSpeed, ...]
    evaluation_seconds: float
    products: float

    @property
    def run_seconds(self) -> float:
        """What a run computes for this dataset: Fisher information, probe, training, evaluation."""
        return self.evaluation_seconds + sum(one.seconds for one in self.works if one.work != _PREDICTIONS)

    @property
    def lowest_share(self) -> float:
        """The smallest share of a work."""
        return min(one.share for one in self.works)


@dataclass(frozen=True)
class MachineSpeed:
    """What is computed with, and how fast a large product is on it.

    Attributes:
        device: ``cpu`` or ``cuda``.
        name: Of the processor or of the GPU.
        cores: CPU cores that this process may use.
        load: Processes that computed over the minute before, on average; None where it is unknown.
        product: Operations a second of a large product in this precision.
    """

    device: str
    name: str
    precision: str
    threads: int
    cores: int
    load: float | None
    product: float


def measure_machine(settings: Settings) -> MachineSpeed:
    """Measure a large matrix product with the settings' device, precision and threads; under a second.

    Raises:
        InputError: The settings name a device that is not there.

    Example:
        >>> measure_machine(Settings()).product > 1e9
        True
    """
    load, compute = load_average(), resolve_compute(settings.base)
    with cpu_threads(compute.threads):
        product = large_product_rate(compute.device, compute.dtype)
    name = torch.cuda.get_device_name() if compute.device == "cuda" else cpu_name()
    return MachineSpeed(compute.device, name, compute.precision, compute.threads, usable_cores(), load, product)


def measure_speed(session: Session, *, seconds: float) -> DatasetSpeed:
    """Measure probe, training and predictions of a base on the rows of its dataset; nothing is changed or kept.

    Args:
        seconds: How long each of four works is measured, about; slow ones take two steps at least.

    Raises:
        InputError: The base has no bias terms, or parts of it are not in memory.
        TrainingError: A training batch does not fit into memory.

    Example:
        >>> measure_speed(session, seconds=1.0).run_seconds > 0
        True
    """
    linear_layers(session.classifier)  # refuses what cannot be timed
    try:
        return _measure(session, seconds)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory_reason(error)) from error


def whole_run_seconds(datasets: Sequence[DatasetSpeed], machine: MachineSpeed) -> float:
    """About how long a run over some datasets computes: on a CPU as many at once as their threads find cores."""
    at_once = 1 if machine.device == "cuda" else max(1, min(len(datasets), machine.cores // machine.threads))
    return sum(one.run_seconds for one in datasets) / at_once


def likely_reasons(machine: MachineSpeed, datasets: Sequence[DatasetSpeed]) -> list[str]:
    """Why it is slow here, as far as it can be seen; a sentence each."""
    low = min(one.lowest_share for one in datasets) < LOW_SHARE
    reasons = []
    on_cpu = machine.device == "cpu"
    if on_cpu and machine.load is not None and machine.load > _BUSY * machine.cores:
        reasons.append(
            f"Other processes compute here: the load average was {machine.load:.1f} on {machine.cores} cores before "
            "this began."
        )
    if on_cpu and machine.threads > machine.cores:
        reasons.append(f"base.threads is {machine.threads}, but this process may use {machine.cores} cores.")
    if machine.precision != "bf16" and (not on_cpu or cpu_multiplies_bf16()):
        reasons.append(
            f"base.precision is {machine.precision}; this {'CPU' if on_cpu else 'GPU'} multiplies bf16 faster."
        )
    if on_cpu and machine.precision == "bf16" and not cpu_multiplies_bf16():
        reasons.append("This CPU emulates bf16: base.precision: fp32 is faster.")
    if on_cpu and cpu_flags() and not any(flag.startswith(("amx", "avx512")) for flag in cpu_flags()):
        reasons.append("This CPU has neither AMX nor AVX-512: its products are slow, whatever computes them.")
    if low and not on_cpu:
        reasons.append(
            "Small batches leave a GPU idle: several learning rates or a larger batch_size cost little more."
        )
    return reasons


def to_json(machine: MachineSpeed, datasets: Sequence[DatasetSpeed]) -> dict[str, Any]:
    """All that was measured as JSON values; rates in operations a second, times in seconds."""
    return {
        "machine": asdict(machine),
        "datasets": [asdict(one) | {"run_seconds": one.run_seconds} for one in datasets],
        "run_seconds": whole_run_seconds(datasets, machine),
        "likely_reasons": likely_reasons(machine, datasets),
    }


@dataclass(frozen=True)
class _Products:
    """The products alone for batches of so many tokens; measured before and after a work, since the load changes."""

    classifier: Classifier
    tokens: int
    backward: bool
    seconds: float

    def rate(self) -> float:
        """Operations a second."""

        def work() -> None:
            compute_products(self.classifier, [self.tokens], backward=self.backward)

        operations = product_operations(self.classifier, [self.tokens], backward=self.backward)
        return operations / median_seconds(work, self.seconds)


def _measure(session: Session, seconds: float) -> DatasetSpeed:
    classifier, settings, sample = session.classifier, session.settings, session.sample
    every = find_sites(classifier.model, add=settings.base.add_biases)
    target = find_sites(classifier.model, [_TERM], add=settings.base.add_biases)
    probe = _runs(session, session.training(settings.probe), every)
    train = _runs(session, session.training(settings.train), target)
    batch = _middle_rows(sample.train, train[0].settings.batch_size)
    beside = _Products(session.classifier, _padded(batch), backward=True, seconds=seconds / 8)
    fisher = _fisher(session, every, seconds, beside)
    test = session.rows("test")
    predictions, of_token = _predictions(session, test, seconds)
    return DatasetSpeed(
        dataset=session.dataset,
        rows={name: int(count) for name, count in session.facts["rows"].items()},
        tokens=float(sample.train.tokens.mean()),
        works=(
            fisher,
            _training(session, _PROBE, probe, batch, seconds, beside),
            _training(session, f"training of {_TERM}", train, batch, seconds, beside),
            predictions,
        ),
        evaluation_seconds=of_token * _evaluated_tokens(session, test),
        products=beside.rate(),
    )


def _runs(session: Session, training: TrainingSettings, sites: tuple[BiasSite, ...]) -> list[Run]:
    """The runs of a training, one for each learning rate."""
    return at_each_rate(planned_run(session.classifier, session.sample, session.settings, training, "speed", sites, {}))


def _fisher(session: Session, sites: tuple[BiasSite, ...], seconds: float, beside: _Products) -> WorkSpeed:
    classifier, rows = session.classifier, session.sample.train
    size = session.training(session.settings.probe).batch_size
    batches = list(sorted_batches(rows.lengths, size))
    places = np.linspace(0, len(batches) - 1, min(_FISHER_BATCHES, len(batches))).round().astype(int)
    part = rows.take(np.concatenate([batches[place] for place in places]))

    def work() -> None:
        row_information(classifier, part, sites, {}, batch_size=size)

    operations, before = counted_operations(work), beside.rate()
    token = median_seconds(work, seconds) / int(part.tokens.sum())
    return _speed(
        _FISHER,
        f"{len(rows):,} rows",
        token * int(rows.tokens.sum()),
        1 / (token * float(rows.tokens.mean())),
        operations / int(part.tokens.sum()) / token,
        fmean((before, beside.rate())),
    )


def _training(
    session: Session, work: str, runs: Sequence[Run], batch: LabelledRows, seconds: float, beside: _Products
) -> WorkSpeed:
    classifier, sample = session.classifier, session.sample
    before = beside.rate()
    time = training_time(classifier, sample.train, sample.dev, runs, seconds=seconds)
    products = fmean((before, beside.rate()))
    [first, *_] = runs
    once = Run("once", first.sites, first.head, 0, first.settings.model_copy(update={"epochs": 1}), "last")

    def step() -> None:
        fit(classifier, batch, None, [once], metric=_no_metric, at_once=1, progress=_silent)

    operations = counted_operations(step) / int(batch.tokens.sum())
    epochs = first.settings.epochs
    rates = f", {len(runs)} learning rates" if len(runs) > 1 else ""
    return _speed(
        work,
        f"{epochs} {'epoch' if epochs == 1 else 'epochs'} of {len(sample.train):,} rows{rates}",
        sum(time.seconds(sample.train, sample.dev, run.settings.epochs) for run in runs),
        1 / (time.train * float(sample.train.tokens.mean())),
        operations / time.train,
        products,
    )


def _predictions(session: Session, rows: LabelledRows, seconds: float) -> tuple[WorkSpeed, float]:
    """The speed of predictions, and the seconds of a token."""
    classifier, of_batch = session.classifier, session.settings.evaluate.batch_tokens
    batches = list(token_batches(rows.lengths, tokens_at_once(classifier, of_batch)))
    part = rows.take(batches[len(batches) // 2])

    def work() -> None:
        predict_rows(classifier, part, batch_tokens=of_batch)
        synchronize(classifier.device)

    operations, tokens = counted_operations(work), int(part.tokens.sum())
    beside = _Products(classifier, _padded(part), backward=False, seconds=seconds / 8)
    before = beside.rate()
    token = median_seconds(work, seconds) / tokens
    products = fmean((before, beside.rate()))
    row = token * float(rows.tokens.mean())
    return _speed(_PREDICTIONS, "", PREDICTIONS * row, 1 / row, operations / tokens / token, products), token


def _evaluated_tokens(session: Session, test: LabelledRows) -> int:
    """The tokens that the evaluation of a run computes."""
    sample, gate = session.sample, session.facts["rows"]["gate"]
    of_test, of_gate = int(test.tokens.sum()), int(session.rows("gate").tokens.sum()) if gate else 0
    learnt = int(sample.train.tokens.sum()) + (int(sample.dev.tokens.sum()) if sample.dev else 0)
    passes = 1 if session.classifier.pooling == "mean" or not session.problem_type.has_head else 2
    return passes * (learnt + of_test + of_gate) + (of_test + of_gate) + of_test


def _middle_rows(rows: LabelledRows, count: int) -> LabelledRows:
    """A batch of rows of middle length."""
    order = np.argsort(rows.lengths, kind="stable")
    start = max(0, (len(order) - count) // 2)
    return rows.take(order[start : start + count])


def _padded(rows: LabelledRows) -> int:
    """The tokens of some rows as one batch, padding counted."""
    return len(rows.encoded) * int(rows.encoded.lengths.max())


def _speed(
    work: str, extent: str, seconds: float, rows_per_second: float, operations: float, products: float
) -> WorkSpeed:
    return WorkSpeed(work, extent, seconds, rows_per_second, operations, operations / products)


def _no_metric(predictions: Any, labels: Any) -> float:
    return 0.0


def _silent(line: str) -> None:
    pass
