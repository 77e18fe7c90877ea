"""The table of the engine's measurement."""

from pathlib import Path

from beft.files import read_json
from benchmarks.common.timing import Comparison
from benchmarks.speed import engine

FOLDER = Path(engine.__file__).parent
RESULTS = read_json(FOLDER / "engine.json")
FOUND = [Comparison(**one) for one in RESULTS["comparisons"]]


def test_the_committed_table_is_that_of_the_results() -> None:
    rows = RESULTS["machine"]["rows"]
    about = RESULTS["machine"] | {"rows": {name: rows[name] for name in ("rotten_tomatoes", "sst2", "rte")}}
    text = engine.table(FOUND, about, RESULTS["memory_above_the_base_mb"])
    assert text == (FOLDER / "engine.md").read_text(encoding="utf-8")


def test_products_are_compared_with_a_large_one_of_their_own_precision() -> None:
    """In bf16 more than the peak in fp32 is reached, which bounds nothing."""
    about = RESULTS["machine"]
    assert about["precision"] == "bf16" and "times the published protocol" not in engine.products_line(FOUND, about)
    [still] = [one for one in FOUND if "published" in one.title and "without dropout: rotten" in one.title]
    line = engine.products_line(FOUND, about | {"engine_gemm_gflops": 2 * about["gemm_gflops"]})
    operations = 4 * about["computed_parameters"] * about["tokens_a_row"] / 1e9
    rate = 2 * about["gemm_gflops"] / operations
    assert rate > still.examples / still.ours
    assert f"beft would do {rate:.0f} examples/s, {rate * still.theirs / still.examples:.1f} times" in line
