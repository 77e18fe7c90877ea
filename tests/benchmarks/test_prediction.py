"""The program that measures prediction, on a tiny base."""

from benchmarks.speed.prediction import PRODUCTS, measure, table
from tests.support.rows import random_rows, tiny_classifier


def test_every_way_is_measured_and_stands_in_the_table() -> None:
    found = measure(tiny_classifier(), random_rows(20).encoded, repetitions=2)
    assert all(0 < one["low"] <= one["rate"] <= one["high"] for one in found.values())
    assert found[PRODUCTS]["share"] == 1
    about = {
        **dict.fromkeys(("date", "cpu", "threads", "precision", "torch", "base", "repetitions"), "x"),
        "rows": {"random": 20},
        "tokens": {"random": 9.0},
        "batch_tokens": 2048,
    }
    text = table(about, {"random": found}, {"random": {"matrix products": 0.7, "GELU": 0.3}})
    assert "matrix products 70 %, GELU 30 %" in text
    assert all(f"| {name} | {one['rate']:.1f} " in text for name, one in found.items())
