"""``beft inspect`` and ``beft datasets``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.workspace import Beft, describe
from tests.support.tiny_bases import save_base


def test_inspect_counts_what_the_model_has(beft: Beft, tiny: Callable[..., Any]) -> None:
    answer = beft("inspect", "base", "--json")
    assert answer.status == 0
    found = json.loads(answer.out)
    biases = {name: value for name, value in tiny("bert").named_parameters() if name.startswith("bert.encoder.layer")}
    expected = sum(value.numel() for name, value in biases.items() if name.endswith(".bias"))
    terms = {term["term"]: term for term in found["terms"]}
    assert sum(term["parameters"] for name, term in terms.items() if name != "embedding_norm") == expected
    assert terms["value"]["module"] == "bert.encoder.layer.*.attention.self.value"
    assert all(term["exists"] and term["inert"] is None for term in terms.values())


@pytest.mark.parametrize("more", [(), ("--inert",)])
def test_inspect_tells_what_a_run_would_refuse(more: tuple[str, ...], beft: Beft, tmp_path: Path) -> None:
    base = Path(shutil.copytree("base", tmp_path / "base"))
    (base / "tokenizer.json").unlink()
    answer = beft("inspect", base, *more)
    assert (answer.status, answer.out) == (2, "")
    assert "holds no vocabulary" in answer.err
    run = beft("train", "prepared", "--term", "value", "--out", tmp_path / "out", "--set", f"base.source={base}")
    assert run.err == answer.err


def test_inspect_names_the_pooling(beft: Beft, tmp_path: Path) -> None:
    base = Path(shutil.copytree("base", tmp_path / "base"))
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text('{"pooling_mode": "max"}')
    assert ", pooling max\n" in beft("inspect", base).out
    assert json.loads(beft("inspect", base, "--json").out)["pooling"] == "max"


def test_a_length_that_the_base_does_not_take_is_said(
    beft: Beft, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = Path(shutil.copytree("base", tmp_path / "base"))
    set_length = ("datasets", "check", "films", "--set", f"base.source={base}", "--set")
    assert beft(*set_length, "datasets.films.max_length=48").status == 0
    assert "datasets.films.max_length is 48, but the base takes 32 tokens: texts are cut there" in caplog.text
    (base / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    assert beft(*set_length, "datasets.films.max_length=16").status == 0
    assert "max_length is 16, but the base was made for texts of 12 tokens" in caplog.text
    (base / "sentence_bert_config.json").write_text('{"max_seq_length": "long"}')
    assert "max_seq_length is 'long'" in beft(*set_length, "datasets.films.max_length=16").err


def test_datasets_check_looks_at_the_base_too(beft: Beft, made: Path, tmp_path: Path) -> None:
    """At its tokenizer's files, and at how many of the user's words it knows."""
    base = Path(shutil.copytree("base", tmp_path / "base"))
    source = f"base.source={base}"
    assert beft("datasets", "check", "films", "--set", source).status == 0
    texts = [f"{chr(0x4E00 + number)}{chr(0x6000 + number)}" * 4 for number in range(400)]
    lines = [f"{text},{'up' if number % 2 else 'down'}" for number, text in enumerate(texts)]
    (tmp_path / "foreign.csv").write_text("words,mark\n" + "\n".join(lines), encoding="utf-8")
    described = describe(made, "foreign", source={"kind": "files", "train": str(tmp_path / "foreign.csv")})
    foreign = described.rename(tmp_path / "foreign.yaml")
    refused = beft("datasets", "check", foreign, "--set", source)
    assert (refused.status, refused.out) == (2, "")
    assert (
        "of the tokens of the rows of foreign to learn from are unknown to the base's tokenizer ([UNK])" in refused.err
    )
    (base / "tokenizer.json").unlink()
    assert "holds no vocabulary" in beft("datasets", "check", "films", "--set", source).err


def test_inspect_measures_that_the_key_bias_is_inert(beft: Beft) -> None:
    answer = beft("inspect", "base", "--inert")
    rows = {line.split()[0]: line.split() for line in answer.out.splitlines() if line and line.split()[1:2] == ["2"]}
    assert rows["key"][5] == "all"
    assert rows["value"][5] == rows["query"][5] == "none"


def test_inspect_says_what_can_be_added(beft: Beft) -> None:
    answer = beft("inspect", "bare")
    assert answer.status == 0
    assert answer.out.count("can be added") == 6
    assert "0 parameters" in answer.out.splitlines()[-1]


def test_inspect_names_the_slice_of_a_fused_projection(beft: Beft, tiny: Callable[..., Any], tmp_path: Path) -> None:
    base = save_base(tmp_path / "gpt2", tiny("gpt2"))
    found = json.loads(beft("inspect", base, "--json").out)
    modules = {term["term"]: term["module"] for term in found["terms"]}
    assert modules["value"] == "transformer.h.*.attn.c_attn[64:96]"


def test_datasets(beft: Beft) -> None:
    listed = beft("datasets", "ls").out
    assert "rotten_tomatoes" in listed and "imdb" in listed and "films" in listed
    [stsb] = [line.split() for line in listed.splitlines() if line.startswith("stsb ")]
    assert stsb[2:5] == ["regression", "spearman,", "pearson"]
    found = {one["name"]: one["found"] for one in json.loads(beft("datasets", "ls", "--json").out)}
    assert (found["imdb"], found["films"]) == ("package", "files")
    assert "words" in beft("datasets", "show", "films").out
    facts = json.loads(beft("datasets", "check", "films", "--size", "100", "--json").out)
    assert facts["rows"] == {"train": 80, "dev": 20, "gate": 40, "test": 40}
    by_path = beft("datasets", "check", "data/datasets/films.yaml", "--size", "100")
    assert "Left out: duplicates" in by_path.out


def test_settings_called_params_yml_are_not_passed_over(beft: Beft, made: Path) -> None:
    (made / "params.yaml").rename(made / "params.yml")
    try:
        answer = beft("datasets", "check", "films")
    finally:
        (made / "params.yml").rename(made / "params.yaml")
    assert answer.status == 2
    assert "params.yml: rename it to params.yaml" in answer.err
