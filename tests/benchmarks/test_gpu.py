"""The program for GPUs: that it refuses where there is none, and that all of it runs, on tiny shapes on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.common.random_models import Shape, random_classifier, random_rows
from benchmarks.common.work import run_of
from benchmarks.speed import compiled_steps, gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "CUDA" in line


def test_large_models_are_not_for_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu"]) == 2
    assert "--tiny" in capsys.readouterr().err


def test_all_of_it_on_tiny_shapes(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--tiny", "--models", "BERT-base", "--repetitions", "1"]
    assert gpu.main([*options, "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["command"].startswith('make gpu ARGS="--device cpu --tiny --models BERT-base ')
    found = written["models"]["BERT-base"]
    assert found["published"]["ratio"] > 0 and found["together"]["ratio"] > 0 and not found["split"]
    assert written["little_memory"]["rows"] == gpu.TINY.large_rows
    assert [one["failed"] for one in written["compiling"].values()] == [None, None]
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("reached") == 2 and "torch.compile" in table


def test_a_way_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"backend": "no such backend"}
    monkeypatch.setattr(compiled_steps, "ways", lambda device: {"broken": options, compiled_steps.AS_IT_IS: None})
    classifier = random_classifier(Shape("bert", 1, 32, 2, 64, vocabulary=100, positions=64))
    run = run_of(classifier, "value", ["value"])
    found = compiled_steps.measure(classifier, random_rows([8] * 32, 100), run, "cpu")
    assert found["broken"].step is None and "no such backend" in str(found["broken"].failed)
    assert found[compiled_steps.AS_IT_IS].failed is None
    assert "forward" not in classifier.model.__dict__
