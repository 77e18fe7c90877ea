"""The headline metric of a classification whose description names none: by the rows of its rarest label."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.datasets.description import Description
from beft.datasets.headline import usual_headline
from beft.datasets.prepared import load_summary
from tests.beft.datasets.small import describe, prepared, texts

THREE = {"labels": ["bad", "good", "odd"]}


def moods(odd: int) -> list[dict[str, Any]]:
    """200 rows, of which so many are odd."""
    return [row | ({"mood": "odd"} if number < odd else {}) for number, row in enumerate(texts(200))]


@pytest.mark.parametrize(
    ("counts", "metric"),
    [({"a": 95, "b": 5}, "accuracy"), ({"a": 96, "b": 4}, "macro_f1"), ({"a": 0.99, "b": 0.01}, "macro_f1")],
)
def test_a_label_under_five_percent_makes_it_macro_f1(counts: dict[str, float], metric: str) -> None:
    found, why = usual_headline(counts)
    assert found == metric
    assert (why is None) == (metric == "accuracy")


@pytest.mark.parametrize(("odd", "metric"), [(9, "macro_f1"), (10, "accuracy")])
def test_the_rows_decide_where_the_description_names_none(odd: int, metric: str, tmp_path: Path) -> None:
    facts = load_summary(prepared(tmp_path, moods(odd), **THREE))
    assert (facts["metric"], facts["metrics"]) == (metric, [metric])
    why = "macro_f1, for the label 'odd' has 4.5 % of the rows, which accuracy would hardly show"
    assert facts.get("headline") == (why if metric == "macro_f1" else None)


@pytest.mark.parametrize("named", [{"metric": "accuracy"}, {"metrics": ["accuracy", "macro_f1"]}])
def test_a_metric_that_is_named_stays(named: dict[str, Any], tmp_path: Path) -> None:
    facts = load_summary(prepared(tmp_path, moods(9), **THREE, **named))
    assert facts["metric"] == "accuracy"
    assert "headline" not in facts


@pytest.mark.parametrize(
    ("changes", "expected", "by_rows"),
    [
        ({}, "accuracy", False),  # of two labels that are expected to be equal
        ({"shares": {"bad": 0.97, "good": 0.03}}, "macro_f1", True),
        ({"shares": {"bad": 0.9, "good": 0.1}}, "accuracy", True),
        (THREE, "accuracy", True),
        ({"labels": [f"label {n}" for n in range(21)]}, "macro_f1", True),
        ({"labels": [f"label {n}" for n in range(21)], "metric": "accuracy"}, "accuracy", False),
    ],
)
def test_what_a_description_expects(changes: dict[str, Any], expected: str, by_rows: bool, tmp_path: Path) -> None:
    described = describe(tmp_path, **changes)
    assert (described.metric, described.metrics) == (expected, (expected,))
    assert described.headline_by_rows == by_rows
    assert ("metric" in yaml.safe_load(described.to_yaml())) != by_rows
    (tmp_path / "own.yaml").write_text(described.to_yaml())
    assert Description.read(tmp_path / "own.yaml") == described
