"""The published numbers are those of the papers."""

import pytest

from beft.errors import InputError
from beft.settings import TERMS
from beft.studies.published.table import AVERAGE, published, published_names


def value(name: str, **wanted: str) -> float:
    [found] = [score for score in published(name).scores if all(getattr(score, key) == wanted[key] for key in wanted)]
    return found.value


def test_every_table_and_figure_is_there() -> None:
    assert published_names() == sorted(
        ["table1", "table2", "table3", "table4", "table5", "figure1", "figure4", "extension", "bitfit"]
    )


def test_table1() -> None:
    assert value("table1", dataset="sst2", regime="low", method="value") == pytest.approx(0.858)
    assert value("table1", dataset="rte", regime="low", method="value") == pytest.approx(0.595)
    assert value("table1", dataset="cola", regime="low", method="key") == pytest.approx(0.065)
    assert all(
        score.selected == (score.method == "value") for score in published("table1").scores if score.dataset != AVERAGE
    )


@pytest.mark.parametrize("regime", ["low", "medium", "high"])
@pytest.mark.parametrize("method", ["value", "query", "key"])
def test_the_averages_of_table1_are_those_of_its_rows(regime: str, method: str) -> None:
    """A number mistyped by a point or more shows in the average, which the paper gives to a tenth."""
    row = [score for score in published("table1").scores if (score.regime, score.method) == (regime, method)]
    values = [score.value for score in row if score.dataset != AVERAGE]
    [average] = [score.value for score in row if score.dataset == AVERAGE]
    assert len(values) == 9
    assert sum(values) / len(values) == pytest.approx(average, abs=0.0011)


def test_table2() -> None:
    found = {score.method: (score.value, score.seconds) for score in published("table2").scores}
    assert found == {
        "value": (pytest.approx(0.5853), 132.9),
        "rand_uniform": (pytest.approx(0.5040), 659.6),
        "all_biases": (pytest.approx(0.5640), 144.9),
        "full": (pytest.approx(0.5746), 206.1),
    }


def test_table3() -> None:
    assert (value("table3", dataset="sst2", method="mean"), value("table3", dataset="rte", method="mean")) == (
        pytest.approx(0.813),
        pytest.approx(0.555),
    )
    assert (value("table3", dataset="sst2", method="none"), value("table3", dataset="rte", method="none")) == (
        pytest.approx(0.489),
        pytest.approx(0.527),
    )
    assert published("table3").cosine == 0.18


def test_bitfit_and_what_tables_share() -> None:
    assert [score.value for score in published("bitfit").scores] == pytest.approx([0.842, 0.828, 0.731])
    shared = {
        (score.dataset, score.method): score.value for score in published("table1").scores if score.regime == "low"
    }
    for name in ("table4", "figure1", "figure4"):
        both = [
            score
            for score in published(name).scores
            if score.model == "bert-base" and score.regime == "low" and (score.dataset, score.method) in shared
        ]
        assert both
        assert all(score.value == shared[score.dataset, score.method] for score in both)


def test_what_each_method_ranks_first_is_a_term() -> None:
    choices = [choice for name in published_names() for choice in published(name).choices]
    assert {choice.selected for choice in choices} <= set(TERMS)
    assert [choice.selected for choice in published("figure1").choices if choice.by == "magnitude"] == ["query"] * 4


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'table1'"):
        published("tabel1")
