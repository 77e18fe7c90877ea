"""The folder that the commands work in."""

import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import status_of
from tests.cli.workspace import Answer, Beft, describe, prepare
from tests.support.tiny_bases import WORDS, load, make_adapter, save_base


@pytest.fixture(scope="module")
def made(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two bases, three adapters, a dataset of the user's own, its prepared data, and settings."""
    root = tmp_path_factory.mktemp("cli")
    base = save_base(root / "base", tiny("bert"))
    other = save_base(root / "other", tiny("bert", seed=5))
    save_base(root / "bare", tiny("llama"))
    classifier = load(base)
    make_adapter(classifier).save(root / "first" / "adapter")
    make_adapter(classifier, ("value", "query")).save(root / "second" / "adapter")
    make_adapter(load(other)).save(root / "stranger")
    descriptions = root / "data" / "datasets"
    descriptions.mkdir(parents=True)
    lines = ["words,mark"]
    for number in range(400):
        mood = "good fine touching" if number % 2 else "not dull a"
        others = " ".join(WORDS[(number // 10**at) % 10] for at in range(3))
        lines.append(f"{mood} {others},{'up' if number % 2 else 'down'}")
    (root / "films.csv").write_text("\n".join(lines) + "\n")
    describe(root, "films")
    settings = {
        "base": {"source": str(base), "threads": 1, "precision": "fp32"},
        "datasets": {"films": {"size": 100, "max_length": 16}},
        "probe": {"epochs": 1},
        "train": {"epochs": 1},
        "split": {"test_rows": 40, "gate_rows": 40},
        "evaluate": {"resamples": 100},
        "tracking": {"experiment": "of the tests"},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    prepare(root, "films", root / "prepared")
    return root


@pytest.fixture
def beft(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Beft:
    """``beft(*arguments, stdin="")``: run a command in the folder."""
    monkeypatch.chdir(made)
    monkeypatch.delenv("BEFT_DEBUG", raising=False)
    # Once a test has imported Prefect here, its log goes to that test's stderr, which is closed now.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def run(*arguments: object, stdin: str = "") -> Answer:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        capsys.readouterr()
        status = status_of([str(argument) for argument in arguments])
        return Answer(status, *capsys.readouterr())

    return run
