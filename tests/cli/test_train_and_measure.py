"""``beft probe``, ``score``, ``train`` and ``measure``."""

import json
from pathlib import Path

import pytest

from tests.cli.workspace import Beft, everything


def test_probe_score_train_predict(beft: Beft, tmp_path: Path) -> None:
    """The science without any pipeline, from prepared data to a prediction."""
    assert beft("probe", "prepared", "--out", tmp_path / "probe").status == 0
    scored = json.loads(beft("score", tmp_path / "probe", "--json").out)
    assert scored["selection"]["target"] in ("query", "value")
    assert scored["inert"]["key"]["inert"]
    table = beft("score", tmp_path / "probe", "--set", "score.select_by=fisher")
    assert "Target term:" in table.out and "fisher" in table.out
    target = scored["selection"]["target"]
    trained = beft("train", "prepared", "--term", target, "--out", tmp_path / "adapter", "--set", "train.epochs=2")
    assert trained.status == 0, trained.err
    assert "epoch 2/2" in trained.err
    answer = beft("predict", tmp_path / "adapter", "--base", "base", "good fine touching")
    assert answer.out.split("\t")[0] in ("up", "down")


EMBEDDINGS = (128 + 64 + 2) * 32 + 2 * 32


LAYER = 4 * (32 * 32 + 32) + (32 * 48 + 48) + (48 * 32 + 32) + 2 * 2 * 32


POOLER = 32 * 32 + 32


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ("full", EMBEDDINGS + 2 * LAYER + POOLER),
        ("rand_uniform", 64),
        ("rand_uniform --weights-of intermediate", 96),
        ("rand_uniform --weights 300", 300),
        ("lora --rank 2", 2 * 2 * 2 * (32 + 32)),
    ],
)
def test_measure_trains_weights(beft: Beft, made: Path, arguments: str, weights: int) -> None:
    before = everything(made)
    method, *options = arguments.split()
    settings = ("--set", "train.epochs=2", "--set", "train.loss=cross_entropy")
    answer = beft("measure", method, "prepared", *options, *settings, "--json")
    assert answer.status == 0, answer.err
    facts = json.loads(answer.out)
    [found], [row] = facts["runs"], facts["methods"]
    assert found["trained_parameters"] == weights
    assert found["trainable_parameters"] == row["trainable_parameters"] == weights + 2 * 32 + 2
    assert found["percent"] == 100 * found["trainable_parameters"] / found["model_parameters"]
    assert [record["epoch"] for record in found["history"]] == [1, 2]
    dev = [(record["dev_metric"], -record["dev_loss"]) for record in found["history"]]
    assert found["best_epoch"] == 1 + dev.index(max(dev))
    tried = [one["learning_rate"] for one in found["learning_rates_tried"]]
    usual = {"full": 5e-5, "rand_uniform": 1e-3, "lora": 5e-4}[method]
    assert tried == pytest.approx([0.3 * usual, usual, 3 * usual]), "not those of the biases"
    assert found["training"]["learning_rate"] in tried and row["learning_rates_tried"] == tried
    accuracy = found["scores"]["test"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert (row["value"], row["low"], row["high"]) == (accuracy["value"], accuracy["low"], accuracy["high"])
    assert everything(made) == before


def test_measure_puts_methods_side_by_side(beft: Beft) -> None:
    """The labels of the made-up films follow from single words, so that any training but a dead one finds them."""
    asked = "full, value,key,prefix"
    answer = beft("measure", asked, "prepared", "--seeds", "2", "--learning-rate", "0.01", "--set", "train.epochs=3")
    assert answer.status == 0, answer.err
    assert "8 runs in 1 pass" in answer.err, "the inert key has one rate in each seed, value three"
    assert "epoch 3/3" in answer.err
    lines = answer.out.splitlines()
    [full] = [line for line in lines if "full" in line]
    assert full.split()[:5] == ["full", "2", "0.01", "22402", "100"]
    assert full.split()[-3:] == ["1.0000", "[1.0000,", "1.0000]"]
    [key] = [line for line in lines if "key" in line]
    assert key.split()[:7] == ["key", "(inert:", "head", "alone)", "2", "\N{EN DASH}", "66"]
    assert "value: 0.003, 0.01, 0.03" in answer.out and "full: " not in answer.out
    assert [line.split()[0] for line in lines if line.split()[1:2] == ["2"]] == ["value", "prefix", "full"]
    assert "the mean over seeds with its t interval, 95 %" in answer.out
    assert "films on sha256:" in answer.out
    written = beft("measure", "head_only", "prepared", "--markdown")
    assert "| head_only | 1 | \N{EN DASH} | 66 |" in written.out
    usual = beft("measure", "value", "prepared", "--usual-rates", "--set", "train.epochs=1", "--json")
    [found] = json.loads(usual.out)["runs"]
    assert (found["training"]["learning_rate"], found["learning_rates_tried"]) == (0.01, [])


def test_without_params_the_defaults_hold(
    beft: Beft, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert beft("probe", "prepared", "--out", tmp_path / "probe").status == 0
    monkeypatch.chdir(tmp_path)
    assert beft("score", "probe", "--json").status == 0
