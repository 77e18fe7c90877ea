"""How the cost of training grows with the runs of a pass, the tokens of a row and the size of the model: `make growth`.

Each point is a BERT of random weights that trains the value biases and the head for a few steps, in a process of its
own; beside what was measured stands what ``estimate`` says before a training. Writes benchmarks/speed/growth.json,
.md and .png.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from beft.files import write_json, write_text
from beft.models.device import resolve_compute
from beft.settings import BaseSettings
from benchmarks.common import machine
from benchmarks.common.prepared import ROOT
from benchmarks.speed.growth_picture import draw_growth
from benchmarks.speed.growth_point import Cost, Point

HERE = Path(__file__).parent
RUNS = (1, 2, 4, 8, 12, 24)
TOKENS = (16, 32, 64, 128, 256)
LAYERS = (2, 4, 6, 12)
WIDTHS = (128, 256, 384, 768)
log = logging.getLogger("beft.growth")


def series(
    base: Point, runs: Sequence[int], tokens: Sequence[int], layers: Sequence[int], widths: Sequence[int]
) -> dict[str, list[Point]]:
    """The points by what grows; the others of a point's sizes are those of ``base``."""
    return {
        "runs": [replace(base, runs=one) for one in runs],
        "tokens": [replace(base, tokens=one) for one in tokens],
        "layers": [replace(base, layers=deep, width=wide) for wide in widths for deep in layers],
    }


def measure(points: Sequence[Point]) -> dict[Point, Cost]:
    """Measure every point once, each in a process of its own."""
    found: dict[Point, Cost] = {}
    for point in dict.fromkeys(points):
        command = [sys.executable, "-m", "benchmarks.speed.growth_point", json.dumps(asdict(point))]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        cost = found[point] = Cost(**json.loads(done.stdout.splitlines()[-1]))
        log.info("%s: %s", sizes(point), cost)
    return found


def sizes(point: Point) -> str:
    """A point in words."""
    runs = f"{point.runs} {'run' if point.runs == 1 else 'runs'}"
    return f"{runs}, {point.tokens} tokens, {point.layers} layers of {point.width}"


def write(
    points: Mapping[str, Sequence[Point]], costs: Mapping[Point, Cost], described: Mapping[str, Any], out: Path
) -> None:
    """The JSON, the table and the picture."""
    write_json(
        out / "growth.json",
        {
            "command": "make growth",
            "machine": described,
            "series": {
                name: [{**asdict(point), "cost": asdict(costs[point])} for point in of_series]
                for name, of_series in points.items()
            },
        },
    )
    draw_growth(points, costs, out / "growth.png")
    base = points["runs"][0]
    lines = [
        "# How the cost of training grows",
        "",
        f"`make growth`, {described['date']}; {described['cpu']}, {described['threads']} threads, "
        f"{described['precision']}; torch {described['torch']}. BERT shapes of random weights; value biases and head; "
        f"batches of {base.batch_size} rows a run, all rows equally long, dropout off. A step is one of all runs; "
        "memory is the greatest resident size above the loaded base, each point in a process of its own. Beside each "
        "stands what `beft.training.engine.cost` and `timing` say before the training: of the memory, only the "
        "activations that are kept.",
        "",
        "![Seconds and memory of a step by runs, tokens and layers](growth.png)",
    ]
    for title, name in (
        ("Runs in one pass", "runs"),
        ("Tokens of a row", "tokens"),
        ("Layers and width of the model", "layers"),
    ):
        lines += [
            "",
            f"## {title}",
            "",
            "| runs | tokens | layers | width | seconds a step | estimate | rows/s | memory, MB | estimate, MB |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for point in points[name]:
            cost = costs[point]
            rate = point.runs * point.batch_size / cost.seconds
            lines.append(
                f"| {point.runs} | {point.tokens} | {point.layers} | {point.width} | {cost.seconds:.3f} "
                f"| {cost.estimated_seconds:.3f} | {rate:.0f} | {cost.bytes / 1e6:.0f} "
                f"| {cost.estimated_bytes / 1e6:.0f} |"
            )
    write_text(out / "growth.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


def main() -> None:
    """Measure every point, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, values in (("runs", RUNS), ("tokens", TOKENS), ("layers", LAYERS), ("widths", WIDTHS)):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values)
    parser.add_argument("--seconds", type=float, default=Point.seconds, help="about how long to measure a point")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder to write into")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    base = Point(seconds=arguments.seconds)
    points = series(base, arguments.runs, arguments.tokens, arguments.layers, arguments.widths)
    costs = measure([point for of_series in points.values() for point in of_series])
    write(points, costs, machine.describe(resolve_compute(BaseSettings(device="cpu"))), arguments.out)


if __name__ == "__main__":
    main()
