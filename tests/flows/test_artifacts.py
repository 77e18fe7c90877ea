"""What finished steps show in Prefect, from a real run of all steps."""

import base64
import io
import json

from PIL import Image

from flows.runs.artifacts import artifact_key, as_data, shown
from flows.runs.training_progress import TrainingProgress
from tests.support.finished_run import FinishedRun


def test_every_step_shows_a_table(finished_run: FinishedRun) -> None:
    for record in finished_run.records:
        tables = [one.rows for one in shown(record, finished_run.folder(record)) if one.rows is not None]
        assert tables, record.key
        for rows in tables:
            assert rows and all(set(row) == set(rows[0]) for row in rows), record.key
        json.dumps(tables, allow_nan=False)


def test_scores_show_the_heat_map(finished_run: FinishedRun) -> None:
    [record, *_] = [record for record in finished_run.records if record.step == "score"]
    table, map_ = shown(record, finished_run.folder(record))
    assert table.rows and "projection_ratio" in table.rows[0]
    assert map_.picture is not None and "Target term: " in map_.text
    kind, _, data = as_data(map_.picture).partition(",")
    assert kind == "data:image/png;base64"
    assert len(data) < 150_000  # it lies in Prefect's database
    assert Image.open(io.BytesIO(base64.b64decode(data))).width <= 1000


def test_an_evaluation_shows_every_method_on_every_split(finished_run: FinishedRun) -> None:
    [record, *_] = [record for record in finished_run.records if record.step == "evaluate"]
    [table] = shown(record, finished_run.folder(record))
    assert table.rows
    assert {"test", "gate"} <= {row["split"] for row in table.rows}
    assert {"head_only", "logistic_regression"} <= {row["method"] for row in table.rows}


def test_a_key_has_only_what_prefect_takes() -> None:
    assert artifact_key("Train/Rotten_tomatoes") == "train-rotten-tomatoes"


class TestProgress:
    def said(self, *lines: str) -> list[float]:
        percents: list[float] = []

        class Told(TrainingProgress):
            def _show(self, text: str) -> None:
                percents.append(round(self._percent, 1))

        progress = Told("train-imdb-progress", "train/imdb")
        for line in lines:
            progress._told = float("-inf")  # as if some seconds had passed
            progress(line)
        return percents

    def test_it_follows_steps_and_epochs(self) -> None:
        lines = (
            "on cpu in fp32",
            "value: step 10/1,000, loss 0.6",
            "value: epoch 1/4, dev_loss 0.1",
            "value: epoch 4/4",
        )
        assert self.said(*lines) == [1.0, 25.0, 100.0]

    def test_it_never_goes_back_but_for_another_training(self) -> None:
        assert self.said("a: epoch 2/4", "a: step 1/4", "b: epoch 1/4") == [50.0, 50.0, 25.0]

    def test_a_server_is_not_asked_for_every_line(self) -> None:
        progress = TrainingProgress("key", "train/imdb")
        progress._told = float("inf")
        progress("a: epoch 1/4")  # there is no server: this would raise a warning and give up
        assert progress._fails is False
