"""The Open Inference Protocol: JSON and bytes, metadata, and what is refused."""

import contextlib
import json
import re
import struct
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.errors import InputError
from beft.inference.questions import Questions
from flows.serving.tensors import BINARY_HEADER, InferenceRequest, read_request, write_response
from tests.beft.serving.adapters import alone
from tests.flows.serving.conftest import Registry, Running

FILMS, THREE, SCORE, CHOICE = "beft-tiny-films", "beft-tiny-three", "beft-tiny-score", "beft-tiny-choice"


def texts(*rows: str, name: str = "text") -> dict[str, Any]:
    return {"name": name, "shape": [len(rows)], "datatype": "BYTES", "data": list(rows)}


def outputs(response: Any) -> dict[str, Any]:
    return {one["name"]: one for one in response.json()["outputs"]}


@pytest.mark.parametrize("path", [FILMS, f"{FILMS}/versions/1", f"{FILMS}/versions/champion", f"{FILMS}@champion"])
def test_answers(app: Running, filled: Registry, path: str) -> None:
    response = app.client.post(
        f"/v2/models/{path}/infer", json={"id": "mine", "inputs": [texts("a good film", "fine")]}
    )
    assert response.status_code == 200
    body, found = response.json(), outputs(response)
    adapter = filled.adapters[FILMS, "1"]
    expected = [row.softmax(-1)[0].tolist() for row in alone(filled.base, adapter, Questions(["a good film", "fine"]))]
    assert found["probabilities"]["shape"] == [2, 2]
    assert found["probabilities"]["data"] == pytest.approx([*expected[0], *expected[1]], abs=1e-5)
    assert found["label"]["data"] == [adapter.labels[row.index(max(row))] for row in expected]
    assert found["truncated"] == {"name": "truncated", "shape": [2], "datatype": "BOOL", "data": [False, False]}
    assert (body["model_name"], body["model_version"], body["id"]) == (FILMS, "1", "mine")
    assert body["parameters"]["sha256"] == adapter.sha256


def test_values_and_choices(app: Running) -> None:
    response = app.client.post(f"/v2/models/{SCORE}/infer", json={"inputs": [texts("fine")]})
    assert outputs(response)["value"]["datatype"] == "FP64"
    choices = {
        "name": "choices",
        "shape": [2, 3],
        "datatype": "BYTES",
        "data": ["a", "film", "", "good", "fine", "dull"],
    }
    response = app.client.post(f"/v2/models/{CHOICE}/infer", json={"inputs": [texts("fine", "dull"), choices]})
    found = outputs(response)
    assert found["choice"]["data"][0] in ("a", "film") and found["index"]["datatype"] == "INT64"
    assert found["probabilities"]["shape"] == [2, 3] and found["probabilities"]["data"][2] == 0


def test_metadata(app: Running) -> None:
    assert app.client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    found = app.client.get(f"/v2/models/{THREE}").json()
    assert (found["name"], found["versions"], found["platform"]) == (THREE, ["1"], "beft")
    assert found["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    assert found["parameters"]["labels"] == "x, y, z"
    assert [app.client.get(f"/v2/models/{name}/ready").status_code for name in (THREE, "other")] == [200, 404]
    assert app.client.get(f"/v2/models/{THREE}/versions/7").status_code == 404


def test_bytes_in_and_out(app: Running) -> None:
    part = b"".join(struct.pack("<I", len(text)) + text for text in (b"a good film", "naïve".encode()))
    head = json.dumps(
        {
            "inputs": [
                {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(part)}}
            ],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}],
        }
    ).encode()
    response = app.client.post(
        f"/v2/models/{FILMS}/infer", content=head + part, headers={BINARY_HEADER: str(len(head))}
    )
    length = int(response.headers[BINARY_HEADER])
    described = {one["name"]: one for one in json.loads(response.content[:length])["outputs"]}
    found = np.frombuffer(response.content[length:], dtype=np.float32).reshape(2, 2)
    assert described["probabilities"]["parameters"]["binary_data_size"] == 16
    assert found.sum(1) == pytest.approx([1, 1])
    assert set(described) == {"probabilities", "label"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": []}, "the input 'text' is missing"),
        ({}, "the body must be"),
        ({"inputs": [texts("a", name="txt")]}, "no input 'txt'"),
        ({"inputs": [{**texts("a"), "datatype": "FP32"}]}, "texts are BYTES"),
        ({"inputs": [{**texts("a"), "shape": [2]}]}, "has 1 texts, but the shape [2]"),
        ({"inputs": [{**texts("a"), "shape": [1, 1, 1]}]}, "it must be [rows]"),
        ({"inputs": [{**texts("a"), "shape": [-1]}]}, "it must be [rows]"),
        ({"inputs": [{**texts("a"), "data": [1]}]}, "must have a list of texts"),
        ({"inputs": [texts("a"), texts("b", "c", name="text_pair")]}, "1 rows of text, but 2"),
        ({"inputs": [texts("a"), texts("b", name="choices")]}, "[rows, choices]"),
        ({"inputs": [texts("a")], "outputs": [{"name": "logits"}]}, "no output 'logits'"),
        ({"inputs": [texts("a")], "outputs": ["label"]}, "outputs must be a list of objects"),
        ({"inputs": [{**texts("a"), "parameters": {"binary_data_size": 9}}]}, "but 0 bytes follow"),
    ],
)
def test_what_is_refused(app: Running, body: Any, says: str) -> None:
    response = app.client.post(f"/v2/models/{FILMS}/infer", json=body)
    assert response.status_code == 400 and says in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": [{**texts("a"), "shape": [10**4000, 10**4000]}]}, "has 1 texts, but the shape"),
        ({"inputs": [{**texts("a"), "data": "a"}]}, "must have a list of texts"),
        ({"inputs": [texts("a"), {**texts(name="choices"), "shape": [1, 0]}]}, "the shape [1, 0]"),
        ({"inputs": [texts("a"), {**texts(name="choices"), "shape": [10**12, 0]}]}, "with a column at least"),
        ({"inputs": [texts("a")], "outputs": 5}, "outputs must be a list of objects"),
        ({"inputs": [texts("a")], "outputs": [{"name": "label", "parameters": [1]}]}, "the output 'label' has"),
        ({"inputs": [{**texts("a"), "parameters": [1]}]}, "the input 'text' has the parameters [1]"),
        ({"inputs": [texts("a")], "parameters": "x"}, "the request has the parameters 'x'"),
    ],
)
def test_what_is_no_request(body: Any, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        read_request(json.dumps(body).encode(), None)


@pytest.mark.parametrize("length", ["²", "-1", "", "1_0", "9" * 5000, "300"])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(InputError, match=BINARY_HEADER):
        read_request(b'{"inputs": []}', length)


def test_an_id_that_no_header_may_hold(app: Running) -> None:
    for request_id in ("日本", "a\r\nSet-Cookie: b", " a", "a\x7f"):
        for name, status, field in ((FILMS, 200, "id"), ("nothing", 404, "request_id")):
            response = app.client.post(f"/v2/models/{name}/infer", json={"id": request_id, "inputs": [texts("a")]})
            assert response.status_code == status
            assert response.json()[field] == request_id
            assert response.headers["X-Request-ID"] == uuid.uuid5(uuid.NAMESPACE_OID, request_id).hex


def test_an_unknown_adapter_is_never_the_base(app: Running) -> None:
    response = app.client.post("/v2/models/beft-tiny-film/infer", json={"inputs": [texts("a")]})
    assert response.status_code == 404 and FILMS in response.json()["error"]


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_break_the_reader(body: bytes, length: int) -> None:
    with contextlib.suppress(InputError):
        read_request(body, str(length))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=5), st.booleans())
def test_texts_come_back_as_they_were(rows: list[str], binary: bool) -> None:
    wanted = InferenceRequest("", {}, {}, binary, {})
    content, headers = write_response({}, {"text": np.array(rows, dtype=object)}, wanted)
    length = int(headers.get(BINARY_HEADER, len(content)))
    head = json.loads(content[:length])
    again = json.dumps({"inputs": head["outputs"]}).encode()
    found = read_request(again + content[length:], str(len(again)))
    assert found.texts["text"] == rows
