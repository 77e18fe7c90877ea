"""Ways of training with few labels, over many draws: `make few-labels`.

The same draws and test rows for all. Writes benchmarks/few_labels/results.json after each draw, and README.md; a draw
that is there already is not computed again. Without test rows: ``--tune N`` draws others and predicts rows of train.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beft.encoding.examples import LabelledRows
from beft.files import read_json, write_json, write_text
from beft.models.base import load_classifier, resolve_base
from beft.models.device import resolve_compute
from beft.settings import BaseSettings
from benchmarks.common import machine
from benchmarks.few_labels.methods import MAX_LENGTH, METHODS
from benchmarks.few_labels.pools import POOLS, Pool, open_pool
from benchmarks.few_labels.table import table

HERE = Path(__file__).parent
log = logging.getLogger("beft.bench")


def measure_draw(pool: Pool, rows_of_label: int, number: int, methods: Sequence[str], *, tune: bool) -> dict[str, Any]:
    """Accuracy on test and seconds of each method on one draw.

    Args:
        tune: Predict other rows of train in place of the test rows.
    """
    base = BaseSettings()
    classifier = load_classifier(
        resolve_base(base.source), pool.labels, compute=resolve_compute(base), pooling="auto", seed=number
    )
    classifier.threads = base.threads
    drawn = pool.draw(rows_of_label, number)
    test: LabelledRows = classifier.examples(pool.without(drawn, 1000) if tune else pool.test, MAX_LENGTH)
    found: dict[str, Any] = {}
    for name in methods:
        began = time.perf_counter()
        outputs = METHODS[name](classifier, drawn, test, number)
        right = outputs.argmax(-1).numpy() == test.labels
        found[name] = {"accuracy": float(right.mean()), "seconds": round(time.perf_counter() - began, 2)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=list(POOLS), choices=POOLS)
    parser.add_argument("--rows", nargs="+", type=int, default=[8, 16, 64], help="rows a label")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tune", type=int, help="number of the first draw; nothing is written")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = options.out / "results.json"
    tune = options.tune is not None
    results: dict[str, Any] = read_json(path) if path.is_file() and not tune else {"cells": {}}
    results["about"] = machine.describe(resolve_compute(BaseSettings()))
    for name in options.datasets:
        with open_pool(name) as pool:
            for rows in options.rows:
                cell = results["cells"].setdefault(f"{name}/{rows}", {"test_rows": len(pool.test), "draws": {}})
                for number in range(options.tune or 0, (options.tune or 0) + options.draws):
                    draw = cell["draws"].setdefault(str(number), {})
                    missing = [method for method in options.methods if method not in draw]
                    draw |= measure_draw(pool, rows, number, missing, tune=tune) if missing else {}
                    log.info("%s, %d rows a label, draw %d: %s", name, rows, number, _brief(draw))
                    if not tune:
                        write_json(path, results)
                        write_text(options.out / "README.md", table(results))
    if tune:
        log.info("%s", table(results))


def _brief(draw: dict[str, Any]) -> str:
    return ", ".join(f"{name} {100 * one['accuracy']:.1f} ({one['seconds']:.0f} s)" for name, one in draw.items())


if __name__ == "__main__":
    main()
