"""The report: one file, safe with any text in the data, and true to the files that it is made of."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.files import read_json, sha256_tree, write_json
from tasks.engine.settings_view import restrict_settings
from tasks.reporting.drawing import Curve, Interval, curves, intervals, ticks_over
from tasks.reporting.formatting import duration, percent, points, quantity
from tasks.steps.evaluate import evaluate
from tasks.steps.report import report, report_step
from tasks.steps.train import train
from tasks.tracking.entries import entries
from tests.support.finished_run import FinishedRun
from tests.support.killed_training import killed_after


class Page(HTMLParser):
    """What a page is made of, as a browser would see it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.events: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "poster"):
                self.addresses.append(str(value))
            if name.startswith("on"):
                self.events.append(name)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.words).split())


def written(run: FinishedRun, out: Path) -> str:
    """The report of a run, made as the driver makes it: it sees only the settings that the step declares."""
    out.mkdir(parents=True, exist_ok=True)
    report(restrict_settings(run.settings, report_step.settings, None), run.inputs, out)
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the finished run."""
    return written(finished_run, tmp_path_factory.mktemp("report"))


def test_it_needs_no_other_file_and_no_network(page: str) -> None:
    found = Page(page)
    assert "svg" in found.tags
    assert all(address.startswith("#") for address in found.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "img", "form"} & set(found.tags)
    assert not found.events
    assert not re.search(r"url\(|@import", page)
    ids = set(re.findall(r'id="([^"]+)"', page))
    assert {address.removeprefix("#") for address in found.addresses} <= ids


def test_the_confusion_is_that_of_the_rows_of_test(finished_run: FinishedRun, page: str) -> None:
    for name in finished_run.settings.datasets:
        evaluation = read_json(finished_run.inputs[f"evaluate/{name}"] / "evaluation.json")
        confusion, test = evaluation["confusion"], evaluation["splits"]["test"]
        right = sum(rows for true, predicted, rows in confusion["cells"] if true == predicted)
        assert sum(rows for _, _, rows in confusion["cells"]) == test["rows"]
        assert right / test["rows"] == pytest.approx(test["scores"][evaluation["target"]]["accuracy"]["value"])
        assert f"Confusion of {evaluation['target']} on test: rows are true labels" in Page(page).text


def test_the_numbers_are_those_of_the_evaluation(finished_run: FinishedRun, page: str) -> None:
    text = Page(page).text
    for name in finished_run.settings.datasets:
        evaluation = read_json(finished_run.inputs[f"evaluate/{name}"] / "evaluation.json")
        test = evaluation["splits"]["test"]
        for scores in test["scores"].values():
            score = scores["accuracy"]
            assert f"{100 * score['value']:.1f} {100 * score['low']:.1f} to {100 * score['high']:.1f}" in text
        for split in ("test", "gate"):
            for gains in evaluation["splits"][split]["gains"].values():
                assert f"{100 * gains['accuracy']['difference']:+.1f}" in text
        train = read_json(finished_run.inputs[f"train/{name}"] / "train.json")
        assert train["adapter_sha256"][:16] in text
        assert f"{train['bias_parameters']:,} numbers" in text


def test_every_part_is_there(finished_run: FinishedRun, page: str) -> None:
    text = Page(page).text
    for part in ("Results", "Selection of the target term", "Learning curves", "Merging", "Data", "Cost", "Settings"):
        assert part in text
    for method in (
        "mean",
        "task arithmetic",
        "ties density 0.2, scale",
        "dare draw 0, drop rate 0.5",
        "searched weights",
    ):
        assert f"merged: {method}" in text
    assert "What was tried on dev for searched weights" in text
    assert "train.learning_rate 0.005" in text
    assert "datasets.films.size 60" in text
    assert "tracking." not in text
    assert re.search(r"transformers \d+\.", text)
    assert "models:/beft-local-" in text
    assert "key" in text


def test_an_interrupted_training_has_no_time(
    finished_run: FinishedRun, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the report nor in MLflow: only the last process was timed."""
    kept, folder, evaluated = (tmp_path / name for name in ("checkpoints", "train", "evaluate"))
    for made in (kept, folder, evaluated):
        made.mkdir()
    inputs = {name: finished_run.inputs[f"{name}/films"] for name in ("prepare", "probe", "score")}
    with killed_after(3, monkeypatch):
        train(finished_run.settings, inputs, folder, dataset="films", checkpoints=kept)
    train(finished_run.settings, inputs, folder, dataset="films", checkpoints=kept)
    assert sha256_tree(folder / "adapter") == sha256_tree(finished_run.inputs["train/films"] / "adapter")
    evaluate(finished_run.settings, inputs | {"train": folder}, evaluated, dataset="films")
    evaluation = read_json(evaluated / "evaluation.json")
    untimed = [name for name, cost in evaluation["costs"].items() if cost["seconds"] is None]
    assert untimed == [evaluation["target"]]

    run = replace(finished_run, inputs=finished_run.inputs | {"train/films": folder, "evaluate/films": evaluated})
    assert Page(written(run, tmp_path / "report")).text.count("not known: interrupted") == 1
    assert "not known: interrupted" not in page
    for record in (one for one in run.records if one.key in ("train/films", "evaluate/films")):
        for entry in entries(record, run.folder(record), run.settings):
            names = {name for name, _, _ in entry.metrics}
            if "usage/trainable_parameters" in names:
                assert ("usage/seconds" in names) == (entry.nested != "films/target")


def test_the_same_files_give_the_same_bytes(finished_run: FinishedRun, page: str, tmp_path: Path) -> None:
    assert written(finished_run, tmp_path) == page


def test_text_of_the_data_is_text_and_nothing_else(finished_run: FinishedRun, tmp_path: Path) -> None:
    evil = '<script>alert("1")</script><img src=x onerror=alert(1)>'
    folder = tmp_path / "prepare"
    shutil.copytree(finished_run.inputs["prepare/films"], folder)
    data = read_json(folder / "data.json")
    data["title"] = evil
    data["source"]["origin"] = evil
    data["conflicts"] = {
        "texts": 1,
        "rows": 2,
        "examples": [{"text": evil, "text_pair": evil, "labels": {evil: 1}}],
    }
    write_json(folder / "data.json", data)
    run = replace(finished_run, inputs=finished_run.inputs | {"prepare/films": folder})
    found = Page(written(run, tmp_path))
    assert not {"script", "img"} & set(found.tags)
    assert evil in found.text


def test_a_single_dataset_has_nothing_to_merge(finished_run: FinishedRun, tmp_path: Path) -> None:
    write_json(tmp_path / "merge" / "merge.json", {"datasets": ["films"], "note": "there is nothing to merge"})
    settings = finished_run.settings.model_copy(update={"datasets": {"films": finished_run.settings.datasets["films"]}})
    run = replace(finished_run, settings=settings, inputs=finished_run.inputs | {"merge": tmp_path / "merge"})
    text = Page(written(run, tmp_path / "out")).text
    assert "there is nothing to merge." in text
    assert "plays" not in text


def test_what_was_validated_is_shown(finished_run: FinishedRun, tmp_path: Path) -> None:
    found = {
        "dataset": "films",
        "stage": "raw",
        "success": True,
        "rows": 400,
        "expectations": [
            {
                "expectation": "expect_column_values_to_not_be_null",
                "column": "text",
                "split": None,
                "arguments": {},
                "success": True,
            }
        ],
    }
    write_json(tmp_path / "raw" / "validation.json", found)
    run = replace(finished_run, inputs=finished_run.inputs | {"validate_raw/films": tmp_path / "raw"})
    text = Page(written(run, tmp_path / "out")).text
    assert "Validation of the raw data: 1 of 1 expectations met, 400 rows" in text
    assert "column values to not be null" in text


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_span_the_interval_in_equal_round_steps(low: float, width: float) -> None:
    found = ticks_over(low, low + width)
    assert found[0] <= low + 1e-6 * width
    assert found[-1] >= low + width - 1e-6 * width
    assert 2 <= len(found) <= 12


def test_a_picture_without_any_spread_is_drawn() -> None:
    flat = Interval("<a>", 0.5, 0.5, 0.5, "0.5 & more")
    picture = str(intervals([flat], title="t", zero=True))
    assert "&lt;a&gt;" in picture and "<a>" not in picture
    assert "nan" not in str(curves([Curve("one", [(1.0, 0.5)], "accent", 1.0)], title="t"))


def test_numbers_read_well() -> None:
    assert (percent(0.785), percent(-0.5)) == ("78.5", "-50.0")
    assert (points(0.023), points(-0.02)) == ("+2.3", "-2.0")
    assert (quantity(512), quantity(9216), quantity(569868288), quantity(None)) == ("512 B", "9.2 kB", "569.9 MB", "—")
    assert (duration(2.34), duration(125.2)) == ("2.3 s", "2 min 05 s")
    assert (duration(59.94), duration(59.96)) == ("59.9 s", "1 min 00 s")
    assert (duration(119.4), duration(119.7), duration(3599.8)) == ("1 min 59 s", "2 min 00 s", "60 min 00 s")
    assert json.dumps(report_step.settings)
