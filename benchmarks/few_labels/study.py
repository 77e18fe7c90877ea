"""Measuring the cells of the study: beft's methods in this process, the peers in their program."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beft.datasets.prepared import Rows
from beft.encoding.examples import LabelledRows
from beft.models.base import load_classifier
from beft.models.device import Compute, resolve_compute
from beft.models.reference import resolve_base
from beft.settings import BaseSettings
from benchmarks.few_labels.cells import Cell
from benchmarks.few_labels.methods import MAX_LENGTH, METHODS
from benchmarks.few_labels.peers import (
    PEERS,
    SEARCH_DRAW,
    Training,
    estimated_seconds,
    grid,
    run_trainings,
    search,
    setfit_settings,
)
from benchmarks.few_labels.pools import Pool
from benchmarks.few_labels.store import Store

SPARE_ROWS = 1000
"""Of train, which a draw lacks: what settings are chosen on."""

log = logging.getLogger("beft.bench")


@dataclass(frozen=True)
class Study:
    """What a call measures.

    Attributes:
        methods: beft's own and peers.
        first: The number of the first draw.
        tune: Predict other rows of train in place of the test rows.
        timed: Whether seconds are kept; False where other work runs on the machine.
    """

    methods: tuple[str, ...]
    base: BaseSettings
    store: Store
    first: int = 0
    tune: bool = False
    timed: bool = True

    def measure_cell(self, cell: Cell, pool: Pool) -> None:
        """Measure what is missing of a cell."""
        with self.store.cell(cell.name) as found:
            found["test_rows"], found["labels"] = len(pool.test), len(pool.labels)
        for peer in [name for name in self.methods if name in PEERS and name not in found["searched"]]:
            drawn = pool.draw(cell.rows, SEARCH_DRAW)
            others = pool.without(drawn, SPARE_ROWS)
            result = search(peer, cell, drawn, others, len(pool.labels), resolve_compute(self.base))
            with self.store.cell(cell.name) as found:
                found["searched"][peer] = result
            log.info("%s, %s: %s", cell.name, peer, result["settings"])
        for number in range(self.first, self.first + cell.draws):
            found = self.store.read()["cells"][cell.name]  # another process may have measured this draw
            known: Mapping[str, Any] = found["draws"].get(str(number), {})
            drawn = pool.draw(cell.rows, number)
            test = pool.without(drawn, SPARE_ROWS) if self.tune else pool.test
            own = [name for name in self.methods if name in METHODS and name not in known]
            self._record(cell, number, measure_own(pool, drawn, test, number, own, self.base))
            settings = {
                name: found["searched"][name]["settings"]
                for name in self.methods
                if name in PEERS and name not in known
            }
            compute = resolve_compute(self.base)
            measured = measure_peers(cell, pool, drawn, test, number, settings, known, compute)
            self._record(cell, number, measured)

    def _record(self, cell: Cell, number: int, measured: Mapping[str, Any]) -> None:
        if not self.timed:
            measured = {name: without_seconds(one) for name, one in measured.items()}
        if measured:
            with self.store.cell(cell.name) as found:
                draw = found["draws"].setdefault(str(number), {})
                draw.update({name: one for name, one in measured.items() if name not in draw})
            log.info("%s, draw %d: %s", cell.name, number, _brief(measured))


def without_seconds(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of a training, without its times."""
    return {name: figure for name, figure in measured.items() if not name.endswith("seconds")}


def measure_peers(
    cell: Cell,
    pool: Pool,
    drawn: Rows,
    test: Rows,
    number: int,
    settings: Mapping[str, dict[str, Any]],
    known: Mapping[str, Any],
    compute: Compute,
) -> dict[str, Any]:
    """The same of peers with their settings.

    Args:
        known: What is measured already on this draw. Tuned SetFit with the settings of SetFit as it comes is the same
            training with the same seed, and is not done twice.
    """
    trainings = {name: Training(name, of_peer) for name, of_peer in settings.items()}
    plain = setfit_settings(cell, len(pool.labels))
    shared = settings.get("setfit_tuned") == plain and ("setfit" in known or "setfit" in settings)
    if shared:
        del trainings["setfit_tuned"]
    found: dict[str, Any] = run_trainings(trainings, drawn, test, len(pool.labels), number, compute)
    return {**found, "setfit_tuned": {**known, **found}["setfit"]} if shared else found


def measure_own(
    pool: Pool, drawn: Rows, test: Rows, number: int, methods: Sequence[str], base: BaseSettings
) -> dict[str, Any]:
    """Accuracy on test rows, seconds of training and prediction, and numbers trained, of beft's own methods."""
    if not methods:
        return {}
    classifier = load_classifier(
        resolve_base(base.source), pool.labels, compute=resolve_compute(base), pooling="auto", seed=number
    )
    classifier.threads = base.threads
    rows: LabelledRows = classifier.examples(test, MAX_LENGTH)
    found: dict[str, Any] = {}
    for name in methods:
        began = time.perf_counter()
        trained = METHODS[name](classifier, drawn, number)
        then = time.perf_counter()
        right = trained.outputs(rows).argmax(-1).numpy() == rows.labels
        found[name] = {
            "accuracy": float(right.mean()),
            "seconds": round(then - began, 2),
            "prediction_seconds": round(time.perf_counter() - then, 2),
            "trained": trained.numbers,
            "threads": base.threads,
            **({"chosen": trained.chosen} if trained.chosen else {}),
        }
    return found


def estimated_minutes(study: Study, cells: Sequence[Cell], pools: Mapping[str, Pool]) -> float:
    """How long the peers' missing trainings take on one core, about."""
    known = study.store.read()["cells"]
    seconds = 0.0
    for cell in cells:
        labels = len(pools[cell.dataset].labels)
        texts = pools[cell.dataset].train.texts
        tokens = sum(map(len, texts)) / len(texts) / 4.5
        of_cell = known.get(cell.name, {"searched": {}, "draws": {}})
        for peer in [name for name in study.methods if name in PEERS]:
            tried = [estimated_seconds(one, cell, labels, tokens) for one in grid(peer, cell, labels)]
            if peer not in of_cell["searched"] and len(tried) > 1:
                seconds += sum(tried)
            numbers = range(study.first, study.first + cell.draws)
            missing = sum(peer not in of_cell["draws"].get(str(number), {}) for number in numbers)
            seconds += missing * sum(tried) / len(tried)
    return seconds / 60


def _brief(draw: Mapping[str, Any]) -> str:
    took = {name: f" ({one['seconds']:.0f} s)" if "seconds" in one else "" for name, one in draw.items()}
    return ", ".join(f"{name} {100 * one['accuracy']:.1f}{took[name]}" for name, one in draw.items())
