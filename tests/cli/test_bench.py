"""``beft bench``: the user's own base and data, timed."""

import json
import time
from pathlib import Path

import pytest

from tests.cli.workspace import Beft, describe, everything
from tests.conftest import build_tiny
from tests.support.tiny_bases import tiny_tokenizer


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beft.cli.bench._MIN_SECONDS", 0.02)
    monkeypatch.setattr("beft.cli.bench._MAX_SECONDS", 0.02)


def test_a_table_of_the_settings_own_base_and_data(beft: Beft, made: Path) -> None:
    before = everything(made)
    answer = beft("bench")
    assert answer.status == 0, answer.err
    assert "measuring films for about" in answer.err
    lines = answer.out.splitlines()
    assert lines[0].startswith("base on cpu in fp32, 1 thread on ".replace("base", str(made / "base")))
    assert "films: 80 train, 20 dev, 40 gate, 40 test; " in answer.out
    for work in ("Fisher information", "probe", "training of value", "1,000 predictions", "a large product"):
        assert any(line.startswith(work) for line in lines), work
    assert "1 epoch of 80 rows" in answer.out
    assert "A run over this dataset computes for about" in answer.out
    assert "share: of the speed of this base's matrix products alone" in answer.out
    assert everything(made) == before


def test_json_and_another_base(beft: Beft, made: Path) -> None:
    began = time.monotonic()
    answer = beft("bench", "--base", "other", "--dataset", "films", "--set", "train.epochs=4", "--json")
    took = time.monotonic() - began
    found = json.loads(answer.out)
    assert found["base"] == "other"
    [films] = found["datasets"]
    assert films["works"][2]["extent"] == "4 epochs of 80 rows"
    assert found["run_seconds"] == films["run_seconds"] > sum(work["seconds"] for work in films["works"][:3])
    assert found["machine"]["threads"] == 1 and found["machine"]["product"] > 0
    assert isinstance(found["likely_reasons"], list)
    assert took < 60


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--dataset", "flims"), "Did you mean 'films'"),
        (("--base", "./nowhere"), "nowhere is no model folder"),
        (("--base", "bare"), "base.add_biases"),
        (("--set", "train.epoch=3"), "epochs"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_message(beft: Beft, arguments: tuple[str, ...], expected: str) -> None:
    answer = beft("bench", *arguments)
    assert answer.status == 2
    assert expected in answer.err
    assert "Traceback" not in answer.err and not answer.out


def test_a_decoder_that_answers_a_prompt(beft: Beft, made: Path, tmp_path: Path) -> None:
    """Without a head; its biases are added."""
    build_tiny("llama", causal=True, tie_word_embeddings=False).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    describe(made, "asked", prompt={"template": "{text} the film was", "answers": {"down": " dull", "up": " fine"}})
    changed = ("--set", "base.add_biases=true", "--set", "datasets.asked={size: 40, max_length: 24}")
    answer = beft("bench", "--base", tmp_path, "--dataset", "asked", *changed, "--json")
    assert answer.status == 0, answer.err
    [asked] = json.loads(answer.out)["datasets"]
    assert asked["rows"]["train"] == 32
    assert all(work["share"] > 0 and work["seconds"] > 0 for work in asked["works"])
