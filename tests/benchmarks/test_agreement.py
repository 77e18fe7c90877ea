"""The reader of GLUE's files, the plain loop, and the comparison of both sides, on a tiny base."""

import json
from pathlib import Path

import pytest
import torch

from beft.datasets.reading.local import VARIABLE
from beft.errors import InputError
from beft.inference.runs import Run
from beft.models.device import Compute
from beft.settings import Settings
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from benchmarks.common import machine
from benchmarks.common.glue import glue_data, glue_rows
from benchmarks.common.plain_loop import train_plainly
from benchmarks.quality import agreement
from tests.conftest import build_tiny
from tests.support.rows import plain_settings, random_rows, tiny_classifier
from tests.support.tiny_bases import WORDS, load, save_base

ROWS = {"train": 70, "dev": 30}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as BEFT_DATA_DIR names one: quotes and all, for GLUE's files quote nothing."""
    sentences = [f'{one} {other} "film' for one in WORDS for other in WORDS]
    at = 0
    for split, rows in ROWS.items():
        of_split = range(at, at + rows)
        at += rows
        sst = ["sentence\tlabel", *(f"{sentences[row]} \t{row % 2}" for row in of_split)]
        rte = ["index\tsentence1\tsentence2\tlabel"]
        rte += [f"{row}\t{sentences[row]}\ta film\t{('not_' * (row % 2))}entailment" for row in of_split]
        for name, lines in (("SST-2", sst), ("RTE", rte)):
            path = tmp_path / "data" / name / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base", build_tiny("bert"), pooling="mean")


def test_glue_rows(folder: Path, base: Path) -> None:
    classifier = load(base)
    for name, labels in (("sst2", ["negative", "positive"]), ("rte", ["entailment", "not_entailment"])):
        rows = glue_rows(classifier, name, 40, 24)
        assert len(rows) == 40 and sorted(set(rows.labels)) == [0, 1]
        with glue_data(name, 40) as prepared:
            facts = json.loads((prepared / "data.json").read_text())
        assert facts["labels"] == labels
        assert facts["rows"]["test"] == ROWS["dev"] and facts["own_test"]
        assert facts["text_pairs"] == (name == "rte")


def test_glue_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match=VARIABLE), glue_data("rte"):
        pass


def test_plain_loop_is_the_engine_when_both_see_the_same_batches() -> None:
    classifier = tiny_classifier(pooling="mean")
    rows = random_rows(30)
    settings = plain_settings(
        epochs=6, batch_size=30, learning_rate=1e-2, head_learning_rate=1e-3, warmup_fraction=0.3, dropout=False
    )
    head = {
        name: value.double()
        for name, value in agreement.drawn_head(classifier, classifier.head_parameters(), 5).items()
    }
    run = Run("run", find_sites(classifier.model, ["value"]), tuple(head), 5, settings, "last", head)
    [result] = fit(classifier, rows, None, [run], metric=lambda probabilities, labels: 0.0)
    before = {name: value.clone() for name, value in classifier.model.named_parameters()}
    trained = dict(
        train_plainly(classifier, rows, settings, biases=".value.bias", head=head, seed=5).model.named_parameters()
    )
    for site, delta in result.deltas.items():
        moved = trained[f"{site.module}.bias"] - before[f"{site.module}.bias"]
        torch.testing.assert_close(delta, moved.detach(), rtol=0, atol=1e-9)
    for name, value in result.head.items():
        torch.testing.assert_close(value, trained[name].detach(), rtol=0, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.named_parameters())


def test_interval() -> None:
    found = agreement.Interval.of([0.7, 0.8, 0.9])
    assert found.mean == pytest.approx(0.8)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert not found.contains_zero
    assert agreement.Interval.of([0.1, -0.2]).contains_zero


def test_both_sides_are_measured_and_written(folder: Path, base: Path) -> None:
    settings = Settings.from_mapping(
        {
            "base": {"source": str(base), "threads": 1},
            "datasets": {"rte": {"size": 40, "epochs": 1, "max_length": 24}},
        }
    )
    found = agreement.measure(settings, "rte", range(2))
    assert found["rows"] == {"train": 40, "evaluation": ROWS["dev"]}
    described = machine.describe(Compute("cpu", "fp32", 1)) | {"base": "tiny"}
    agreement.write([found], ["sst2 was skipped"], described, folder)
    written = json.loads((folder / "agreement.json").read_text())
    assert [len(of_side) for of_side in written["datasets"][0]["accuracy"].values()] == [2, 2]
    table = (folder / "agreement.md").read_text()
    assert "| rte | 40, 30 | 1 |" in table and "agree" in table and "sst2 was skipped" in table


def test_a_measurement_is_not_used_again_where_either_side_or_the_data_changed(
    folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_mapping(
        {"base": {"source": str(base), "threads": 1, "precision": "fp32"}, "datasets": {"rte": {"size": 40}}}
    )
    before = agreement.identity(settings, "rte", range(2))
    assert agreement.identity(settings, "rte", range(2)) == before
    (folder / "data" / "RTE" / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n")
    other_data = agreement.identity(settings, "rte", range(2))
    other_loop = tmp_path / "plain_loop.py"
    other_loop.write_text(agreement.PLAIN_LOOP.read_text() + "# changed")
    monkeypatch.setattr(agreement, "PLAIN_LOOP", other_loop)
    assert len({before, other_data, agreement.identity(settings, "rte", range(2))}) == 3
