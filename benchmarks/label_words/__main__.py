"""Do label words at a mask token help with few labels? `make label-words`.

Makes a base that has its masked-language-model head (most of the hour), kept in the folder of ``--base``; one that was
made there is used again. Then measures each draw that results.json lacks, and writes it and README.md after each.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from threadpoolctl import threadpool_limits

from beft.datasets.prepared import load_split
from beft.files import read_json, write_json, write_text
from beft.models.device import resolve_compute, set_threads
from beft.settings import BaseSettings, SplitSettings
from beft.training.sample import joined
from benchmarks.common import machine
from benchmarks.common.prepared import ROOT, prepared_data
from benchmarks.few_labels.pools import open_pool
from benchmarks.label_words.mask_base import make_mask_base
from benchmarks.label_words.study import DRAWS, LABEL_WORDS, ROWS, measure_draw
from benchmarks.label_words.table import table

HERE = Path(__file__).parent
REVIEWS = 20_000
log = logging.getLogger("beft.bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the base where it is missing, measure what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=ROOT / "models" / "minilm-mask", help="folder of the base")
    parser.add_argument("--threads", type=int, default=BaseSettings().threads, help="CPU threads")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    base = BaseSettings(source=str(options.base), threads=options.threads)
    compute = resolve_compute(base)
    set_threads(compute)
    path, made = options.out / "results.json", options.base / "made.json"
    results = read_json(path) if path.is_file() else {"cells": {}}
    with threadpool_limits(options.threads):
        if not made.is_file():
            with prepared_data("imdb", REVIEWS, SplitSettings(test_rows=20, gate_rows=20)) as prepared:
                texts = joined(load_split(prepared, "train"), load_split(prepared, "dev")).texts
            write_json(made, {"texts": len(texts), "loss": make_mask_base(texts, options.base)})
        of_base = read_json(made)
        if results.get("base", of_base) != of_base:
            log.info("%s holds draws of another base: they are measured again", path)
            results = {"cells": {}}
        results["base"] = of_base
        results["about"] = machine.with_earlier(machine.describe(compute), results.get("about", {}))
        for dataset in LABEL_WORDS:
            with open_pool(dataset) as pool:
                for rows in ROWS:
                    draws = results["cells"].setdefault(f"{dataset}/{rows}", {})
                    for number in range(DRAWS):
                        if str(number) not in draws:
                            draws[str(number)] = measure_draw(base, pool, rows, number)
                            log.info("%s/%d, draw %d: %s", dataset, rows, number, draws[str(number)])
                            write_json(path, results)
                            write_text(options.out / "README.md", table(results))


if __name__ == "__main__":
    main()
