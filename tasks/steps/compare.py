"""compare: a challenger and the champion of a registered model, freshly on the same rows of the gate split."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from beft.adapters.adapter import Adapter
from beft.adapters.checks import check_inputs
from beft.commands import own_command
from beft.datasets.prepared import PreparedData, Rows, load_split
from beft.encoding.examples import Predictions
from beft.errors import InputError
from beft.evaluation.promotion.behaviour import flip_rate, perturb
from beft.evaluation.promotion.slices import row_slices, too_many_labels
from beft.evaluation.promotion.verdict import Side, SliceGain, slice_gain
from beft.evaluation.records import NO_GATE
from beft.evaluation.scores import Method, evaluate_methods
from beft.files import read_json, write_json
from beft.metrics.registry import known_metric, score_predictions
from beft.metrics.truth import Truth
from beft.training.session import Session, open_session
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.registry.package import TRAINING_ROWS_FILE
from tasks.settings import PipelineSettings

log = logging.getLogger("tasks")

SIDES = ("challenger", "champion")
_TIMED_ROWS = 200
_REPETITIONS = 3


@dataclass(frozen=True)
class _Version:
    """One of the two, as the registry gave it: its adapter, and the ids of the rows that it was trained on.

    Attributes:
        session: The base as the adapter was trained over it: quantised in the same way.
    """

    name: str
    session: Session
    adapter: Adapter
    bytes: int
    seen: frozenset[str]


def compare(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write what the verdict on a challenger is made of.

    Args:
        inputs: ``prepare``, ``challenger`` and, where there is one, ``champion``: folders of MLflow models.

    Raises:
        InputError: A version holds no adapter of this base, or no row of the gate split is new to both.
    """
    assert dataset is not None
    session = open_session(settings, PreparedData.from_folder(inputs["prepare"]))
    open_as = _opener(session)
    versions = [_version(side, inputs[side], open_as) for side in SIDES if side in inputs]
    whole = load_split(inputs["prepare"], "gate")
    if not len(whole):
        raise InputError(
            f"{dataset}: nothing can be decided: {NO_GATE}; set it to 20 or more and run again: "
            f"{own_command('beft', 'run')}"
        )
    for version in versions:
        _check_rows(version, whole, dataset)
    seen = frozenset().union(*(version.seen for version in versions))
    gate = whole.select([at for at, name in enumerate(whole.ids) if _text_of(name) not in seen])
    if not len(gate):
        raise InputError(f"every gate row of {dataset} was trained on by one of the versions: bring fresh rows")
    truth = session.classifier.examples(gate, session.max_length).truth
    log.info("compare: %d gate rows, %s", len(gate), " and ".join(version.name for version in versions))

    predictions = {version.name: _predict(version, gate) for version in versions}
    seconds = _seconds_a_row(versions, gate)
    sides = {
        version.name: Side(
            name=version.name,
            score=score_predictions(session.metric, predictions[version.name], truth),
            flips=_flips(version, gate, predictions[version.name], settings),
            seconds_a_row=seconds[version.name],
            adapter_bytes=version.bytes,
        )
        for version in versions
    }
    gain, left_out = None, 0
    slices: list[SliceGain] = []
    if len(versions) == len(SIDES):
        judged = settings.evaluate.model_copy(update={"confidence": settings.promotion.confidence})
        found = evaluate_methods(
            {name: Method({"gate": of}) for name, of in predictions.items()},
            {"gate": truth},
            target="challenger",
            baselines=["champion"],
            metrics=[session.metric],
            settings=judged,
            seed=settings.seed,
        )
        gain = found.splits["gate"].gains["champion"][session.metric]
        slices, left_out = _slice_gains(session, gate, predictions, settings)
    write_json(
        out / "comparison.json",
        {
            "metric": session.metric,
            "rows": len(gate),
            "seen_before": len(whole) - len(gate),
            "floor": _floor(session, truth),
            "sides": {name: asdict(side) for name, side in sides.items()},
            "gain": gain.model_dump(mode="json") if gain else None,
            "slices": [asdict(one) for one in slices],
            "labels_left_out": left_out,
        },
    )
    return {"rows": len(gate), "scores": {name: side.score for name, side in sides.items()}}


def _floor(session: Session, truth: Truth) -> float:
    """What always answering the commonest label scores; where there are no labels, the metric's zero."""
    if known_metric(session.metric).takes != "labels" or truth.labels is None:
        return 0.0
    labels = np.asarray(truth.labels, dtype=np.int64)
    width = max(len(session.classifier.labels), int(labels.max()) + 1)
    return score_predictions(session.metric, np.eye(width)[np.full_like(labels, np.bincount(labels).argmax())], truth)


def _check_rows(version: _Version, gate: Rows, dataset: str) -> None:
    """Check that a version was trained on rows of this kind; a dataset may have been described anew since."""
    try:
        check_inputs(version.adapter, pairs=gate.pairs is not None, choices=gate.choices is not None)
    except InputError as error:
        raise InputError(f"the {version.name} does not fit the gate rows of {dataset}: {error}") from None


def _opener(session: Session) -> Callable[[Adapter], Session]:
    """Opens the base as an adapter was trained over it, each way once; ``session`` is the way of the settings."""
    settings = session.settings
    known = {settings.base.quantization: session}

    def open_as(adapter: Adapter) -> Session:
        wanted = adapter.quantization or settings.base.quantization
        if wanted not in known:
            base = settings.base.model_copy(update={"quantization": wanted})
            changed = settings.model_copy(update={"base": base})
            known[wanted] = open_session(changed, session.data)
        return known[wanted]

    return open_as


def _version(name: str, folder: Path, open_as: Callable[[Adapter], Session]) -> _Version:
    adapter = folder / "artifacts" / "adapter"
    if not adapter.is_dir() or not (folder / TRAINING_ROWS_FILE).is_file():
        again = own_command("beft", "run")
        raise InputError(f"the {name} was not registered by this version of beft: register it again with {again}")
    size = sum(path.stat().st_size for path in adapter.iterdir())
    loaded = Adapter.load(adapter)
    return _Version(name, open_as(loaded), loaded, size, frozenset(read_json(folder / TRAINING_ROWS_FILE)))


def _text_of(row_id: str) -> str:
    """What the ids of all copies of a text begin with."""
    return row_id.split("-", 1)[0]


def _predict(version: _Version, rows: Rows) -> Predictions:
    examples = version.session.classifier.examples(rows, version.adapter.max_length)
    with version.adapter.attached(version.session.classifier):
        return version.session.predictions(examples)


def _seconds_a_row(versions: list[_Version], gate: Rows) -> dict[str, float]:
    """The median time of a row, both sides in turns; the tokenizer is the same and is not timed."""
    some = gate.select(range(min(len(gate), _TIMED_ROWS)))
    taken: dict[str, list[float]] = {version.name: [] for version in versions}
    for _ in range(_REPETITIONS):
        for version in versions:
            examples = version.session.classifier.examples(some, version.adapter.max_length)
            with version.adapter.attached(version.session.classifier):
                began = time.perf_counter()
                version.session.predictions(examples)
                taken[version.name].append(time.perf_counter() - began)
    return {name: statistics.median(of) / len(some) for name, of in taken.items()}


def _flips(version: _Version, gate: Rows, before: Predictions, settings: PipelineSettings) -> dict[str, float]:
    """How many answers change with each perturbation of the first text; only texts that change are computed again."""
    rates: dict[str, float] = {}
    for name in settings.promotion.flips:
        texts, changed = perturb(name, gate.texts)
        places = np.flatnonzero(changed).tolist()
        rates[name] = 0.0
        if places:
            after = _predict(version, replace(gate, texts=texts).select(places))
            old = [before[at] for at in places] if isinstance(before, list) else before[places]
            rates[name] = flip_rate(old, after, changed[places])
    return rates


def _slice_gains(
    session: Session, gate: Rows, predictions: Mapping[str, Predictions], settings: PipelineSettings
) -> tuple[list[SliceGain], int]:
    """The right answers on every slice; values and texts are right or wrong by degrees, and are not sliced.

    Also how many labels there are, where they are asked for as slices and are too many.
    """
    if any(isinstance(found, list) or found.ndim != 2 for found in predictions.values()):
        return [], 0
    right = {name: np.asarray(found).argmax(-1) == gate.labels for name, found in predictions.items()}
    labels = session.classifier.labels
    columns = {**({"group": gate.groups} if gate.groups else {}), **gate.kept}
    names = [labels[int(label)] if labels else str(label) for label in gate.labels]
    left_out = too_many_labels(names) if "label" in settings.promotion.slices else 0
    slices = row_slices(
        # A column that only other datasets of the settings have is none of this one.
        [name for name in settings.promotion.slices if name in ("length", "label", *columns)],
        lengths=session.classifier.examples(gate, session.max_length).lengths,
        labels=names,
        columns=columns,
    )
    gains = [
        slice_gain(
            name,
            right["challenger"][rows],
            right["champion"][rows],
            confidence=settings.promotion.confidence,
            resamples=settings.evaluate.resamples,
            generator=np.random.default_rng([settings.seed, *name.encode()]),
        )
        for name, rows in slices.items()
    ]
    return gains, left_out


compare_step = Step(
    compare,
    reads=("prepare", "challenger", "champion"),
    settings=(*CLASSIFIER_SECTIONS, "evaluate", "promotion"),
    computes=True,
    isolated=True,
    tags=("gpu",),
)
