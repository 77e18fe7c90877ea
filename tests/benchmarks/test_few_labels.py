"""The study with few labels: its cells, pools, trainings of the peers, and the arithmetic of its table."""

import csv
from collections import Counter
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest

from beft.datasets.prepared import Rows
from beft.datasets.reading.local import VARIABLE
from beft.errors import InputError
from beft.files import read_json
from beft.models.device import Compute
from beft.settings import BaseSettings
from benchmarks.few_labels import peers, study
from benchmarks.few_labels.cells import CELLS, Cell, select_cells
from benchmarks.few_labels.comparisons import gains, mean_gains, regret, share, shared_draws, values, with_default
from benchmarks.few_labels.peers import (
    MAX_PAIRS,
    Training,
    estimated_seconds,
    grid,
    run_trainings,
    search,
    setfit_pairs,
    setfit_settings,
)
from benchmarks.few_labels.pools import Pool, open_pool
from benchmarks.few_labels.store import Store
from benchmarks.few_labels.summary import summary
from benchmarks.few_labels.table import table

LABELS = {"sst2": 2, "rotten_tomatoes": 2, "trec": 6, "banking77": 77}
CPU = Compute("cpu", "fp32", 1)


def test_the_cells_are_those_of_the_study() -> None:
    assert Counter(cell.draws for cell in CELLS) == {10: 9, 3: 4}
    assert {cell.name for cell in CELLS if cell.draws == 3} == {
        "sst2/500",
        "rotten_tomatoes/500",
        "banking77/8",
        "banking77/16",
    }
    assert select_cells() == list(CELLS)
    assert select_cells(["trec", "sst2"], [64], 2) == [Cell("sst2", 64, 2), Cell("trec", 64, 2)]
    assert select_cells(["banking77"], None, 10) == [Cell("banking77", 8, 3), Cell("banking77", 16, 3)]
    assert select_cells(["banking77"], [64]) == []


@pytest.fixture
def banking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as BEFT_DATA_DIR names one, with 3 labels, a text of test in train, and one with a line break."""
    folder = tmp_path / "Banking77"
    folder.mkdir()
    train = [(f"text {number}", f"label {number % 3}") for number in range(30)]
    test = [(f"question {number}", f"label {number % 3}") for number in range(1200)]
    for name, rows in (("train", [*train, train[0], test[0], ("two\nlines", "label 2")]), ("test", test)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *rows])
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return folder


def test_banking77_is_read_with_at_most_a_thousand_test_rows(banking: Path) -> None:
    with open_pool("banking77") as pool:
        assert pool.labels == ("label 0", "label 1", "label 2")
        assert len(pool.train) == 31
        assert "two\nlines" in pool.train.texts
        assert not set(pool.train.texts) & {f"question {number}" for number in range(1200)}
        assert len(pool.test) == len(set(pool.test.texts)) == 1000
        for text, label in zip(pool.test.texts, pool.test.labels, strict=True):
            assert label == int(text.split()[1]) % 3
        with open_pool("banking77") as again:
            assert again.test.texts == pool.test.texts
        drawn = pool.draw(4, 1)
        assert Counter(drawn.labels) == {0: 4, 1: 4, 2: 4}
        assert drawn.texts == pool.draw(4, 1).texts != pool.draw(4, 2).texts
        others = pool.without(drawn, 100)
        assert len(others) == 31 - 12 and not set(others.texts) & set(drawn.texts)


@pytest.mark.parametrize("name", ["trec", "banking77"])
def test_files_that_are_not_there_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=f"{VARIABLE} names no folder with (TREC|Banking77)/"), open_pool(name):
        pass


@pytest.mark.parametrize(("labels", "rows"), [(2, 8), (3, 4), (6, 2), (5, 1)])
def test_the_pairs_of_setfit_are_counted_as_it_makes_them(labels: int, rows: int) -> None:
    """Its sampler: each text with itself and each later one, and the rarer kind of pairs repeated."""
    kinds = Counter(
        one == other for one, other in combinations_with_replacement([at // rows for at in range(labels * rows)], 2)
    )
    assert setfit_pairs(Cell("any", rows, 1), labels, {}) == 2 * max(kinds[True], kinds[False])
    assert setfit_pairs(Cell("any", rows, 1), labels, {"num_iterations": 5}) == 10 * rows * labels


def test_setfit_has_its_defaults_where_they_are_affordable() -> None:
    found = {cell.name: setfit_settings(cell, LABELS[cell.dataset]) for cell in CELLS}
    assert all(found[name] == {} for name in ("sst2/8", "sst2/16", "rotten_tomatoes/16", "trec/8", "trec/16"))
    assert all(found[name] == {"num_iterations": 20} for name in ("sst2/64", "rotten_tomatoes/64", "trec/64"))
    assert found["sst2/500"] == {"num_iterations": 8}
    for cell in CELLS:
        assert 0 < setfit_pairs(cell, LABELS[cell.dataset], found[cell.name]) <= MAX_PAIRS


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_what_is_searched_begins_with_the_defaults_and_holds_nothing_twice(cell: Cell) -> None:
    labels = LABELS[cell.dataset]
    tuned = grid("setfit_tuned", cell, labels)
    assert grid("setfit", cell, labels)[0].settings == tuned[0].settings
    for peer in ("setfit_tuned", "lora", "full_fine_tuning"):
        tried = grid(peer, cell, labels)
        assert len({repr(one.settings) for one in tried}) == len(tried) >= 3
        assert all(estimated_seconds(one, cell, labels, 20) > 0 for one in tried)


def test_an_estimate_grows_with_steps_and_tokens() -> None:
    def seconds(peer: str, rows: int, tokens: float) -> float:
        cell = Cell("sst2", rows, 1)
        return estimated_seconds(grid(peer, cell, 2)[0], cell, 2, tokens)

    for peer in peers.PEERS:
        assert seconds(peer, 8, 20) < seconds(peer, 64, 20) < seconds(peer, 64, 40)


def test_a_search_takes_the_first_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def answer(trainings: dict[str, Training], *of_draw: Any) -> dict[str, Any]:
        asked.extend(one.settings for one in trainings.values())
        accuracies = [0.5, 0.7, 0.7]
        return {name: {"accuracy": one, "seconds": 1.0} for name, one in zip(trainings, accuracies, strict=True)}

    monkeypatch.setattr(peers, "run_trainings", answer)
    rows = Rows(["a"], ["text"], None, [0])
    cell = Cell("sst2", 64, 1)
    found = search("lora", cell, rows, rows, 2, CPU)
    assert found["settings"] == asked[1] == grid("lora", cell, 2)[1].settings
    assert [one["accuracy"] for one in found["tried"]] == [0.5, 0.7, 0.7]
    assert search("setfit", cell, rows, rows, 2, CPU) == {"settings": {"num_iterations": 20}, "tried": []}
    assert len(asked) == 3


def test_without_the_environment_of_the_peers_a_message_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PYTHON", tmp_path / ".venv-peers" / "bin" / "python")
    rows = Rows(["a"], ["text"], None, [0])
    with pytest.raises(InputError, match=r"\.venv-peers, which `make few-labels` builds"):
        run_trainings({"lora": Training("lora", {})}, rows, rows, 2, 0, CPU)
    assert run_trainings({}, rows, rows, 2, 0, CPU) == {}


@pytest.mark.parametrize("known", [{}, {"setfit": {"accuracy": 0.6}}])
def test_tuned_setfit_with_the_defaults_is_trained_once(known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(trainings: dict[str, Training], *of_draw: Any) -> dict[str, Any]:
        return {name: {"accuracy": 0.6, "settings": one.settings} for name, one in trainings.items()}

    monkeypatch.setattr(study, "run_trainings", answer)
    rows = Rows(["a"], ["text"], None, [0])
    pool = Pool("sst2", rows, rows, ("negative", "positive"))
    of_peers = {"setfit_tuned": {}, "lora": {"epochs": 1}} | ({} if known else {"setfit": {}})
    found = study.measure_peers(Cell("sst2", 8, 1), pool, rows, rows, 0, of_peers, known, CPU)
    assert set(found) == set(of_peers)
    assert found["setfit_tuned"] == {**known, **found}["setfit"]
    other = {"setfit_tuned": {"num_epochs": 3}}
    tuned = study.measure_peers(Cell("sst2", 8, 1), pool, rows, rows, 0, other, known, CPU)
    assert tuned["setfit_tuned"]["settings"] == {"num_epochs": 3}


def of_draw(accuracies: dict[str, float], seconds: float = 1.0, trained: int = 10) -> dict[str, dict[str, Any]]:
    return {
        name: {"accuracy": one, "seconds": seconds, "prediction_seconds": 1.0, "trained": trained, "threads": 1}
        for name, one in accuracies.items()
    }


FIRST = {
    "0": of_draw({"logistic_regression": 0.60, "contrastive": 0.66, "auto": 0.64}, seconds=2.0, trained=1000),
    "1": of_draw({"logistic_regression": 0.62, "contrastive": 0.64, "auto": 0.66}, seconds=4.0, trained=1000),
}
FIRST["0"] |= of_draw({"setfit": 0.65}, seconds=20.0, trained=500_000)
FIRST["1"] |= of_draw({"setfit": 0.70}, seconds=40.0, trained=500_000)
SECOND = {"0": of_draw({"logistic_regression": 0.80, "auto": 0.79}), "1": of_draw({"logistic_regression": 0.82})}


def test_gains_are_paired_by_draw_and_means_are_over_cells() -> None:
    assert gains(FIRST, "auto", "setfit") == pytest.approx([-0.01, -0.04])
    assert gains(SECOND, "auto", "logistic_regression") == pytest.approx([-0.01])
    cells = {"sst2/8": FIRST, "trec/8": SECOND}
    assert mean_gains(cells, "auto", "setfit") == {"sst2/8": pytest.approx(-0.025)}
    assert mean_gains(cells, "auto", "logistic_regression") == pytest.approx({"sst2/8": 0.04, "trec/8": -0.01})


def test_regret_is_to_the_best_mean_in_hindsight() -> None:
    own = ["logistic_regression", "contrastive", "auto"]
    assert regret(FIRST, "auto", own) == pytest.approx(0)  # both have 65 on average
    assert regret(FIRST, "logistic_regression", own) == pytest.approx(0.04)
    assert regret(SECOND, "auto", own) == pytest.approx(0.01)  # on the one draw that both have
    assert regret(SECOND, "contrastive", own) is None
    assert shared_draws(FIRST, own) == ["0", "1"] and shared_draws(SECOND, own) == ["0"]
    assert shared_draws(SECOND, ["contrastive"]) == []


def test_the_default_is_the_loss_for_so_many_rows() -> None:
    of_losses = {"0": of_draw({"contrastive": 0.7, "cross_entropy": 0.6}), "1": of_draw({"auto": 0.5})}
    found = with_default({"sst2/64": of_losses, "sst2/500": of_losses})
    assert found["sst2/64"]["0"]["default"]["accuracy"] == 0.7
    assert found["sst2/500"]["0"]["default"]["accuracy"] == 0.6
    assert "default" not in found["sst2/64"]["1"]


def test_shares_are_of_the_draws_that_both_have() -> None:
    cells = {"sst2/8": FIRST, "trec/8": SECOND}
    assert share(cells, "auto", "setfit", "seconds") == pytest.approx(6 / 60)
    assert share(cells, "auto", "setfit", "trained") == pytest.approx(1 / 500)
    assert share(cells, "auto", "lora", "seconds") is None
    untimed = {"0": {name: study.without_seconds(one) for name, one in FIRST["0"].items()}, "1": FIRST["1"]}
    assert values(untimed, "setfit") == [0.65, 0.70] and values(untimed, "setfit", "seconds") == [40.0]
    assert share({"sst2/8": untimed}, "auto", "setfit", "seconds") == pytest.approx(4 / 40)
    assert share({"sst2/8": untimed}, "auto", "setfit", "trained") == pytest.approx(1 / 500)


def test_the_summary_is_a_mean_over_data_sets_of_the_gains_on_shared_draws() -> None:
    first = {
        "0": of_draw({"logistic_regression": 0.60, "contrastive": 0.70, "setfit": 0.75}),
        "1": of_draw({"logistic_regression": 0.70, "contrastive": 0.72}),
    }
    second = {"0": of_draw({"logistic_regression": 0.50, "contrastive": 0.60, "setfit": 0.53, "lora": 0.9})}
    cells = with_default({"sst2/8": first, "trec/8": second, "sst2/64": second})
    [titles, _, few, more, seconds, _] = [line.split(" | ") for line in summary(cells)]
    assert [title.strip(" |") for title in titles[3:]] == ["beft", "SetFit", "LoRA"]
    # Logistic regression (65 + 50) / 2; beft (6 + 10) / 2, SetFit (15 + 3) / 2; LoRA has no draw on one data set.
    assert few == ["| 8", "2", "57.5", "+8.0", "+9.0", "- |"]
    assert more == ["| 64", "1", "50.0", "+10.0", "+3.0", "+40.0 |"]
    assert (seconds[2], seconds[3]) == ("1", "1")
    assert summary({"sst2/8": {"0": of_draw({"auto": 0.5})}}) == []


def test_the_summary_in_the_readme_is_the_committed_one() -> None:
    cells = read_json(Path(study.__file__).with_name("results.json"))["cells"]
    shown = "\n".join(summary(with_default({name: cell["draws"] for name, cell in cells.items()})))
    assert shown in (Path(__file__).parents[2] / "README.md").read_text()


def test_the_table_has_each_figure(tmp_path: Path) -> None:
    store = Store(tmp_path, {"date": "2026-01-01", "cpu": "a processor", "precision": "bf16", "torch": "2.13.0"})
    searched = {"setfit": {"settings": {}, "tried": []}}
    for name, draws in (("trec/8", SECOND), ("sst2/8", FIRST)):
        with store.cell(name) as cell:
            cell.update(test_rows=872, labels=2, searched=searched, draws=draws)
    text = (tmp_path / "README.md").read_text()
    assert text == table(store.read())
    lines = text.splitlines()

    def row(section: str, cell: str) -> list[str]:
        start = lines.index(section)
        [found] = [line for line in lines[start : start + 12] if line.startswith(f"| {cell} |")][:1]
        return [column.strip() for column in found.strip("|").split("|")][1:]

    # Two values 2 points apart: half of the interval is t(0.975, 1) = 12.706 times their half difference.
    half = 12.706204736432095 * 0.01 * 100
    first = row("## Accuracy on test, in percent", "sst2, 8")
    assert first[:3] == ["872", "2", f"61.0 [{61 - half:.1f}, {61 + half:.1f}]"]
    points = row("## Points of auto above each peer", "sst2, 8")
    required = "## Required and found"
    assert row(required, "default above logistic regression, mean of the cells") == ["+2", "+4.0"]
    assert row(required, "default above SetFit as it comes, mean of the cells")[1] == "-2.5 (in 1 of 2 cells)"
    assert row(required, "regret of auto, mean of the cells")[1] == "0.5 (in 2 of 2 cells)"
    low, high = (-2.5 + sign * 12.706204736432095 * 1.5 for sign in (-1, 1))
    assert points == [f"-2.5 [{low:.1f}, {high:+.1f}]"]
    assert row("## Points above logistic regression", "mean of the cells") == ["+4.0", "+1.5", "+4.0", "+6.5"]
    assert row("## Points above logistic regression", "lowest cell") == ["+4.0", "-1.0", "+4.0", "+6.5"]
    assert row("## Regret of auto", "sst2, 8")[:2] == ["0.0", "0 to 1"]
    assert row("## Regret of auto", "trec, 8")[:2] == ["1.0", "0"]  # draw 1 has no auto there
    assert row("## Regret of auto", "mean of the cells")[0] == "0.5"
    assert row("## Seconds of training, mean of the draws, with 1 thread", "sst2, 8") == ["3.0", "3.0", "3.0", "30.0"]
    assert row("## Against each peer, all draws together", "auto against SetFit") == ["-2.5", "0.10", "500"]
    assert [line.split(" |")[0] for line in lines if line.startswith(("| sst2", "| trec"))][:2] == [
        "| sst2, 8",
        "| trec, 8",
    ]


def test_the_default_is_compared_with_the_first_version_where_labels_are_fewest() -> None:
    accuracies = {"8": (0.7, 0.5), "16": (0.8, 0.7), "64": (0.1, 0.9)}
    cells = {
        f"sst2/{rows}": {"draws": {"0": of_draw({"contrastive": ours, "cross_entropy": first})}}
        for rows, (ours, first) in accuracies.items()
    }
    about = {"date": "2026-01-01", "cpu": "a processor", "precision": "bf16", "torch": "2.13.0"}
    cells = {name: {**cell, "searched": {}, "test_rows": 872} for name, cell in cells.items()}
    assert "at 8 and 16 rows | +3 | +15.0 (lowest cell +10.0) |" in table({"about": about, "cells": cells})


def test_a_draw_that_another_process_measured_meanwhile_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"date": "2026-01-01", "cpu": "a processor", "precision": "bf16", "torch": "2.13.0"}
    other, measured = Store(tmp_path, about), []

    def measure(pool: Pool, drawn: Rows, test: Rows, number: int, methods: list[str], base: BaseSettings) -> Any:
        if methods:
            measured.append((number, methods))
        if number == 0:  # the other process has both draws by the time the first is measured here
            with other.cell("sst2/8") as cell:
                cell["draws"] = {str(at): of_draw({"auto": 0.9}) for at in range(2)}
        return of_draw(dict.fromkeys(methods, 0.1))

    monkeypatch.setattr(study, "measure_own", measure)
    rows = Rows([str(at) for at in range(16)], ["text"] * 16, None, [0, 1] * 8)
    found = study.Study(("auto",), BaseSettings(threads=1), Store(tmp_path, about), timed=False)
    found.measure_cell(Cell("sst2", 8, 2), Pool("sst2", rows, rows, ("negative", "positive")))
    assert measured == [(0, ["auto"])]
    draws = other.read()["cells"]["sst2/8"]["draws"]
    assert [draw["auto"] for draw in draws.values()] == [of_draw({"auto": 0.9})["auto"]] * 2


def test_a_study_that_only_tunes_writes_nothing() -> None:
    store = Store(None, {})
    with store.cell("sst2/8") as cell:
        cell["draws"]["0"] = of_draw({"auto": 0.6})
    with store.cell("sst2/8") as again:
        assert again["draws"]["0"]["auto"]["accuracy"] == 0.6


def test_what_another_process_wrote_stays(tmp_path: Path) -> None:
    about = {"date": "2026-01-01", "cpu": "a processor", "precision": "bf16", "torch": "2.13.0"}
    one, other = Store(tmp_path, about), Store(tmp_path, about)
    for store, method in ((one, "auto"), (other, "setfit"), (one, "lora")):
        with store.cell("sst2/8") as cell:
            cell["test_rows"] = 872
            cell["draws"].setdefault("0", {}).update(of_draw({method: 0.6}))
    assert set(one.read()["cells"]["sst2/8"]["draws"]["0"]) == {"auto", "setfit", "lora"}
    elsewhere = Store(tmp_path, {**about, "cpu": "another"})
    with elsewhere.cell("sst2/8"):
        pass
    assert one.read()["about"]["cpu"] == elsewhere.read()["about"]["cpu"] == "a processor and another"
