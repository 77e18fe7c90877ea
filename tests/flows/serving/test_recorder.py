"""What a server keeps of its answers, what its challenger would have said, feedback, and where an answer came from."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from beft.datasets.normalisation import text_key
from beft.inference.questions import Questions
from flows.cli import status_of
from flows.serving.app import Server, create_app
from flows.serving.limits import Limits
from flows.serving.metrics import Metrics
from flows.serving.recorder import Recorder
from flows.serving.tokens import Tokens
from tasks.serving.feedback import labelled_answers
from tasks.serving.traffic import ANSWERS, TrafficLog, read_records
from tests.beft.serving.adapters import Kind, alone
from tests.flows.serving.conftest import Registry, Running, running

FILMS = "beft-tiny-films"
ASKED = {"inputs": ["a good film", "dull"], "params": {"adapter": FILMS}}
TEXT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a good film"]}


def recording(registry: Registry, **options: Any) -> Running:
    """A server that keeps its answers."""
    app = running(registry)
    recorder = Recorder(app.server.service, TrafficLog(registry.root / "runs" / "traffic"), **options)
    server = Server(
        app.server.service,
        limits=Limits(),
        tokens=Tokens(),
        metrics=Metrics(),
        updater=app.updater,
        recorder=recorder,
    )
    return Running(server, app.updater, TestClient(create_app(server), base_url="http://127.0.0.1"))


def kept(registry: Registry) -> list[dict[str, Any]]:
    return read_records(registry.root / "runs" / "traffic", ANSWERS).to_pylist()


def test_answers_are_kept_without_their_texts(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    app = recording(registry)
    given = app.client.post("/invocations", json=ASKED, headers={"X-Request-ID": "mine"}).json()["predictions"]
    app.server.close()
    first, second = kept(registry)
    assert (first["request_id"], first["row"], second["row"], first["role"]) == ("mine", 0, 1, "answer")
    assert first["predicted"] == given[0]["label"] and first["version"] == "1"
    assert first["probabilities"] == pytest.approx([given[0]["probability_bad"], given[0]["probability_good"]])
    assert first["text_key"] == text_key("A  GOOD film") and first["text"] is None
    assert first["tokens"] == 5
    assert b"good film" not in next((registry.root / "runs").rglob("*.parquet")).read_bytes()


def test_texts_are_kept_where_it_is_asked_for(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    app = recording(registry, keep_texts=True)
    app.client.post("/invocations", json=ASKED)
    app.server.close()
    assert [one["text"] for one in kept(registry)] == ASKED["inputs"]


def test_the_challenger_answers_the_same_rows_unseen(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    registry.add(FILMS, Kind(seed=1), alias="challenger")
    registry.add("beft-tiny-other", Kind(seed=2))
    app = recording(registry, shadow=1.0)
    records = [{"text": "dull", "adapter": "beft-tiny-other"}, {"text": "a good film", "adapter": FILMS}]
    response = app.client.post("/invocations", json={"dataframe_records": records}).json()
    app.server.close()
    shadows = [one for one in kept(registry) if one["role"] == "shadow"]
    assert [one["version"] for one in response["predictions"]] == ["1", "1"]
    assert [(one["name"], one["version"], one["row"]) for one in shadows] == [(FILMS, "2", 1)]
    [outputs] = alone(registry.base, registry.adapters[FILMS, "2"], Questions(["a good film"]))
    assert shadows[0]["probabilities"] == pytest.approx(outputs.softmax(-1)[0].tolist(), abs=1e-5)
    assert shadows[0]["request_id"] == response["request_id"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"id": "\ud800"}, "half a surrogate pair"),
        ({"inputs": [{**TEXT, "data": ["\ud800"]}]}, "half a surrogate pair"),
        ({"outputs": [{"name": "logits"}]}, "no output 'logits'"),
    ],
)
def test_a_request_that_is_refused_is_not_kept(registry: Registry, wrong: dict[str, Any], says: str) -> None:
    registry.add(FILMS, Kind())
    app = recording(registry)
    right = {"id": "mine", "inputs": [TEXT]}
    for body, status in (({**right, **wrong}, 400), (right, 200)):
        response = app.client.post(f"/v2/models/{FILMS}/infer", content=json.dumps(body))
        assert response.status_code == status
        assert (says in response.text) == (status == 400)
    app.server.close()
    assert [one["request_id"] for one in kept(registry)] == ["mine"]


def test_a_share_of_the_requests_is_shadowed(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    registry.add(FILMS, Kind(seed=1), alias="challenger")
    app = recording(registry, shadow=0.25)
    for number in range(100):
        app.client.post("/invocations", json={**ASKED, "inputs": ["fine"]}, headers={"X-Request-ID": f"r{number}"})
    app.server.close()
    assert 10 <= sum(one["role"] == "shadow" for one in kept(registry)) <= 40


def test_feedback_over_http(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    app = recording(registry)
    request_id = app.client.post("/invocations", json=ASKED).json()["request_id"]
    labels = [{"request_id": request_id, "row": 1, "label": "bad"}]
    assert app.client.post("/v1/feedback", json={"feedback": labels, "source": "all"}).json() == {"kept": 1}
    for body in ({}, [], {"feedback": [{"label": "x"}]}):
        assert app.client.post("/v1/feedback", json=body).status_code == 400
    assert app.client.post("/v1/feedback", content="{").status_code == 400
    app.server.close()
    found = labelled_answers(registry.root / "runs" / "traffic", FILMS)
    assert found[["row", "label", "feedback_source"]].to_numpy().tolist() == [[1, "bad", "all"]]


def test_a_server_that_keeps_nothing_takes_no_feedback(app: Running) -> None:
    response = app.client.post("/v1/feedback", json={"feedback": []})
    assert response.status_code == 409


def test_feedback_and_trace_on_the_command_line(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.add(FILMS, Kind())
    app = recording(registry)
    app.client.post("/invocations", json=ASKED, headers={"X-Request-ID": "mine"})
    app.server.close()
    monkeypatch.chdir(registry.root)
    (registry.root / "params.yaml").write_text("{}")
    Path("labels.csv").write_text("request_id,row,label\nmine,1,bad\nother,0,good\n")
    assert status_of(["feedback", "labels.csv", "--source", "all"]) == 0
    said = capsys.readouterr()
    assert "2 labels are kept in runs/traffic" in said.out and "row 0 of 'other'" in said.err
    assert status_of(["trace", "mine"]) == 0
    said = capsys.readouterr()
    assert f"{FILMS} version 1, sha256 {registry.adapters[FILMS, '1'].sha256}" in said.out
    assert f"rebuild models:/{FILMS}/1" in said.out
    assert status_of(["trace", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["same"] is True
    assert status_of(["trace", "nothing"]) == 2
    registry.connection.client.delete_registered_model(FILMS)
    assert status_of(["trace", "mine"]) == 0
    assert "not in the registry any more" in capsys.readouterr().out


def test_a_full_disk_loses_no_answer(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    (registry.root / "runs").write_text("a file where the folder would be")
    app = recording(registry)
    assert app.client.post("/invocations", json=ASKED).status_code == 200
    app.server.close()
    assert app.server.recorder is not None and app.server.recorder.traffic.dropped == 2
