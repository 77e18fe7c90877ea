"""An adapter that gives a row several labels, or none, is served: both protocols, what is kept, and feedback."""

import json
from dataclasses import replace

import numpy as np
import pytest

from beft.inference.predictor import Predictor
from beft.inference.questions import Questions
from beft.problems.multi_label import MultiLabel
from tasks.serving.feedback import labelled_answers
from tests.beft.serving.adapters import Kind, alone
from tests.flows.serving.conftest import Registry
from tests.flows.serving.test_inference_v2 import outputs, texts
from tests.flows.serving.test_recorder import kept, recording

TAGS = "beft-tiny-tags"
LABELS = ("billing", "login", "praise")
TEXTS = ["a good film", "dull", "the film was long and dull"]


def thresholds_between(registry: Registry, kind: Kind) -> tuple[float, ...]:
    """Thresholds that the first two texts lie on different sides of, all far from 0.5 but the last."""
    registry.add("beft-tiny-first", kind, canary=False)
    adapter = registry.adapters["beft-tiny-first", "1"]
    found = np.array([of_row[0].sigmoid().tolist() for of_row in alone(registry.base, adapter, Questions(TEXTS))])
    return tuple(found[:2].mean(0).tolist())


def test_a_row_gets_the_labels_above_their_thresholds(registry: Registry) -> None:
    kind = Kind(LABELS, problem_type=MultiLabel(3), seed=3)
    kind = replace(kind, problem_type=MultiLabel(3, thresholds_between(registry, kind)))
    registry.add(TAGS, kind)
    adapter = registry.adapters[TAGS, "1"]
    expected = np.array([of_row[0].sigmoid().tolist() for of_row in alone(registry.base, adapter, Questions(TEXTS))])
    given = expected >= adapter.problem_type.thresholds
    assert given[0].tolist() != given[1].tolist()
    sets = [[label for label, one in zip(LABELS, of_row, strict=True) if one] for of_row in given]

    folder = next(path for path in (registry.root / "adapters").iterdir() if path.name == "1")
    predictor = Predictor(folder, base=registry.base.folder)
    answer = predictor.answer(TEXTS)
    assert [row["labels"] for row in answer.rows()] == sets
    np.testing.assert_allclose(answer.probabilities.numpy(), expected, atol=1e-5)
    assert predictor.predict([]) == []

    app = recording(registry)
    ask = {"inputs": TEXTS, "params": {"adapter": TAGS}}
    body = app.client.post("/invocations", json=ask, headers={"X-Request-ID": "mine"}).json()["predictions"]
    assert [row["labels"] for row in body] == sets
    for row, probabilities in zip(body, expected, strict=True):
        assert [row[f"probability_{label}"] for label in LABELS] == pytest.approx(probabilities, abs=1e-5)

    response = app.client.post(f"/v2/models/{TAGS}/infer", json={"inputs": [texts(*TEXTS)]})
    found = outputs(response)
    assert [json.loads(one) for one in found["labels"]["data"]] == sets
    assert found["given"]["datatype"] == "BOOL" and found["given"]["data"] == given.ravel().tolist()
    assert found["probabilities"]["data"] == pytest.approx(expected.ravel(), abs=1e-5)
    described = app.client.get(f"/v2/models/{TAGS}").json()["outputs"]
    assert {one["name"]: one["shape"] for one in described} == {
        "labels": [-1],
        "given": [-1, 3],
        "probabilities": [-1, 3],
        "truncated": [-1],
    }
    [listed] = [one for one in app.client.get("/v1/adapters").json()["adapters"] if one["name"] == TAGS]
    assert listed["problem_type"] == "multi_label"
    assert listed["thresholds"] == pytest.approx(adapter.problem_type.thresholds)

    told = [
        {"request_id": "mine", "row": 0, "label": ["login", "praise"]},
        {"request_id": "mine", "row": 1, "label": []},
    ]
    assert app.client.post("/v1/feedback", json={"feedback": told}).json() == {"kept": 2}
    app.server.close()
    records = [one for one in kept(registry) if one["request_id"] == "mine"]
    assert [json.loads(one["predicted"]) for one in records] == sets
    certain = np.where(given, expected, 1 - expected).mean(1)
    assert [one["confidence"] for one in records] == pytest.approx(certain, abs=1e-5)
    labelled = labelled_answers(registry.root / "runs" / "traffic", TAGS)
    assert [json.loads(one) for one in labelled["label"]] == [["login", "praise"], []]
