"""Monitoring as a flow on a real Prefect server: reports, an MLflow run, an alarm, fresh rows each time."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from beft.errors import BeftError
from beft.inference.predictor import Predictor
from beft.inference.questions import Questions
from beft.serving.reference import REFERENCE_FILE, DriftReference
from flows import monitor as monitoring
from flows.cli import status_of
from tasks.serving.monitoring import MonitorRules
from tasks.serving.registry_source import RegistrySource
from tasks.serving.traffic import ANSWERS, write_records
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, every
from tests.beft.serving.adapters import CHOICES, Kind
from tests.flows.serving.conftest import Registry
from tests.flows.serving.conftest import registry as registry
from tests.flows.serving.test_recorder import recording
from tests.support.tiny_bases import TEXTS
from tests.tasks.serving.records import answer

pytestmark = [pytest.mark.server, pytest.mark.slow]
FILMS, CHOICE = "beft-tiny-films", "beft-tiny-choice"


def champion(registry: Registry, name: str) -> DriftReference:
    """Register one that answers films, and what its traffic is compared with."""
    folder = registry.root / "adapters" / str(len(registry.adapters))
    before = {*registry.root.glob("mlflow/artifacts/models/*/artifacts")}
    registry.add(name, Kind())
    predictor = Predictor(folder, base=registry.base.folder, device="cpu")
    rows: Any = Questions([text for text in TEXTS for _ in range(30)])
    reference = DriftReference.of(predictor, rows, rows)
    [model] = {*registry.root.glob("mlflow/artifacts/models/*/artifacts")} - before
    reference.write(model / REFERENCE_FILE)
    return reference


def drifted(registry: Registry, name: str) -> None:
    """Traffic that is not like what a champion was made for."""
    traffic = registry.root / "runs" / "traffic"
    own = {"name": name, "sha256": registry.adapters[name, "1"].sha256}
    write_records(traffic, ANSWERS, [answer(200 + n, **own, tokens=30, predicted="good") for n in range(150)])


def test_quiet_then_an_alarm(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[tuple[str, str]] = []
    emit = monitoring.emit_event

    def emitted(event: str, resource: dict[str, str], **values: Any) -> Any:
        events.append((event, resource["prefect.resource.id"]))
        return emit(event=event, resource=resource, **values)

    monkeypatch.setattr(monitoring, "emit_event", emitted)
    monkeypatch.chdir(registry.root)
    (registry.root / "params.yaml").write_text("{}")
    reference = champion(registry, FILMS)
    told = ["bad", "good"]
    usual = [
        answer(
            number,
            name=FILMS,
            sha256=registry.adapters[FILMS, "1"].sha256,
            predicted=told[int(reference.answers[number % 150])],
            confidence=float(reference.confidence[number % 150]),
            tokens=int(reference.lengths[number % 150]),
        )
        for number in range(150)
    ]
    traffic = registry.root / "runs" / "traffic"
    write_records(traffic, ANSWERS, usual)
    assert status_of(["monitor", "--min-rows", "100"]) == 0
    assert f"{FILMS} version 1: no drift (150 rows)" in capsys.readouterr().out
    drifted(registry, FILMS)
    assert status_of(["monitor", "--min-rows", "100"]) == 0
    said = capsys.readouterr()
    assert f"{FILMS} version 1: DRIFT (150 rows)" in said.out and "ALARM" in said.out
    assert events == [("beft.drift", f"beft.model.{FILMS}")]
    assert status_of(["monitor", "--min-rows", "100"]) == 0
    assert "too few new rows" in capsys.readouterr().out
    reports = sorted(Path("runs/monitor", FILMS).glob("*/report.md"))
    assert ["DRIFT" in report.read_text() for report in reports] == [False, True]
    client = connect(PipelineSettings(), registry.root).client
    [experiment] = every(client.search_experiments, filter_string="name LIKE '%-monitor'")
    runs = every(client.search_runs, [experiment.experiment_id])
    assert sorted(run.data.tags["alarm"] for run in runs) == ["False", "True"]
    assert all("tokens_of_a_row/p_value" in run.data.metrics for run in runs)


def test_an_alarm_is_raised_though_mlflow_refuses_its_run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, Any]] = []

    def refused(*_: Any) -> None:
        raise MlflowException("the disk is full")

    monkeypatch.setattr(monitoring, "emit_event", lambda **values: events.append(values))
    monkeypatch.setattr(monitoring, "log_look", refused)
    monkeypatch.chdir(registry.root)
    champion(registry, FILMS)
    drifted(registry, FILMS)
    settings = PipelineSettings()
    source = RegistrySource(connect(settings, registry.root), (FILMS,), ("champion",))
    [key] = source.poll()
    for _ in range(2):  # it was not looked at to the end, so it is again
        with pytest.raises(BeftError, match="the disk is full"):
            monitoring._look.fn(settings, source, key, Path("runs/traffic"), MonitorRules(min_rows=100))
    assert [event["resource"]["prefect.resource.id"] for event in events] == 2 * [f"beft.model.{FILMS}"]


def test_one_model_that_cannot_be_looked_at_stops_no_other(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(monitoring, "emit_event", lambda **values: events.append(values))
    monkeypatch.chdir(registry.root)
    (registry.root / "params.yaml").write_text("{}")
    damaged, foreign, odd = "beft-tiny-a", "beft-tiny-b", "beft-tiny-c"  # they come before the others
    champion(registry, damaged)
    [model] = registry.root.glob("mlflow/artifacts/models/*/artifacts")
    (model / REFERENCE_FILE).write_bytes(b"x")
    client = registry.connection.client
    client.create_registered_model(foreign)
    client.create_model_version(foreign, source=(registry.root / "base").as_uri())
    client.set_registered_model_alias(foreign, "champion", "1")
    champion(registry, odd)
    drifted(registry, odd)
    champion(registry, FILMS)
    drifted(registry, FILMS)
    compare = monitoring.look

    def looked(*arguments: Any, model: str, **values: Any) -> Any:
        if model == odd:
            raise ValueError("something else")
        return compare(*arguments, model=model, **values)

    monkeypatch.setattr(monitoring, "look", looked)
    assert status_of(["monitor", "--min-rows", "100"]) == 1
    said = capsys.readouterr().err
    assert "3 of 4 champions could not be looked at" in said
    assert f"{damaged} version 1: " in said and "is no reference of an adapter" in said
    assert f"{foreign} version 1: " in said and "holds no adapter that beft registered" in said
    assert f"{odd} version 1: ValueError: something else" in said
    assert [event["resource"]["prefect.resource.id"] for event in events] == [f"beft.model.{FILMS}"]
    [report] = Path("runs/monitor", FILMS).glob("*/report.md")
    assert "DRIFT" in report.read_text()


def test_choices_are_monitored(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(registry.root)
    (registry.root / "params.yaml").write_text("{}")
    registry.add(CHOICE, CHOICES)
    rows = [
        {"text": text, "choices": [choice, other]} for text in TEXTS for choice in TEXTS for other in ("good", TEXTS[0])
    ]
    asked = Questions([row["text"] for row in rows], choices=[row["choices"] for row in rows])  # type: ignore[misc]
    predictor = Predictor(registry.root / "adapters" / "0", base=registry.base.folder, device="cpu")
    [model] = registry.root.glob("mlflow/artifacts/models/*/artifacts")
    DriftReference.of(predictor, asked, asked).write(model / REFERENCE_FILE)
    app = recording(registry, features=1.0)
    for row in rows:
        body = {"dataframe_records": [row], "params": {"adapter": CHOICE}}
        assert app.client.post("/invocations", json=body).status_code == 200
    app.server.close()
    assert status_of(["monitor", "--min-rows", "20", "--looks", "1"]) == 0
    said = capsys.readouterr().out
    assert f"{CHOICE} version 1: no drift ({len(rows)} rows)" in said and "not compared: answers" in said
    assert "tokens of a row" in said and "features of the base" in said


def test_a_version_without_a_reference_is_named(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(registry.root)
    (registry.root / "params.yaml").write_text("{}")
    registry.add(FILMS, Kind())
    assert status_of(["monitor"]) == 0
    assert "no champion keeps anything" in capsys.readouterr().out
