"""The program of the peers: what runs without their environment, on a tiny base."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from benchmarks.few_labels import peer_program
from benchmarks.few_labels.peer_program import MeanPooledClassifier, full, lora
from tests.conftest import HIDDEN, LAYERS, build_tiny
from tests.support.tiny_bases import TEXTS, save_base

LABELS = 3
SETTINGS = {"learning_rate": 1e-3, "epochs": 2}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = save_base(tmp_path_factory.mktemp("peers") / "base", build_tiny("bert"))
    return {
        "base": str(folder),
        "max_length": 32,
        "labels": LABELS,
        "train": {"texts": list(TEXTS), "labels": [0, 1, 2, 0, 1]},
        "test": {"texts": [*TEXTS, "a dull dull dull story, not a good film"]},
    }


def test_the_program_imports_nothing_of_this_project() -> None:
    tree = ast.parse(Path(peer_program.__file__).read_text())
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert modules and not {name.split(".")[0] for name in modules} & {"beft", "benchmarks", "tasks", "flows"}


def test_the_head_reads_the_mean_of_the_tokens_without_padding(jobs: dict[str, Any]) -> None:
    model = MeanPooledClassifier(jobs["base"], LABELS).eval()
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    encoder = AutoModel.from_pretrained(jobs["base"]).eval()
    with torch.no_grad():
        pooled = encoder(input_ids=ids).last_hidden_state[0].mean(0)
        expected = model.classifier.weight @ pooled + model.classifier.bias
        padded = torch.cat([ids, torch.ones(1, 4, dtype=torch.long)], dim=1)
        mask = torch.tensor([[1] * 5 + [0] * 4])
        found = model(padded, mask, labels=torch.tensor([2]))
    torch.testing.assert_close(found["logits"][0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["loss"], -expected.log_softmax(0)[2], atol=1e-5, rtol=1e-5)


def test_each_peer_trains_what_it_should(jobs: dict[str, Any]) -> None:
    head = LABELS * (HIDDEN + 1)
    of_lora = lora(jobs, SETTINGS, 0)
    assert of_lora["trained"] == LAYERS * 2 * 8 * 2 * HIDDEN + head
    of_base = sum(value.numel() for value in build_tiny("bert").base_model.parameters())
    unused_pooler = HIDDEN * (HIDDEN + 1)
    of_full = full(jobs, SETTINGS, 0)
    assert of_full["trained"] == of_base - unused_pooler + head
    for found in (of_lora, of_full):
        assert len(found["predictions"]) == len(jobs["test"]["texts"])
        assert found["seconds"] > 0


def test_predictions_are_in_the_order_of_the_texts(jobs: dict[str, Any]) -> None:
    """Trained until it knows its rows, each prediction is the label of its own text, whatever the order."""
    settings = {**SETTINGS, "epochs": 60, "learning_rate": 1e-2}
    order = [2, 0, 4, 1, 3]
    texts, labels = ([jobs["train"][name][row] for row in order] for name in ("texts", "labels"))
    assert full({**jobs, "test": {"texts": texts}}, settings, 0)["predictions"] == labels


def test_trainings_are_answered_by_name(jobs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = [{"name": f"rate {rate}", "method": "lora", "seed": 0, "settings": {"r": rate}} for rate in (1, 2)]
    monkeypatch.setitem(peer_program.METHODS, "lora", lambda jobs, settings, seed: {"trained": settings["r"]})
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: None)
    source, target = tmp_path / "jobs.json", tmp_path / "answers.json"
    source.write_text(json.dumps({**jobs, "threads": 1, "products": "highest", "trainings": trainings}))
    peer_program.main([str(source), str(target)])
    assert json.loads(target.read_text()) == {"rate 1": {"trained": 1}, "rate 2": {"trained": 2}}
