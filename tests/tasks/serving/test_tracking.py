"""A look at traffic in MLflow, whatever the labels are called."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from beft.evaluation.drift import DriftTest
from tasks.serving.monitoring import Look, report_of
from tasks.serving.tracking import log_look
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, every, in_experiment
from tests.tasks.serving.records import START

SETTINGS = PipelineSettings()
NAMES = {
    "answers: C": "answers:_C",
    "answers: C++": "answers:_C_2",
    "answers: C#": "answers:_C_3",
    "answers: C_2": "answers:_C_2_2",
    "answers: R&D": "answers:_RD",
    "answers: (none)": "answers:_none",
    "answers: a/b | c": "answers:_ab__c",
    "answers: größer": "answers:_größer",
    "answers: " + "long " * 80: ("answers: " + "long " * 80).replace(" ", "_")[:241],
    "answers: " + "long " * 81: ("answers: " + "long " * 81).replace(" ", "_")[:239] + "_2",
    "tokens of a row": "tokens_of_a_row",
    "unknown tokens, share of a row": "unknown_tokens_share_of_a_row",
}


def looked_at(names: list[str]) -> Look:
    tests = [DriftTest(name, number / 8, number / 16, (400, 200), 0.5, 0.25) for number, name in enumerate(names)]
    return Look("beft-films", "1", START, START, 200, [(test, True) for test in tests], 0.01)


def runs(root: Path) -> list[Any]:
    connection = connect(in_experiment(SETTINGS, "-monitor"), root)
    return every(connection.client.search_runs, [connection.experiment])


@pytest.fixture
def report(tmp_path: Path) -> Path:
    (tmp_path / "look").mkdir()
    (tmp_path / "look" / "report.md").write_text("a report")
    return tmp_path / "look"


@pytest.mark.usefixtures("_no_tracking_address")
def test_each_test_has_metrics_of_its_own_whatever_its_label_is_called(report: Path, tmp_path: Path) -> None:
    looked = looked_at(list(NAMES))
    log_look(SETTINGS, tmp_path, looked, report)
    [run] = runs(tmp_path)
    expected = {"rows": 200.0}
    for number, name in enumerate(NAMES.values()):
        expected |= {f"{name}/distance": number / 8, f"{name}/p_value": number / 16}
    assert run.data.metrics == expected
    assert max(map(len, expected)) == 250
    assert run.info.status == "FINISHED"


@pytest.mark.usefixtures("_no_tracking_address")
def test_what_cannot_be_logged_leaves_no_run_that_seems_to_go_on(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise MlflowException("the disk is full")

    monkeypatch.setattr(MlflowClient, "log_artifacts", refused)
    with pytest.raises(MlflowException, match="full"):
        log_look(SETTINGS, tmp_path, looked_at(["tokens of a row"]), report)
    assert [run.info.status for run in runs(tmp_path)] == ["FAILED"]


def test_a_label_does_not_end_a_row_of_the_report() -> None:
    rows = [line for line in report_of(looked_at(["answers: a | b\nc"])).splitlines() if "answers" in line]
    assert rows[0].startswith(r"| answers: a \| b c | 0.0000 |")
