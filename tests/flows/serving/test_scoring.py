"""MLflow's scoring protocol: each form of a request, and what is refused."""

import json
from typing import Any

import pytest

from beft.inference.questions import Questions
from tests.beft.serving.adapters import alone
from tests.flows.serving.conftest import Registry, Running

FILMS, THREE, SCORE, CHOICE = "beft-tiny-films", "beft-tiny-three", "beft-tiny-score", "beft-tiny-choice"
TEXTS = ["a good film", "not good", "the story was dull"]


def post(app: Running, body: Any, **headers: str) -> Any:
    return app.client.post("/invocations", json=body, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": TEXTS},
        {"inputs": {"text": TEXTS}},
        {"inputs": [{"text": text} for text in TEXTS]},
        {"instances": TEXTS},
        {"instances": [{"text": text} for text in TEXTS]},
        {"dataframe_records": [{"text": text} for text in TEXTS]},
        {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}},
    ],
)
def test_each_form_gives_the_same_answer(app: Running, filled: Registry, body: dict[str, Any]) -> None:
    response = post(app, {**body, "params": {"adapter": FILMS}})
    assert response.status_code == 200
    adapter = filled.adapters[FILMS, "1"]
    expected = [row.softmax(-1).tolist()[0] for row in alone(filled.base, adapter, Questions(TEXTS))]
    for row, probabilities in zip(response.json()["predictions"], expected, strict=True):
        assert [row[f"probability_{label}"] for label in adapter.labels] == pytest.approx(probabilities, abs=1e-5)
        assert row["label"] == adapter.labels[probabilities.index(max(probabilities))]
        assert (row["adapter"], row["version"], row["sha256"]) == (FILMS, "1", adapter.sha256)
        assert row["truncated"] is False
    assert response.headers["X-Request-ID"] == response.json()["request_id"]


def test_csv(app: Running) -> None:
    body = f'text,adapter\n"a good film, and fine",{FILMS}\nnot good,{THREE}\n'
    response = app.client.post("/invocations", content=body, headers={"content-type": "text/csv; charset=utf-8"})
    assert [row["adapter"] for row in response.json()["predictions"]] == [FILMS, THREE]


def test_one_request_mixes_adapters(app: Running, filled: Registry) -> None:
    records = [
        {"text": "a good film", "adapter": FILMS},
        {"text": "a good film", "adapter": f"{THREE}@champion"},
        {"text": "a good film", "adapter": SCORE},
        {"text": "a good film", "adapter": CHOICE, "choices": ["fine", "dull", "not good"]},
    ]
    before = app.engine.forwards
    found = post(app, {"dataframe_records": records}).json()["predictions"]
    assert app.engine.forwards - before == 1
    assert set(found[0]) >= {"label", "probability_bad", "probability_good"}
    assert set(found[1]) >= {"label", "probability_x", "probability_y", "probability_z"}
    value = alone(filled.base, filled.adapters[SCORE, "1"], Questions(["a good film"]))[0].item()
    assert found[2]["value"] == pytest.approx(value, abs=1e-5)
    assert found[3]["choice"] in records[3]["choices"] and sum(found[3]["probabilities"]) == pytest.approx(1)


def test_the_request_id_of_the_client_is_kept(app: Running) -> None:
    response = post(app, {"inputs": ["fine"], "params": {"adapter": FILMS}}, **{"X-Request-ID": "mine-1"})
    assert response.json()["request_id"] == response.headers["X-Request-ID"] == "mine-1"


def test_a_text_that_was_cut_is_told(app: Running) -> None:
    long = " ".join(["film"] * 40)
    found = post(app, {"inputs": [long, "fine"], "params": {"adapter": FILMS}}).json()["predictions"]
    assert [row["truncated"] for row in found] == [True, False]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"inputs": ["a"]}, 400, "row 0 names no adapter"),
        ({"inputs": ["a"], "params": {"adapter": "beft-tiny-film"}}, 404, "Did you mean 'beft-tiny-films'?"),
        ({"inputs": ["a"], "params": {"adapter": 3}}, 400, "params.adapter must be a text"),
        ({"inputs": ["a"], "params": []}, 400, "names no adapter"),
        ({"inputs": ["a"], "params": ["x"]}, 400, "params must be a JSON object"),
        ({"inputs": [3], "params": {"adapter": FILMS}}, 400, "row 0 has 3 for its text"),
        ({"inputs": ["a", None], "params": {"adapter": FILMS}}, 400, "row 1 has None for its text"),
        ({"inputs": [], "params": {"adapter": FILMS}}, 422, "no row"),
        ({"inputs": ["a"] * 33, "params": {"adapter": FILMS}}, 422, "33 rows"),
        ({"inputs": ["a"], "instances": ["b"]}, 400, "exactly one of"),
        ({}, 400, "it has nothing"),
        (["a"], 400, "must be a JSON object"),
        ({"dataframe_split": {"columns": ["text"], "data": [["a", "b"]]}}, 400, "row 0 does not have the 1 fields"),
        ({"dataframe_split": ["a"]}, 400, "dataframe_split must be"),
        ({"dataframe_split": {"columns": [["text"]], "data": [["a"]]}}, 400, "has the column ['text']"),
        ({"inputs": {"text": ["a", "b"], "adapter": [FILMS]}}, 400, "not of one length"),
        ({"inputs": [{"txt": "a", "adapter": FILMS}]}, 400, "the column 'txt'"),
        ({"inputs": ["a"], "params": {"adapter": CHOICE}}, 400, "chooses among the choices"),
        ({"inputs": [{"text": "a", "choices": "x", "adapter": CHOICE}]}, 400, "choices that are no list"),
        ({"inputs": [{"text": "a", "choices": [], "adapter": CHOICE}]}, 400, "row 0"),
        ({"inputs": [{"text": "a", "text_pair": 3, "adapter": FILMS}]}, 400, "row 0 has 3 for its second text"),
        (
            {"inputs": [{"text": "a", "adapter": FILMS}, {"text": "a", "text_pair": "b", "adapter": FILMS}]},
            400,
            "row 0 lacks a second text",
        ),
        ({"inputs": ["\ud800"], "params": {"adapter": FILMS}}, 400, "row 0"),
    ],
)
def test_what_is_refused(app: Running, body: Any, status: int, says: str) -> None:
    response = app.client.post("/invocations", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == status
    assert says in response.json()["error"]


@pytest.mark.parametrize("body", ["", "{", "[" * 100_000, "\x00"])
def test_what_is_no_json_is_refused(app: Running, body: str) -> None:
    response = app.client.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400 and "no JSON" in response.json()["error"]


@pytest.mark.parametrize(("body", "says"), [(b"\xff\xfe", "no CSV"), (b"text\na,b\n", "row 0 has more or fewer")])
def test_what_is_no_csv_is_refused(app: Running, body: bytes, says: str) -> None:
    response = app.client.post("/invocations", content=body, headers={"content-type": "text/csv"})
    assert response.status_code == 400 and says in response.json()["error"]
