"""Ways of training with few labels, over many draws: `make few-labels`.

The same draws and test rows for all. Writes benchmarks/few_labels/results.json after each draw, and README.md; a draw
that is there already is not computed again. Settings of the peers are searched once a cell on a draw of its own,
without test rows. ``--tune N`` draws others, predicts rows of train and writes nothing.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from threadpoolctl import threadpool_limits

from beft.errors import BeftError
from beft.models.device import resolve_compute, set_threads
from beft.settings import BaseSettings
from benchmarks.common import machine
from benchmarks.few_labels.cells import CELLS, DATASETS, select_cells
from benchmarks.few_labels.methods import METHODS
from benchmarks.few_labels.peers import PEERS
from benchmarks.few_labels.pools import open_pool
from benchmarks.few_labels.store import Store
from benchmarks.few_labels.study import Study, estimated_minutes
from benchmarks.few_labels.table import table

HERE = Path(__file__).parent
log = logging.getLogger("beft.bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS)
    parser.add_argument("--rows", nargs="+", type=int, choices=sorted({cell.rows for cell in CELLS}), help="a label")
    parser.add_argument("--draws", type=int, help="at most so many of each cell")
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *PEERS], choices=[*METHODS, *PEERS])
    parser.add_argument("--threads", type=int, default=BaseSettings().threads, help="CPU threads")
    parser.add_argument("--busy", action="store_true", help="other work runs on this machine: keep no seconds")
    parser.add_argument("--tune", type=int, help="number of the first draw; nothing is written")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    cells = select_cells(options.datasets, options.rows, options.draws)
    if not cells:
        parser.error("no cell has these data sets and rows")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    base, tune = BaseSettings(threads=options.threads), options.tune is not None
    compute = resolve_compute(base)
    set_threads(compute)
    store = Store(None if tune else options.out, machine.describe(compute))
    study = Study(tuple(options.methods), base, store, options.tune or 0, tune, timed=not options.busy)
    with threadpool_limits(options.threads), ExitStack() as stack:
        pools = {name: stack.enter_context(open_pool(name)) for name in {cell.dataset: None for cell in cells}}
        log.info("The peers take about %.0f minutes on one core.", estimated_minutes(study, cells, pools))
        for cell in cells:
            study.measure_cell(cell, pools[cell.dataset])
    if tune:
        log.info("%s", table(store.read()))


if __name__ == "__main__":
    try:
        main()
    except BeftError as error:
        sys.exit(str(error))
