"""What finished steps show in Prefect, from a real run of all steps."""

import base64
import io
import json

from PIL import Image

from flows.runs.artifacts import artifact_key, artifacts_of, as_data
from flows.runs.training_progress import TrainingProgress
from tests.support.finished_run import FinishedRun


def test_every_step_shows_a_table(finished_run: FinishedRun) -> None:
    for record in finished_run.records:
        tables = [one.rows for one in artifacts_of(record, finished_run.folder(record)) if one.rows is not None]
        assert tables, record.key
        for rows in tables:
            assert rows and all(set(row) == set(rows[0]) for row in rows), record.key
        json.dumps(tables, allow_nan=False)


def test_scores_show_the_heat_map(finished_run: FinishedRun) -> None:
    [record, *_] = [record for record in finished_run.records if record.step == "score"]
    table, map_ = artifacts_of(record, finished_run.folder(record))
    assert table.rows and "projection_ratio" in table.rows[0]
    assert map_.picture is not None and "Target term: " in map_.text
    kind, _, data = as_data(map_.picture).partition(",")
    assert kind == "data:image/png;base64"
    assert len(data) < 150_000  # it lies in Prefect's database
    assert Image.open(io.BytesIO(base64.b64decode(data))).width <= 1000


def test_an_evaluation_shows_every_method_on_every_split(finished_run: FinishedRun) -> None:
    [record, *_] = [record for record in finished_run.records if record.step == "evaluate"]
    [table] = artifacts_of(record, finished_run.folder(record))
    assert table.rows
    assert {"test", "gate"} <= {row["split"] for row in table.rows}
    assert {"head_only", "logistic_regression"} <= {row["method"] for row in table.rows}


def test_a_key_has_only_what_prefect_takes() -> None:
    assert artifact_key("Train/Rotten_tomatoes") == "train-rotten-tomatoes"


class TestProgress:
    def shown_percents(self, *events: tuple[str, int, int]) -> list[float]:
        percents: list[float] = []

        class Shown(TrainingProgress):
            def _show(self, text: str) -> None:
                percents.append(round(self._percent, 1))

        progress = Shown("train-imdb-progress", "train/imdb")
        progress({"started": True})
        for name, done, of_all in events:
            progress._updated = float("-inf")  # as if some seconds had passed
            progress({"pass": name, "done": done, "all": of_all})
        return percents

    def test_it_follows_the_steps(self) -> None:
        assert self.shown_percents(("value", 10, 1000), ("value", 250, 1000), ("value", 1000, 1000)) == [1, 25, 100]

    def test_it_never_goes_back_but_for_another_pass(self) -> None:
        assert self.shown_percents(("a", 2, 4), ("a", 1, 4), ("b", 1, 4)) == [50.0, 50.0, 25.0]

    def test_a_server_is_not_asked_for_every_event(self) -> None:
        progress = TrainingProgress("key", "train/imdb")
        progress._updated = float("inf")
        progress({"pass": "a", "done": 1, "all": 4})  # there is no server: this would raise a warning and give up
        assert progress._fails is False
