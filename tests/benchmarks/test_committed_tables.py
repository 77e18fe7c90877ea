"""The committed tables are those that the committed results give, so that neither says what the other does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beft.files import read_json
from benchmarks.common.prepared import ROOT
from benchmarks.few_labels.table import table as few_labels
from benchmarks.label_words.table import table as label_words
from benchmarks.quality import agreement
from benchmarks.quality.learning_rates_table import table as learning_rates
from benchmarks.speed import first_version, growth
from benchmarks.speed.gpu_table import write_table as write_gpu
from benchmarks.speed.growth_point import Cost, Point

FOLDER = ROOT / "benchmarks"


def committed(name: str) -> Any:
    return read_json(FOLDER / name)


@pytest.mark.parametrize(
    ("folder", "results", "page", "table"),
    [
        ("few_labels", "results.json", "README.md", few_labels),
        ("label_words", "results.json", "README.md", label_words),
        ("quality", "learning_rates.json", "learning_rates.md", learning_rates),
        ("speed", "first_version.json", "first_version.md", lambda of: first_version.table(of["about"], of["found"])),
    ],
)
def test_of_a_page_that_one_function_makes(folder: str, results: str, page: str, table: Callable[[Any], str]) -> None:
    assert table(committed(f"{folder}/{results}")) == (FOLDER / folder / page).read_text(encoding="utf-8")


def test_of_the_agreement_with_a_plain_loop(tmp_path: Path) -> None:
    results = committed("quality/agreement.json")
    agreement.write(results["datasets"], results["skipped"], results["machine"], tmp_path)
    for name in ("agreement.md", "agreement.json"):
        assert (tmp_path / name).read_text() == (FOLDER / "quality" / name).read_text(encoding="utf-8")


def test_of_the_gpu(tmp_path: Path) -> None:
    write_gpu(committed("speed/gpu.json"), tmp_path)
    assert (tmp_path / "gpu.md").read_text() == (FOLDER / "speed/gpu.md").read_text(encoding="utf-8")


def test_of_growth(tmp_path: Path) -> None:
    results = committed("speed/growth.json")
    costs: dict[Point, Cost] = {}
    points: dict[str, list[Point]] = {}
    for name, of_series in results["series"].items():
        for one in of_series:
            cost = Cost(**one.pop("cost"))
            points.setdefault(name, []).append(Point(**one))
            costs[points[name][-1]] = cost
    growth.write(points, costs, results["machine"], tmp_path)
    assert (tmp_path / "growth.md").read_text() == (FOLDER / "speed/growth.md").read_text(encoding="utf-8")
