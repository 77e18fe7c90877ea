"""How cost grows: the points of each series, one tiny point in its process, and what is written."""

import json
from dataclasses import replace
from pathlib import Path

from beft.models.device import Compute
from benchmarks.common import machine
from benchmarks.speed.growth import LAYERS, RUNS, TOKENS, WIDTHS, measure, series, write
from benchmarks.speed.growth_point import Cost, Point

TINY = Point(runs=2, tokens=8, layers=1, width=64, batch_size=2, seconds=0.01)


def test_one_thing_grows_at_a_time() -> None:
    points = series(Point(), RUNS, TOKENS, LAYERS, WIDTHS)
    assert [point.runs for point in points["runs"]] == [1, 2, 4, 8, 12, 24]
    assert [point.tokens for point in points["tokens"]] == [16, 32, 64, 128, 256]
    assert len(set(points["layers"])) == len(LAYERS) * len(WIDTHS)
    assert all(Point() in of_series for of_series in points.values()), "the point where they meet is measured once"


def test_a_point_is_measured_in_its_own_process() -> None:
    [(point, cost)] = measure([TINY, TINY]).items()
    assert point == TINY
    assert cost.seconds > 0 and cost.estimated_seconds > 0 and cost.estimated_bytes > 0 and cost.steps >= 1


def test_what_is_written(tmp_path: Path) -> None:
    points = series(TINY, [1, 2], [8, 16], [1, 2], [64, 128])
    costs = {
        point: Cost(0.1 * point.runs * point.layers, 3_000_000, 0.2, 2_000_000, 3)
        for of_series in points.values()
        for point in of_series
    }
    described = machine.describe(Compute("cpu", "fp32", 1))
    write(points, costs, described, tmp_path)
    written = json.loads((tmp_path / "growth.json").read_text())
    assert [point["cost"]["seconds"] for point in written["series"]["runs"]] == [0.1, 0.2]
    assert "| 2 | 8 | 1 | 64 | 0.200 | 0.200 | 20 | 3 | 2 |" in (tmp_path / "growth.md").read_text()
    picture = (tmp_path / "growth.png").read_bytes()
    write(points, {point: replace(cost) for point, cost in costs.items()}, described, tmp_path)
    assert picture == (tmp_path / "growth.png").read_bytes()
