"""``beft merge`` and ``beft export``."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from tests.cli.workspace import Beft
from tests.support.tiny_bases import TEXTS


def test_merge_keeps_heads_and_averages_biases(beft: Beft, made: Path, tmp_path: Path) -> None:
    from beft.adapters.adapter import Adapter

    answer = beft("merge", "first/adapter", "second/adapter", "--out", tmp_path / "merged")
    assert answer.status == 0, answer.err
    assert "union" in answer.err
    first, second = Adapter.load(made / "first" / "adapter"), Adapter.load(made / "second" / "adapter")
    merged = Adapter.load(tmp_path / "merged" / "first")
    for site, delta in second.deltas.items():
        before = first.deltas.get(site, torch.zeros_like(delta))
        torch.testing.assert_close(merged.deltas[site], (before + delta) / 2)
    for name, value in first.head.items():
        assert torch.equal(merged.head[name], value)
    assert beft("predict", tmp_path / "merged" / "second", "--base", "base", "fine").status == 0


def test_merge_with_weights_and_scale(beft: Beft, made: Path, tmp_path: Path) -> None:
    from beft.adapters.adapter import Adapter

    arguments = ("--method", "task_arithmetic", "--scale", 0.5, "--weight", 1, "--weight", -2)
    assert beft("merge", "first/adapter", "second/adapter", "--out", tmp_path / "merged", *arguments).status == 0
    first, second = Adapter.load(made / "first" / "adapter"), Adapter.load(made / "second" / "adapter")
    merged = Adapter.load(tmp_path / "merged" / "second")
    for site, delta in first.deltas.items():
        torch.testing.assert_close(merged.deltas[site], 0.5 * delta - second.deltas[site])


def test_merge_by_ties_with_options(beft: Beft, made: Path, tmp_path: Path) -> None:
    """Each adapter is trimmed by itself; PEFT elects and averages what is left."""
    from peft.utils.merge_utils import ties

    from beft.adapters.adapter import Adapter

    arguments = ("--method", "ties", "--option", "density=0.25", "--option", "scale=0.5")
    assert beft("merge", "first/adapter", "second/adapter", "--out", tmp_path / "merged", *arguments).status == 0
    adapters = [Adapter.load(made / name / "adapter").deltas for name in ("first", "second")]
    sites = sorted({*adapters[0], *adapters[1]})
    trimmed = []
    for deltas in adapters:
        smallest = (
            torch.cat(list(deltas.values())).abs().sort(descending=True).values[sum(map(len, deltas.values())) // 4]
        )
        parts = [deltas.get(site, torch.zeros(site.width)) for site in sites]
        trimmed.append(torch.cat([part.where(part.abs() > smallest, 0.0) for part in parts]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = 0.5 * ties(trimmed, torch.ones(2), density=1.0)
    merged = Adapter.load(tmp_path / "merged" / "second").deltas
    torch.testing.assert_close(torch.cat([merged[site] for site in sites]), expected)


def test_merge_chooses_on_dev(beft: Beft, tmp_path: Path) -> None:
    from beft.files import read_json

    kept = ("--set", "train.loss=cross_entropy")  # the default for so few rows trains on those of dev as well
    for term in ("value", "query"):
        assert beft("train", "prepared", "--term", term, "--out", tmp_path / term, *kept).status == 0
    prepared = ("--prepared", "prepared", "--prepared", "prepared", "--base", "base")
    for method, number in (("dare", 4), ("searched_weights", 32)):
        out = tmp_path / method
        answer = beft("merge", tmp_path / "value", tmp_path / "query", "--out", out, "--method", method, *prepared)
        assert answer.status == 0, answer.err
        found = read_json(out / "merge.json")
        assert len(found["tried"]) == number
        assert f"{number} merges on 20 dev rows" in answer.err, "the cost is said before"
        best = max(found["tried"], key=lambda one: (one["relative"], -one["loss"]))
        assert (best["options"], best["weights"]) == (found["recipe"]["options"], found["recipe"]["weights"])
    row = json.loads(beft("predict", out / "value", "--base", "base", "--json", TEXTS[0]).out)
    assert sum(row["probabilities"].values()) == pytest.approx(1)


def test_prepared_data_with_other_labels_are_refused(beft: Beft, tmp_path: Path) -> None:
    prepared = ("--prepared", "prepared", "--prepared", "prepared", "--base", "base")
    refused = beft("merge", "first/adapter", "second/adapter", "--out", tmp_path / "out", *prepared)
    assert refused.status == 2 and not (tmp_path / "out").exists()
    expected = "--prepared prepared is not what this adapter was trained for: its labels are down, up; those of the"
    assert expected in refused.err


def test_export_is_a_plain_model_with_the_same_answers(beft: Beft, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert beft("export", "first/adapter", "--base", "base", "--out", tmp_path / "plain").status == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    with torch.no_grad():
        expected = torch.softmax(model(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0], -1)
    row = json.loads(beft("predict", "first/adapter", "--base", "base", "--json", TEXTS[0]).out)
    assert [row["probabilities"][model.config.id2label[number]] for number in range(3)] == pytest.approx(
        expected.tolist(), abs=1e-5
    )
