"""compare: a challenger and the champion of a registered model, freshly on the same rows of the gate split."""

import logging
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beft.adaptation import labelled
from beft.adapter import Adapter
from beft.datasets import Rows, load_split
from beft.errors import InputError
from beft.evaluation import Method, evaluate_methods
from beft.features import Floats, predict_probabilities
from beft.files import read_json, write_json
from beft.metrics import score
from beft.opened import Opened, open_classifier
from beft.promotion import Side, SliceGain, flip_rate, perturb, row_slices, slice_gain
from tasks.package import SEEN
from tasks.settings import PipelineSettings
from tasks.step import CLASSIFIER_SECTIONS, JSON, Step

log = logging.getLogger("tasks")

SIDES = ("challenger", "champion")
_TIMED_ROWS = 200
_REPETITIONS = 3


@dataclass(frozen=True)
class _Version:
    """One of the two, as the registry gave it: its adapter, and the ids of the rows that it was trained on."""

    name: str
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
    opened = open_classifier(settings, inputs["prepare"], dataset)
    versions = [_version(side, inputs[side]) for side in SIDES if side in inputs]
    gate = load_split(inputs["prepare"], "gate")
    seen = frozenset().union(*(version.seen for version in versions))
    kept = [at for at, name in enumerate(gate.ids) if _text_of(name) not in seen]
    if not kept:
        raise InputError(f"every gate row of {dataset} was trained on by one of the versions: bring fresh rows")
    gate = _rows(gate, kept)
    truth, labels = np.array(gate.labels, dtype=np.int64), len(opened.classifier.labels)
    log.info("compare: %d gate rows, %s", len(gate), " and ".join(version.name for version in versions))

    probabilities = {version.name: _predict(opened, version.adapter, gate) for version in versions}
    predicted = {name: found.argmax(-1) for name, found in probabilities.items()}
    seconds = _seconds_a_row(opened, versions, gate)
    sides = {
        version.name: Side(
            name=version.name,
            score=score(opened.metric, truth, predicted[version.name], labels),
            flips=_flips(opened, version, gate, predicted[version.name], settings),
            seconds_a_row=seconds[version.name],
            adapter_bytes=version.bytes,
        )
        for version in versions
    }
    commonest = np.full_like(truth, np.bincount(truth).argmax())
    gain, slices = None, []
    if len(versions) == len(SIDES):
        judged = settings.evaluate.model_copy(update={"confidence": settings.promotion.confidence})
        found = evaluate_methods(
            {name: Method({"gate": of}) for name, of in probabilities.items()},
            {"gate": gate.labels},
            target="challenger",
            baselines=["champion"],
            metrics=[opened.metric],
            settings=judged,
            seed=settings.seed,
        )
        gain = found.splits["gate"].gains["champion"][opened.metric]
        right = {name: of == truth for name, of in predicted.items()}
        slices = _slice_gains(opened, gate, right, settings)
    write_json(
        out / "comparison.json",
        {
            "metric": opened.metric,
            "rows": len(gate),
            "seen_before": len(load_split(inputs["prepare"], "gate")) - len(gate),
            "floor": score(opened.metric, truth, commonest, labels),
            "sides": {name: asdict(side) for name, side in sides.items()},
            "gain": gain.model_dump(mode="json") if gain else None,
            "slices": [asdict(one) for one in slices],
        },
    )
    return {"rows": len(gate), "scores": {name: side.score for name, side in sides.items()}}


def _version(name: str, folder: Path) -> _Version:
    adapter = folder / "artifacts" / "adapter"
    if not adapter.is_dir() or not (folder / SEEN).is_file():
        raise InputError(f"the {name} was not registered by this version of beft: register it again with 'beft run'")
    size = sum(path.stat().st_size for path in adapter.iterdir())
    return _Version(name, Adapter.load(adapter), size, frozenset(read_json(folder / SEEN)))


def _text_of(row_id: str) -> str:
    """What the ids of all copies of a text begin with."""
    return row_id.split("-", 1)[0]


def _rows(rows: Rows, kept: list[int]) -> Rows:
    return replace(
        rows,
        ids=[rows.ids[at] for at in kept],
        texts=[rows.texts[at] for at in kept],
        pairs=None if rows.pairs is None else [rows.pairs[at] for at in kept],
        labels=[rows.labels[at] for at in kept],
    )


def _predict(opened: Opened, adapter: Adapter, rows: Rows) -> Floats:
    encoded = labelled(opened.classifier, rows, adapter.max_length).encoded
    with adapter.attached(opened.classifier):
        found = predict_probabilities(opened.classifier, encoded, batch_size=opened.settings.evaluate.batch_size)
    return found.double().numpy()


def _seconds_a_row(opened: Opened, versions: list[_Version], gate: Rows) -> dict[str, float]:
    """The median time of a row, both sides in turns; the tokenizer is the same and is not timed."""
    some = _rows(gate, list(range(min(len(gate), _TIMED_ROWS))))
    taken: dict[str, list[float]] = {version.name: [] for version in versions}
    for _ in range(_REPETITIONS):
        for version in versions:
            encoded = labelled(opened.classifier, some, version.adapter.max_length).encoded
            with version.adapter.attached(opened.classifier):
                began = time.perf_counter()
                predict_probabilities(opened.classifier, encoded, batch_size=opened.settings.evaluate.batch_size)
                taken[version.name].append(time.perf_counter() - began)
    return {name: statistics.median(of) / len(some) for name, of in taken.items()}


def _flips(
    opened: Opened, version: _Version, gate: Rows, before: NDArray[np.int64], settings: PipelineSettings
) -> dict[str, float]:
    """How many answers change with each perturbation of the first text; only texts that change are computed again."""
    rates: dict[str, float] = {}
    for name in settings.promotion.flips:
        texts, changed = perturb(name, gate.texts)
        after = before.copy()
        if changed.any():
            moved = _rows(replace(gate, texts=texts), np.flatnonzero(changed).tolist())
            after[changed] = _predict(opened, version.adapter, moved).argmax(-1)
        rates[name] = flip_rate(before, after, changed)
    return rates


def _slice_gains(
    opened: Opened, gate: Rows, right: Mapping[str, NDArray[np.bool_]], settings: PipelineSettings
) -> list[SliceGain]:
    lengths = labelled(opened.classifier, gate, opened.max_length).encoded.lengths
    names = [opened.classifier.labels[label] for label in gate.labels]
    slices = row_slices(settings.promotion.slices, lengths=lengths, labels=names, columns={})
    return [
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


compare_step = Step(
    compare,
    reads=("prepare", "challenger", "champion"),
    sections=(*CLASSIFIER_SECTIONS, "evaluate", "promotion"),
    computes=True,
    own_process=True,
    tags=("gpu",),
)
