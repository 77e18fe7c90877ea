"""The plan of a reproduction: which measurements it takes, with which settings, and what cannot be measured and why."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beft.comparison.registry import METHODS, Kind
from beft.datasets.description import Description
from beft.datasets.paper import Paper
from beft.datasets.reading.loaders import source_files
from beft.datasets.registry import find_dataset, known_datasets
from beft.errors import InputError
from beft.names import known_name, unknown_name
from beft.settings import DatasetSettings
from tasks.reproduction.catalogue import Reproduction, ReproductionRequest, find_reproduction
from tasks.settings import MeasureSettings, PipelineSettings

PAPER_TRAINING: dict[str, Any] = {
    "learning_rates": (),
    "head_learning_rate": None,
    "schedule": "constant",
    "warmup_fraction": 0.0,
    "batch_size": 16,
    "clip_norm": 1.0,
    "adam_epsilon": 1e-6,
    "dropout": True,
    "patience": None,
}
"""The training of the published code, which has no schedule: the same for every encoder and dataset."""
PAPER_FULL_RATE = 1e-5
"""Of full fine-tuning there."""

_EACH = "{dataset}"
"""In the name of a change: each dataset."""

_OF_REQUEST = {
    "protocol": "--protocol",
    "datasets": "--datasets",
    "seed": "--seeds",
    "measure.seeds": "--seeds",
    "measure.methods": "--methods",
    "measure.compared_learning_rates": "--learning-rates",
    "measure.compared_epochs": "--epochs",
}
"""Settings that a request has a field of its own for, and its option."""


@dataclass(frozen=True)
class PlannedMeasurement:
    """One measurement that is to be made.

    Attributes:
        source: The base, as it was asked for.
        base: Its short name.
        settings: Of the step ``measure``; they name this one dataset.
    """

    source: str
    base: str
    dataset: str
    regime: str
    settings: PipelineSettings

    @property
    def methods(self) -> tuple[str, ...]:
        """What it measures."""
        return self.settings.measure.methods

    @property
    def seeds(self) -> tuple[int, ...]:
        """From which seeds."""
        return self.settings.measure.seeds or (self.settings.seed,)

    @property
    def key(self) -> str:
        """Unique in its plan, and a path below a run's folder."""
        seeds = "+".join(map(str, self.seeds))
        return f"measure/{self.base}/{self.dataset}-{self.regime}-{'+'.join(self.methods)}-seed{seeds}"


@dataclass(frozen=True)
class Unavailable:
    """What was asked for and cannot be measured.

    Attributes:
        methods: All that are concerned.
    """

    base: str
    dataset: str
    regime: str
    methods: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a reproduction takes.

    Attributes:
        bases: Short name -> the base as it was asked for.
    """

    request: ReproductionRequest
    reproduction: Reproduction
    bases: dict[str, str]
    datasets: tuple[str, ...]
    regimes: tuple[str, ...]
    methods: tuple[str, ...]
    measurements: tuple[PlannedMeasurement, ...]
    missing: tuple[Unavailable, ...]


def make_plan(request: ReproductionRequest, settings: PipelineSettings, root: Path) -> Plan:
    """Plan a reproduction; nothing is trained and no data is read.

    Args:
        settings: Of the project; the protocol and the request replace some of them.

    Raises:
        InputError: A name is unknown, a setting is wrong, or nothing at all can be measured.
    """
    reproduction = find_reproduction(request.name)
    methods = tuple(dict.fromkeys(request.methods or reproduction.methods))
    for method in methods:
        known_name(method, METHODS, "method")
    for dataset in request.datasets:
        known_name(dataset, known_datasets(root), "dataset")
    changed = request.changes.get("base.source")
    if changed is not None and request.models:
        raise InputError("base.source is changed, and bases are named as well: name each with --model")
    bases = _short_names(request.models or (str(changed or settings.base.source),))
    datasets = tuple(dict.fromkeys(request.datasets or reproduction.datasets))
    regimes = tuple(dict.fromkeys(request.regimes or reproduction.regimes))
    _check_changes(request, datasets)
    planned: list[PlannedMeasurement] = []
    missing: list[Unavailable] = []
    for base, source in bases.items():
        for dataset in datasets:
            for regime in regimes:
                try:
                    planned += _measurements(
                        request, reproduction, settings, root, base, source, dataset, regime, methods
                    )
                except InputError as error:
                    missing.append(Unavailable(base, dataset, str(regime), methods, str(error)))
    if not planned:
        raise InputError("nothing of this can be measured here:\n" + "\n".join(reasons(missing)))
    return Plan(
        request,
        reproduction,
        bases,
        datasets,
        tuple(map(str, regimes)),
        methods,
        tuple(planned),
        tuple(missing),
    )


def _measurements(
    request: ReproductionRequest,
    reproduction: Reproduction,
    settings: PipelineSettings,
    root: Path,
    base: str,
    source: str,
    dataset: str,
    regime: int | str,
    methods: tuple[str, ...],
) -> Iterator[PlannedMeasurement]:
    """The measurements of one base, dataset and regime.

    Raises:
        InputError: The data cannot be reached, or the protocol does not say how to train on it.
    """
    description = reachable(dataset, root)
    # Beside weights, whose usual rates come from other data, every method is searched alike. Where times are compared,
    # they are those of one training; tables of bias terms alone are of the recipe that the settings have.
    weights = any(METHODS[method] is Kind.WEIGHTS for method in methods)
    search = request.protocol == "beft" and weights and not reproduction.alone
    for group, seeds in _groups(request, reproduction, methods):
        values = _settings(request, reproduction, settings, description, source, regime)
        description.rows(values["datasets"][dataset]["size"])  # says so where it has no such regime
        values["measure"] |= {"methods": group, "seeds": seeds, "search_rates": search}
        values["seed"] = seeds[0]
        if request.protocol == "beft":
            values["split"]["draw"] = seeds[0]
        for name, value in request.changes.items():
            if not name.startswith("datasets.") or name.split(".")[1] in (dataset, _EACH):
                _set(values, name.replace(_EACH, dataset), value)
        if request.protocol == "paper" and values["measure"]["weight_learning_rate"] is None:
            rates = {"full": PAPER_FULL_RATE, "rand_uniform": values["train"]["learning_rate"]}
            values["measure"]["weight_learning_rate"] = rates.get(group[0])
        yield PlannedMeasurement(source, base, dataset, str(regime), PipelineSettings.from_mapping(values))


def _groups(
    request: ReproductionRequest, reproduction: Reproduction, methods: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Methods and seeds that are measured together.

    Runs of one draw share rows, and so a pass: all bias terms of a seed under protocol beft, of all seeds under
    protocol paper, which has one sample. Methods that train weights are measured one by one, and so are all where
    their times are compared.
    """
    seeds = tuple(range(request.seeds))
    together = tuple(method for method in methods if METHODS.get(method) is not Kind.WEIGHTS and not reproduction.alone)
    if together:
        yield from ((together, (seed,)) for seed in seeds) if request.protocol == "beft" else [(together, seeds)]
    for seed in seeds:
        yield from (((method,), (seed,)) for method in methods if method not in together)


def _settings(
    request: ReproductionRequest,
    reproduction: Reproduction,
    settings: PipelineSettings,
    description: Description,
    source: str,
    regime: int | str,
) -> dict[str, Any]:
    """The settings of a measurement as JSON values, as the protocol has them."""
    values = settings.model_dump(mode="json")
    own = settings.datasets.get(description.name, DatasetSettings())
    values |= {
        "protocol": request.protocol,
        "base": values["base"] | {"source": source},
        "datasets": {description.name: own.model_dump(mode="json") | {"size": regime}},
        # No promotion is decided here, so no row is kept for it.
        "split": values["split"] | {"gate_rows": 0},
        "measure": MeasureSettings(
            compared_learning_rates=request.compared_learning_rates or reproduction.compared_learning_rates,
            compared_epochs=request.compared_epochs or reproduction.compared_epochs,
            random_weights_of=reproduction.random_weights_of,
        ).model_dump(mode="json"),
    }
    if settings.train.loss == "auto":
        values["train"]["loss"] = "cross_entropy"  # as in the papers, with however few rows
    if reproduction.merged:
        values["merge"]["methods"] = ["mean"]
    if request.protocol == "paper":
        training = PAPER_TRAINING | _published_training(description, source, request, reproduction)
        for section in ("probe", "train"):
            values[section] |= training
        if reproduction.decoders and description.paper is not None and description.paper.decoder is not None:
            values["train"]["objective"] = description.paper.decoder.objective
        values["head"] |= {"pooling": "model", "init": "random"}
        values["datasets"][description.name]["size"] = _published_rows(description, regime, reproduction)
    return values


def reachable(dataset: str, root: Path) -> Description:
    """The description of a dataset whose files are all on this machine, or which comes from the hub.

    Raises:
        InputError: There is no such dataset, or files are missing.
    """
    known = known_datasets(root)
    if dataset not in known:
        raise InputError(unknown_name(dataset, known, "dataset"))
    description = find_dataset(dataset, root)
    source_files(description, root)
    return description


def _published_training(
    description: Description, source: str, request: ReproductionRequest, reproduction: Reproduction
) -> dict[str, Any]:
    """Learning rate and length of the published runs on a dataset, where the request does not name them.

    Raises:
        InputError: None were published.
    """
    paper = description.paper or Paper()
    found: dict[str, Any] = {}
    if reproduction.decoders and paper.decoder is not None:
        decoder = paper.decoder
        found = {"learning_rate": decoder.learning_rate, "epochs": decoder.epochs, "batch_size": decoder.batch_size}
    elif not reproduction.decoders:
        encoder = next((name for name in paper.epochs if name in source), "bert-base")
        found = {"learning_rate": paper.learning_rate, "epochs": paper.epochs.get(encoder)}
        found = {name: value for name, value in found.items() if value is not None}
    wanted = [name for name in ("learning_rate", "epochs") if name not in found]
    missing = [name for name in wanted if f"train.{name}" not in request.changes]
    if missing:
        raise InputError(
            f"protocol paper: no {' and no '.join(missing)} was published for {description.name}; name them: "
            + " ".join(f"--set train.{name}=…" for name in missing)
        )
    return found


def _published_rows(description: Description, regime: int | str, reproduction: Reproduction) -> int | str:
    """The published size of a regime, where the dataset's own differs, since that keeps rows for a gate."""
    paper = description.paper
    if paper is None or not isinstance(regime, str):
        return regime
    if reproduction.decoders and paper.decoder is not None:
        return regime
    return next((rows for name, rows in paper.rows.items() if name == regime), regime)


def _short_names(sources: Sequence[str]) -> dict[str, str]:
    """A short name of each base, for tables and folders: the model's own, without where it comes from."""
    names: dict[str, str] = {}
    for source in dict.fromkeys(sources):
        own = source.removeprefix("pypi:").removeprefix("hub:").rstrip("/").split("@")[0].split("==")[0]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", own.rsplit("/", 1)[-1]) or "base"
        names[f"{name}-{len(names) + 1}" if name in names else name] = source
    return names


def _check_changes(request: ReproductionRequest, datasets: Sequence[str]) -> None:
    """Make sure that the changes are no part of the request, and name none but its datasets.

    Raises:
        InputError: Something else is changed.
    """
    for name in request.changes:
        if name in _OF_REQUEST:
            raise InputError(f"{name} is a part of the request itself: name it with {_OF_REQUEST[name]}")
        if name.startswith("datasets."):
            known_name(name.split(".")[1], (*datasets, _EACH), "dataset of this reproduction")


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value; a mapping is made where there is none, and reading the settings says what is wrong with it."""
    *parents, last = dotted.split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    values[last] = value


def reasons(missing: Sequence[Unavailable]) -> list[str]:
    """One line for each reason, with all that it concerns."""
    by_reason: dict[str, list[str]] = {}
    for one in missing:
        by_reason.setdefault(one.reason, []).append(f"{one.dataset} {one.regime} on {one.base}")
    return [f"{', '.join(dict.fromkeys(what))}: {reason}" for reason, what in by_reason.items()]
