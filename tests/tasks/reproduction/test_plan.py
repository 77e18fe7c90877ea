"""The plan of a reproduction: pure, and right about what shares a pass, what is missing, and what it takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beft.errors import InputError, SettingsError
from beft.files import write_json, write_text
from tasks.reproduction.catalogue import REPRODUCTIONS, ReproductionRequest
from tasks.reproduction.forecast import FORECAST
from tasks.reproduction.plan import Plan, PlannedMeasurement, make_plan, reasons
from tasks.reproduction.price import PlanCost, price_table, run_lengths
from tasks.settings import PipelineSettings
from tests.support.small_data import small_workspace

Make = Callable[..., Plan]


@pytest.fixture
def plan(tmp_path: Path) -> Make:
    """``plan(name, **request)``: the plan of a workspace with the dataset ``mine``."""
    small_workspace(tmp_path)
    settings = PipelineSettings.read(tmp_path / "params.yaml")

    def make(name: str, **request: Any) -> Plan:
        values = {"name": name, "datasets": ["mine"], "regimes": [60], **request}
        return make_plan(ReproductionRequest.from_mapping(values), settings, tmp_path)

    return make


def groups(found: Plan) -> list[tuple[tuple[str, ...], tuple[int, ...], int]]:
    return [(one.methods, one.seeds, one.settings.split.draw) for one in found.measurements]


def test_under_protocol_beft_the_terms_of_a_seed_share_a_pass_over_its_own_draw(plan: Make) -> None:
    terms = ("all_biases", "value", "query", "key")
    assert groups(plan("table1", seeds=3)) == [(terms, (seed,), seed) for seed in range(3)]
    assert [one.settings.seed for one in plan("table1", seeds=3).measurements] == [0, 1, 2]


def test_under_protocol_paper_all_seeds_share_one_over_the_one_sample(plan: Make) -> None:
    changes = {"train.epochs": 2, "train.learning_rate": 1e-3, "probe.epochs": 2}
    found = plan("table1", seeds=3, protocol="paper", changes=changes)
    assert groups(found) == [(("all_biases", "value", "query", "key"), (0, 1, 2), 0)]
    [one] = found.measurements
    assert one.settings.protocol == "paper"
    assert (one.settings.train.epochs, one.settings.train.learning_rate) == (2, 1e-3)
    assert (one.settings.train.schedule, one.settings.train.warmup_fraction) == ("constant", 0)
    assert one.settings.train.dropout and one.settings.train.adam_epsilon == 1e-6
    assert one.settings.train.head_learning_rate is None


def test_protocol_paper_says_what_was_not_published(plan: Make) -> None:
    with pytest.raises(InputError, match=r"no learning_rate and no epochs was published for mine.*--set train.epochs"):
        plan("table1", protocol="paper")


def test_learning_rates_are_searched_beside_weights_and_not_where_times_are_compared(plan: Make) -> None:
    def searched(name: str, **request: Any) -> set[bool]:
        return {one.settings.measure.searches for one in plan(name, seeds=1, **request).measurements}

    weights = ["value", "full"]
    assert searched("table1") == searched("table2") == {False}
    assert searched("table1", methods=weights) == searched("bitfit") == searched("table5") == {True}
    assert searched("table1", methods=weights, compared_epochs=[1, 2]) == {False}
    assert searched("extension", methods=weights) == {False}
    assert searched("table1", methods=weights, changes={"measure.search_rates": False}) == {False}
    published = {"train.epochs": 2, "train.learning_rate": 1e-3}
    assert searched("table1", methods=weights, protocol="paper", changes=published) == {False}


def test_what_trains_weights_or_is_timed_stands_alone(plan: Make) -> None:
    methods = ("value", "rand_uniform", "all_biases", "full")
    assert groups(plan("table2", seeds=2)) == [((method,), (seed,), seed) for seed in range(2) for method in methods]
    found = plan("bitfit", seeds=1, methods=["value", "full", "all_biases"])
    assert [one.methods for one in found.measurements] == [("value", "all_biases"), ("full",)]
    assert all(one.settings.measure.random_weights_of == "all_biases" for one in found.measurements)


def test_no_row_is_kept_for_promotion_and_keys_are_unique(plan: Make) -> None:
    found = plan("table4", models=["./a/bert", "b/bert", "pypi:c==1"], regimes=[60, 70], seeds=2)
    assert found.bases == {"bert": "./a/bert", "bert-2": "b/bert", "c": "pypi:c==1"}
    assert all(one.settings.split.gate_rows == 0 for one in found.measurements)
    assert len({one.key for one in found.measurements}) == len(found.measurements) == 3 * 2 * 2
    assert {one.settings.base.source for one in found.measurements} == {"./a/bert", "b/bert", "pypi:c==1"}


def test_settings_of_the_request_win(plan: Make) -> None:
    [one] = plan("table1", seeds=1, changes={"train.epochs": 3, "datasets.{dataset}.max_length": 9}).measurements
    assert (one.settings.train.epochs, one.settings.datasets["mine"].max_length) == (3, 9)
    with pytest.raises(InputError, match="Did you mean 'epochs'"):
        plan("table1", changes={"train.epoch": 3})


def test_a_change_of_one_dataset_is_that_ones_alone(plan: Make, tmp_path: Path) -> None:
    own = tmp_path / "data" / "datasets"
    write_text(own / "yours.yaml", (own / "mine.yaml").read_text())
    changes = {"datasets.mine.max_length": 9, "datasets.{dataset}.epochs": 3}
    found = plan("table1", datasets=["mine", "yours"], seeds=1, changes=changes)
    of_each = {one.dataset: one.settings.datasets for one in found.measurements}
    assert {name: list(own) for name, own in of_each.items()} == {"mine": ["mine"], "yours": ["yours"]}
    assert (of_each["mine"]["mine"].max_length, of_each["mine"]["mine"].epochs) == (9, 3)
    assert (of_each["yours"]["yours"].max_length, of_each["yours"]["yours"].epochs) == (128, 3)
    with pytest.raises(InputError, match="Did you mean 'mine'"):
        plan("table1", changes={"datasets.mien.max_length": 9})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("protocol", "with --protocol"),
        ("seed", "with --seeds"),
        ("datasets", "with --datasets"),
        ("measure.methods", "with --methods"),
        ("train.epochs.more", "train.epochs"),
    ],
)
def test_a_change_that_cannot_be_made_is_named(plan: Make, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan("table1", seeds=1, changes={name: 1})


def test_a_base_that_a_setting_names_is_called_by_its_name(plan: Make) -> None:
    changes = {"base.source": "models/bert"}
    found = plan("table1", seeds=1, changes=changes)
    assert found.bases == {"bert": "models/bert"}
    assert {one.settings.base.source for one in found.measurements} == {"models/bert"}
    with pytest.raises(InputError, match="name each with --model"):
        plan("table1", models=["models/other"], changes=changes)


def test_what_cannot_be_reached_has_a_reason(plan: Make, tmp_path: Path) -> None:
    text = (tmp_path / "data" / "datasets" / "mine.yaml").read_text()
    write_text(tmp_path / "data" / "datasets" / "gone.yaml", text.replace("mine.csv", "gone.csv"))
    found = plan("table1", datasets=["mine", "gone"], regimes=[60, "low"], seeds=1)
    assert {(one.dataset, one.regime) for one in found.measurements} == {("mine", "60")}
    told = reasons(found.missing)
    assert any("mine low" in line and "no size 'low'" in line for line in told)
    assert any("gone 60" in line and "gone.csv" in line for line in told)


def test_without_anything_to_measure_it_stops_with_all_reasons(plan: Make) -> None:
    with pytest.raises(InputError, match=r"nothing of this can be measured here:\nmine high on .*no size 'high'"):
        plan("table1", regimes=["high"])


@pytest.mark.parametrize(
    ("request_", "nearest"),
    [
        ({"name": "tabel1"}, "table1"),
        ({"name": "table1", "datasets": ["mien"]}, "mine"),
        ({"name": "table1", "methods": ["valeu"]}, "value"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(plan: Make, request_: dict[str, Any], nearest: str) -> None:
    with pytest.raises(InputError, match=f"Did you mean '{nearest}'"):
        plan(**request_)


def test_every_problem_of_a_request_is_named() -> None:
    with pytest.raises(SettingsError) as error:
        ReproductionRequest.from_mapping({"name": "table1", "seeds": 0, "protocol": "papre", "regime": ["low"]})
    assert len(error.value.args) and str(error.value).startswith("3 problems")
    assert "Did you mean 'paper'" in str(error.value) and "Did you mean 'regimes'" in str(error.value)


def test_every_reproduction_has_published_numbers_beside_it() -> None:
    from beft.studies.published.table import published, published_names

    assert sorted(REPRODUCTIONS) == published_names()
    for name, one in REPRODUCTIONS.items():
        assert {score.dataset for score in published(name).scores} <= {*one.datasets, "average"}


class TestPrice:
    """Runs, steps and seconds, counted by hand."""

    def test_a_run_for_each_method_seed_learning_rate_and_length(self, plan: Make) -> None:
        [one] = plan(
            "extension", seeds=1, compared_learning_rates=[1e-3, 1e-2], compared_epochs=[1, 4], changes={}
        ).measurements
        assert sorted(run_lengths(one, 800)) == [1] * 8 + [4] * 8  # 4 methods, 2 rates
        changes = {"train.epochs": 3, "train.learning_rates": [1e-3, 1e-2], "probe.epochs": 5}
        [one] = plan("table1", seeds=1, changes=changes).measurements
        assert sorted(run_lengths(one, 800)) == [3] * 6 + [5]  # three terms try two rates each, and the probe has one
        [one] = plan("table1", methods=["untouched", "logistic_regression", "value"], seeds=1).measurements
        assert run_lengths(one, 800) == [0, 0, 8]

    @pytest.mark.parametrize(
        ("changes", "biases", "weights"),
        [
            ({}, 3, 3),
            ({"train.learning_rates": [1e-3, 1e-2]}, 2, 2),
            ({"datasets.{dataset}.learning_rate": 1e-3}, 1, 3),
            ({"measure.weight_learning_rate": 1e-3}, 3, 1),
            ({"measure.search_rates": False}, 1, 1),
            ({"measure.search_rates": False, "train.learning_rates": [1e-3, 1e-2]}, 2, 2),
        ],
    )
    def test_beside_weights_every_learning_rate_that_is_tried_is_a_run(
        self, plan: Make, changes: dict[str, Any], biases: int, weights: int
    ) -> None:
        of_terms, of_weights = plan(
            "table1", seeds=1, methods=["value", "lora"], changes={"train.epochs": 2} | changes
        ).measurements
        assert run_lengths(of_terms, 800) == [2] * biases
        assert run_lengths(of_weights, 800) == [2] * weights

    def test_steps_and_seconds(self, plan: Make, tmp_path: Path) -> None:
        [one] = plan("table1", seeds=1, changes={"train.epochs": 2, "probe.epochs": 2}).measurements
        tokens = {"train": 480, "dev": 120, "test": 300}
        forecast = {
            "train_seconds": 0.001,
            "predict_seconds": 0.0004,
            "rows": {"train": 48, "dev": 12, "test": 40},
            "tokens": tokens,
        }
        write_json(tmp_path / "forecast" / FORECAST, {"mine/60": forecast})
        price = PlanCost.of(one, {"train": 48, "dev": 12, "test": 40}, tmp_path / "forecast", finished=False)
        assert (price.rows, price.steps) == (48, 4 * 2 * 3)
        # Four runs: two epochs of train, dev after each, and test once.
        assert price.seconds == pytest.approx(4 * (2 * (0.001 * 480 + 0.0004 * 120) + 0.0004 * 300))
        finished = PlanCost.of(one, {"train": 48, "dev": 12, "test": 40}, None, finished=True)
        assert finished.seconds == 0 and finished.steps == price.steps

    def test_the_table_adds_up(self, plan: Make) -> None:
        planned: tuple[PlannedMeasurement, ...] = plan("table1", seeds=3).measurements
        prices = {one.key: PlanCost(48, (8, 8), 6, 30.0, finished=number == 0) for number, one in enumerate(planned)}
        table = price_table("Title", planned, prices)
        assert len(table.rows) == 2  # the seeds of one group are one line; below it the sum
        assert "1 of 3" in table.rows[-1] and 6 in table.rows[-1] and 18 in table.rows[-1]
