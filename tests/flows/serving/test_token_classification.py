"""An adapter that tags words is served: in mixed batches, by both protocols, long texts too; what is kept of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from beft.errors import InputError
from beft.inference.predictor import Predictor
from beft.inference.questions import Questions
from beft.problems.token_classification import TokenClassification
from beft.serving.canary import Canary
from beft.serving.engine import Engine
from beft.serving.reference import DriftReference
from tasks.serving.feedback import labelled_answers, read_feedback, told_labels
from tests.beft.serving.adapters import COMPUTE, Kind, alone, draw_adapter, engine_with, tiny_base
from tests.flows.serving.conftest import Registry
from tests.flows.serving.test_inference_v2 import outputs, texts
from tests.flows.serving.test_recorder import kept, recording

NAMES, FILMS = "beft-tiny-names", "beft-tiny-films"
KIND = Kind(("person", "place"), problem_type=TokenClassification(2), pooling="model", seed=3, max_length=12)
TEXTS = ["a good film", "the film was long, and dull. " * 6, "dull"]


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen2", "distilbert"])
def test_a_mixed_batch_gives_each_row_what_it_gets_alone(family, tmp_path):
    """Law 4, with windows of long texts, over families whose two kinds of heads have other names."""
    base = tiny_base(tmp_path / "base", family)
    adapters = [
        draw_adapter(base, KIND),
        draw_adapter(base, Kind()),
        draw_adapter(base, Kind(**{**vars(KIND), "seed": 9})),
    ]
    engine, served = engine_with(base, adapters)
    rows = [row for one in served for row in engine.encode(one, TEXTS)]
    before = engine.forwards
    found = engine.outputs(rows[::-1])[::-1]
    assert engine.forwards == before + 1
    for number, adapter in enumerate(adapters):
        expected = np.concatenate([one.numpy() for one in alone(base, adapter, Questions(TEXTS))])
        of_adapter = np.concatenate([one.numpy() for one in found[3 * number : 3 * number + 3]])
        np.testing.assert_allclose(of_adapter, expected, atol=1e-5)
    engine.close()


def test_spans_are_answered_and_kept(registry: Registry) -> None:
    registry.add(NAMES, KIND)
    registry.add(FILMS, Kind())
    folder = next(path for path in (registry.root / "adapters").iterdir() if path.name == "0")
    expected = [row["spans"] for row in Predictor(folder, base=registry.base.folder).predict(TEXTS)]
    assert sum(map(len, expected)) > 5

    app = recording(registry, features=1.0)
    [listed] = [one for one in app.client.get("/v1/adapters").json()["adapters"] if one["name"] == NAMES]
    assert listed["problem_type"] == "token_classification" and listed["verified"]
    mixed = [{"text": TEXTS[0], "adapter": FILMS}, *({"text": text, "adapter": NAMES} for text in TEXTS)]
    ask = {"dataframe_records": mixed}
    body = app.client.post("/invocations", json=ask, headers={"X-Request-ID": "mine"}).json()["predictions"]
    assert "label" in body[0] and not any(row["truncated"] for row in body)
    for row, spans in zip(body[1:], expected, strict=True):
        assert [{**span, "score": 0} for span in row["spans"]] == [{**span, "score": 0} for span in spans]
        assert [span["score"] for span in row["spans"]] == pytest.approx([span["score"] for span in spans], abs=1e-5)

    found = outputs(app.client.post(f"/v2/models/{NAMES}/infer", json={"inputs": [texts(*TEXTS)]}))
    read = [json.loads(one) for one in found["spans"]["data"]]
    assert [[span["text"] for span in spans] for spans in read] == [
        [one["text"] for one in spans] for spans in expected
    ]
    described = app.client.get(f"/v2/models/{NAMES}").json()["outputs"]
    assert {one["name"]: one["shape"] for one in described} == {"spans": [-1], "truncated": [-1]}

    right = [{"start": 0, "end": 1, "label": "place"}]
    told = {
        "feedback": [{"request_id": "mine", "row": 1, "label": right}, {"request_id": "mine", "row": 2, "label": []}]
    }
    assert app.client.post("/v1/feedback", json=told).json() == {"kept": 2}
    app.server.close()
    records = [one for one in kept(registry) if one["request_id"] == "mine"][1:]
    for record, spans in zip(records, expected, strict=True):
        named = [{name: span[name] for name in ("start", "end", "label")} for span in spans]
        assert json.loads(record["predicted"]) == named
        assert told_labels(record["predicted"]) == [span["label"] for span in spans]
        assert record["confidence"] == pytest.approx(
            np.mean([span["score"] for span in spans]) if spans else 1, abs=1e-5
        )
    labelled = labelled_answers(registry.root / "runs" / "traffic", NAMES)
    assert [json.loads(one) for one in labelled["label"]] == [right, []]


def test_what_later_traffic_is_compared_with(tmp_path):
    base = tiny_base(tmp_path / "base")
    draw_adapter(base, KIND).save(tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", base=base.folder)
    found = DriftReference.of(predictor, Questions(TEXTS), Questions(TEXTS))
    answered = predictor.predict(TEXTS)
    has = [[any(span["label"] == label for span in row["spans"]) for label in KIND.labels] for row in answered]
    assert found.answers.tolist() == np.array(has, float).tolist()
    draw_adapter(base, Kind(max_length=12)).save(tmp_path / "plain")
    plain = Predictor(tmp_path / "plain", base=base.folder)
    features = DriftReference.of(plain, Questions([TEXTS[0]]), Questions([TEXTS[0]])).features
    np.testing.assert_allclose(found.features[0], features[0], atol=1e-3)


def test_an_adapter_that_answers_otherwise_here_is_refused(tmp_path):
    base = tiny_base(tmp_path / "base")
    adapter = draw_adapter(base, KIND)
    adapter.save(tmp_path / "adapter")
    canary = Canary.of(Predictor(tmp_path / "adapter", base=base.folder))
    engine, [served] = engine_with(base, [adapter])
    [row] = engine.encode(served, ["a good film"])
    [outputs_here] = engine.outputs([row])
    with pytest.raises(InputError, match="the canary has outputs of shape"):
        canary.check(outputs_here, "fp32")


def test_a_head_that_the_base_cannot_compute_is_refused(tmp_path):
    base = tiny_base(tmp_path / "base")
    adapter = draw_adapter(base, KIND)
    deeper = replace(adapter, head={**adapter.head, "head.dense.bias": torch.zeros(3)})
    with pytest.raises(InputError, match=r"more than one layer on every word \(head\.dense\.bias\)"):
        Engine(base, COMPUTE).load(deeper)
    narrow = replace(adapter, head={name: value[..., :3] for name, value in adapter.head.items()})
    with pytest.raises(InputError, match=r"has the shape \[5, 3\]; over this base it must be \[5, "):
        Engine(base, COMPUTE).load(narrow)


def test_feedback_of_spans():
    [record] = read_feedback([{"request_id": "a", "label": [{"start": 0, "end": 4, "label": "x"}]}])
    assert told_labels(record.label) == ["x"]
    with pytest.raises(InputError, match="of texts or of spans"):
        read_feedback([{"request_id": "a", "label": [{"start": 0, "label": "x"}]}])
