"""What the terminal says at the end of a run."""

from pathlib import Path
from typing import Any

import pytest

from beft.evaluation.records import Cost
from beft.evaluation.scores import Method, evaluate_methods
from beft.files import write_json
from beft.settings import EvaluateSettings
from flows.terminal.outcome import rows, show
from tasks.settings import PipelineSettings


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """A run on one dataset in which the target is right on 9 rows of 10, each baseline on half of them."""
    truth = [0, 1] * 50
    right = [[1.0, 0.0] if label == 0 else [0.0, 1.0] for label in truth]
    target = [row if number % 10 else row[::-1] for number, row in enumerate(right)]
    coin = [[1.0, 0.0]] * 100
    found = evaluate_methods(
        {
            "value": Method({"test": target, "gate": target}, Cost(trainable_parameters=9, seconds=1, bias_bytes=9216)),
            "head_only": Method({"test": coin, "gate": coin}),
            "logistic_regression": Method({"test": coin, "gate": coin}),
            "all_biases": Method({"test": right}),
        },
        {"test": truth, "gate": truth},
        target="value",
        baselines=("head_only", "logistic_regression"),
        metrics=["accuracy"],
        settings=EvaluateSettings(resamples=100),
    )
    folder = tmp_path / "runs" / "steps" / "evaluate-imdb-0011"
    write_json(folder / "evaluation.json", {**found.to_json(), "truncated": {}})
    adapter = tmp_path / "runs" / "latest" / "train" / "imdb" / "adapter"
    write_json(adapter / "beft.json", {"base": {"id": "pypi:tiny==1.0"}, "inputs": {"pairs": False, "choices": False}})
    step = {"folder": "runs/steps/evaluate-imdb-0011", "seconds": 1.0, "reused": True, "fingerprint": "00"}
    return {
        "datasets": ["imdb"],
        "steps": {"evaluate/imdb": step, "report": {**step, "reused": False}},
        "models": [
            {
                "dataset": "imdb",
                "name": "beft-x-imdb",
                "version": "3",
                "aliases": ["challenger"],
                "champion": False,
                "decision": "challenger",
                "reason": "[b]why[/b]",
                "rebuild": "a rebuild needs a folder",
            }
        ],
        "report": "runs/0011/report.html",
        "mlflow_page": "experiments/1/runs/abc",
        "prefect_flow_run": "def",
    }


def test_a_row_holds_the_target_beside_the_other_methods(record: dict[str, Any], tmp_path: Path) -> None:
    (row,) = rows(record, tmp_path)
    assert row["target term"] == "value"
    assert row["test"].startswith("90.0 [") and row["test"].endswith("] accuracy")
    assert (row["head only"], row["logistic regression"], row["all bias terms"]) == ("50.0", "50.0", "100.0")
    assert [name for name in row if name.startswith(("head", "logistic", "all"))] == [
        "head only",
        "logistic regression",
        "all bias terms",
    ]
    assert row["gain certain"] == "yes"
    assert row["adapter"] == "9.2 kB bias + 0.0 kB head"
    assert (row["model"], row["registered as"]) == ("beft-x-imdb", "version 3 (challenger)")


def test_the_last_lines_say_where_to_look_next(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    show(record, PipelineSettings(), tmp_path)
    said = capsys.readouterr().out
    assert "1 of 2 steps were finished already and reused." in said
    assert "imdb: decided when it was registered: [b]why[/b]" in said
    assert "imdb: a rebuild needs a folder" in said
    for line in (
        "Report     runs/0011/report.html",
        "Registered models:/beft-x-imdb/3",
        "http://127.0.0.1:5000/#/experiments/1/runs/abc",
        "/runs/flow-run/def",  # on whichever server has it: tests/flows/runs/test_links.py
    ):
        assert line in said
    (predict,) = [line for line in said.splitlines() if line.startswith("Predict")]
    assert "beft predict runs/latest/train/imdb/adapter 'some text'" in predict

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    show(record, PipelineSettings(), tmp_path)
    assert "https://mlflow.example/#/experiments/1/runs/abc" in capsys.readouterr().out


def test_why_it_became_no_champion_is_not_said_of_a_champion(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [model] = record["models"]
    for decision, said in (("challenger", False), ("champion", True)):
        record["models"] = [{**model, "aliases": ["champion"], "champion": True, "decision": decision}]
        show(record, PipelineSettings(), tmp_path)
        shown = capsys.readouterr().out
        assert "version 3 (champion)" in shown
        assert ("why" in shown) == said


def test_names_and_commands_are_on_one_line_each_and_quoted(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "beft-local-0123456789ab-" + "a-long-name-of-a-data-set-" * 3 + "imdb"
    [model] = record["models"]
    record["models"] = [{**model, "name": name}]
    adapter = tmp_path / "runs" / "latest" / "train" / "imdb" / "adapter"
    write_json(adapter / "beft.json", {"base": {"id": "sha256:" + "0" * 64}, "inputs": {"pairs": True}})
    settings = PipelineSettings.from_mapping({"base": {"source": "./my base"}, "datasets": {"imdb": {}}})
    show(record, settings, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert f"Registered models:/{name}/3" in said
    (predict,) = [line for line in said if line.startswith("Predict")]
    assert predict.endswith("beft predict runs/latest/train/imdb/adapter --base 'my base' --pairs")
    assert "printf '%s\\t%s\\n' 'some text'" in predict
