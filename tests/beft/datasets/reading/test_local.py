"""Files of the reader's own in the place of the hub: which are taken, how each layout is read, what is said without."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets as hub_datasets
import pytest

from beft.datasets.description import DatasetError
from beft.datasets.preparation import prepare_source
from beft.datasets.prepared import Rows, load_split, load_summary
from beft.datasets.reading.loaders import fetch_source, source_identity, whereabouts
from beft.datasets.reading.local import VARIABLE
from beft.datasets.registry import find_dataset
from beft.settings import SplitSettings
from tests.beft.datasets.reading.test_loaders import HUB
from tests.beft.datasets.small import describe, texts

SPLIT = SplitSettings(gate_rows=20, test_rows=20)
SPLITS = ("train", "dev", "gate", "test")
MNLI_LABELS = ("entailment", "neutral", "contradiction")
MNLI_HEADER = "index\tpromptID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the variable names."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    return tmp_path / "own"


def write(folder: Path, files: dict[str, str]) -> None:
    """Write text files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def lines(row: Callable[[int], str], rows: range, header: str | None = None) -> str:
    """A text file with a line a row."""
    return "".join(f"{line}\n" for line in ([header] if header else []) + [row(n) for n in rows])


def json_lines(row: Callable[[int], dict[str, Any]], rows: range) -> str:
    """A JSON Lines file."""
    return lines(lambda n: json.dumps(row(n)), rows)


def made(name: str, root: Path, size: int | str = 40) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Fetch and prepare an embedded dataset: its summary and its splits."""
    raw, out = root / "raw", root / "prepared"
    raw.mkdir()
    out.mkdir()
    fetch_source(find_dataset(name, root), raw, root)
    prepare_source(raw, out, size=size, settings=SPLIT)
    return load_summary(out), {split: load_split(out, split) for split in SPLITS}


def everything(splits: dict[str, Rows]) -> Rows:
    """The rows that are learnt from, and gate."""
    return Rows(
        *[[value for split in SPLITS[:3] for value in getattr(splits[split], name)] for name in ("ids", "texts")],
        pairs=None,
        labels=[label for split in SPLITS[:3] for label in splits[split].labels],
    )


TRAIN, TEST = range(80), range(100, 110)
QUOTED = '"a quote that never ends'


@pytest.mark.parametrize(
    ("name", "files", "text", "pair", "label"),
    [
        ("sst2", {f"SST-2/{split}.tsv": lines(lambda n: f'{QUOTED} {n} \t{n % 2}', rows, "sentence\tlabel")
                  for split, rows in (("train", TRAIN), ("dev", TEST))},
         f"{QUOTED} 105 ", None, 1),
        ("cola", {f"CoLA/{split}.tsv": lines(lambda n: f"gj04\t{n % 2}\t{'*' * (1 - n % 2)}\tA line {n}.", rows)
                  for split, rows in (("train", TRAIN), ("dev", TEST))},
         "A line 105.", None, 1),
        ("qnli", {f"QNLI/{split}.tsv": lines(
            lambda n: f"{n}\tWhat {n}?\tThat {n}.\t{'not_' * (n % 2)}entailment", rows,
            "index\tquestion\tsentence\tlabel") for split, rows in (("train", TRAIN), ("dev", TEST))},
         "What 105?", "That 105.", 1),
        ("mnli", {f"MNLI/{split}.tsv": lines(
            lambda n: f"{n}\t{n}\tfiction\t( p )\tPremise {n}\tGuess {n}\tx\t{MNLI_LABELS[n % 3]}",
            rows, MNLI_HEADER) for split, rows in (("train", TRAIN), ("dev_matched", TEST))},
         "Premise 105", "Guess 105", 0),
        ("mrpc", {f"MRPC/{split}.tsv": lines(lambda n: f"{n % 2}\t1\t2\tFirst {n}\tSecond {n}", rows,
                                             "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String")
                  for split, rows in (("train", TRAIN), ("dev", TEST))},
         "First 105", "Second 105", 1),
        ("stsb", {f"STS-B/{split}.tsv": lines(lambda n: f"{n}\tnews\tFirst {n}\tSecond {n}\t{n % 11 / 2:.3f}", rows,
                                              "index\tgenre\tsentence1\tsentence2\tscore")
                  for split, rows in (("train", TRAIN), ("dev", TEST))},
         "First 105", "Second 105", 3.0),
        ("qqp", {f"QQP/{split}.tsv": lines(
            lambda n: f"{n}\t1\t2\tIs it {n}?\tIt is {n}?\t{n % 2}" if n % 10 != 9 else f"{n}\t1\ttorn", rows,
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate") for split, rows in (("train", TRAIN), ("dev", TEST))},
         "Is it 105?", "It is 105?", 1),
        ("rte", {f"RTE/{split}.jsonl": json_lines(
            lambda n: {"premise": f"P {n}", "hypothesis": f"H {n}", "label": f"{'not_' * (n % 2)}entailment", "idx": n},
            rows) for split, rows in (("train", TRAIN), ("val", TEST))},
         "P 105", "H 105", 1),
        ("boolq", {f"BoolQ/{split}.jsonl": json_lines(
            lambda n: {"question": f"is it {n}", "passage": f"It is {n}.", "label": n % 2 == 1, "idx": n}, rows)
            for split, rows in (("train", TRAIN), ("val", TEST))},
         "It is 105.", "is it 105", 1),
        ("cb", {f"CB/{split}.jsonl": json_lines(
            lambda n: {"premise": f"P {n}", "hypothesis": f"H {n}",
                       "label": ("entailment", "contradiction", "neutral")[n % 3]}, rows)
            for split, rows in (("train", TRAIN), ("val", TEST))},
         "P 105", "H 105", 0),
        ("wic", {f"WiC/{split}.jsonl": json_lines(
            lambda n: {"word": "it", "sentence1": f"It {n}", "sentence2": f"Is it {n}", "label": n % 2 == 1}, rows)
            for split, rows in (("train", TRAIN), ("val", TEST))},
         "It 105", "Is it 105 The word: it", 1),
        ("wsc", {f"WSC/{split}.jsonl": json_lines(
            lambda n: {"text": f"Ann {n} said she left.", "label": n % 2 == 1, "idx": n, "target": {
                "span1_index": 0, "span1_text": "Ann", "span2_index": 3, "span2_text": "she"}}, rows)
            for split, rows in (("train", TRAIN), ("val", TEST))},
         "Ann 105 said *she* left.", 'Does the pronoun "*she*" refer to Ann?', 1),
    ],
)  # fmt: skip
def test_every_published_layout(
    name: str, files: dict[str, str], text: str, pair: str | None, label: float, folder: Path, tmp_path: Path
) -> None:
    write(folder, files)
    summary, splits = made(name, tmp_path)
    test = splits["test"]
    lost = len(TEST) // 10 if name == "qqp" else 0
    assert len(test) == len(TEST) - lost
    at = test.texts.index(text)
    assert (test.pairs[at] if test.pairs else None, test.labels[at]) == (pair, label)
    learnt = everything(splits)
    assert len(learnt) == 60  # gate 20, sample 40
    assert summary["raw_rows"] == len(TRAIN) + len(TEST) - (9 if name == "qqp" else 0)
    assert summary["source"]["origin"] == f"{VARIABLE}: {', '.join(files)}"


def test_multirc_copa_and_record(folder: Path, tmp_path: Path) -> None:
    def passage(n: int) -> dict[str, Any]:
        answers = [{"text": f"answer {n} {at}", "idx": at, "label": at % 2} for at in range(4)]
        questions = [{"question": f"what {n}?", "idx": n, "answers": answers}]
        return {"idx": n, "passage": {"text": f"passage {n}", "questions": questions}}

    def premise(n: int) -> dict[str, Any]:
        return {
            "premise": f"He ran {n}.",
            "choice1": f"a {n}",
            "choice2": f"b {n}",
            "question": "cause",
            "label": n % 2,
        }

    def story(n: int) -> dict[str, Any]:
        entities = [{"start": 0, "end": 2}, {"start": 8, "end": 10}]
        answer = [{"start": 8, "end": 10, "text": "Bob"}]
        queries = [{"query": f"@placeholder {n}", "answers": answer, "idx": n}]
        return {"passage": {"text": f"Ann and Bob.\n@highlight\n{n}", "entities": entities}, "qas": queries, "idx": n}

    for split, rows in (("train", TRAIN), ("val", TEST)):
        for name, row in (("MultiRC", passage), ("COPA", premise), ("ReCoRD", story)):
            write(folder, {f"{name}/{split}.jsonl": json_lines(row, rows)})
    roots = {name: tmp_path / name for name in ("multirc", "copa", "record")}
    for root in roots.values():
        root.mkdir()
    summary, splits = made("multirc", roots["multirc"])
    assert (len(splits["test"]), summary["groups"]["test"]) == (40, 10)
    assert splits["test"].groups is not None and set(splits["test"].groups) == {f"test {n}-{n}" for n in TEST}
    assert all(splits[split].groups and splits[split].groups.count(group) == 4  # type: ignore[union-attr]
               for split in SPLITS for group in splits[split].groups or [])  # fmt: skip
    _, splits = made("copa", roots["copa"], size=30)
    at = splits["test"].texts.index("He ran 105 because")
    assert splits["test"].choices is not None
    assert (splits["test"].choices[at], splits["test"].labels[at]) == (["a 105", "b 105"], 1)
    summary, splits = made("record", roots["record"])
    test = splits["test"]
    at = test.texts.index("Ann and Bob.\n105")  # the mark of the highlight is no text
    assert test.choices is not None and test.answers is not None and test.pairs is not None
    assert (test.pairs[at], test.choices[at], test.answers[at]) == ("@placeholder 105", ["Ann", "Bob"], ["Bob"])
    assert test.labels[at] == 1


def test_squad_and_drop(folder: Path, tmp_path: Path) -> None:
    def article(rows: range) -> str:
        paragraphs = [
            {"context": f"Ann is {n}.", "qas": [{"question": "How old?", "answers": [{"text": f"{n}"}], "id": f"{n}"}]}
            for n in rows
        ]
        return json.dumps({"data": [{"title": "Ann", "paragraphs": paragraphs}]})

    def question(n: int) -> dict[str, Any]:
        return {"passage": f"Ann is {n}.", "question": "How old?", "answers": [f"{n}", f"{n} years"]}

    write(folder, {"SQuAD/train-v1.1.json": article(TRAIN), "SQuAD/dev-v1.1.json": article(TEST)})
    write(folder, {"DROP/dev.jsonl.gz": json_lines(question, TRAIN)})
    (tmp_path / "squad").mkdir()
    (tmp_path / "drop").mkdir()
    _, splits = made("squad", tmp_path / "squad")
    test = splits["test"]
    assert test.answers is not None
    assert (len(test), test.labels, test.answers[test.texts.index("Ann is 105.")]) == (10, [], ["105"])
    summary, splits = made("drop", tmp_path / "drop")
    assert not summary["own_test"]
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 32, "dev": 8, "gate": 20, "test": 20}
    assert "the dev split alone" in summary["source"]["files"][0]["note"]


def test_the_first_alternative_that_is_there_is_taken_and_named(folder: Path, tmp_path: Path) -> None:
    def row(n: int) -> dict[str, Any]:
        return {"question1": f"a {n}?", "question2": f"b {n}?", "label": str(n % 2)}

    description = find_dataset("qqp", tmp_path)
    assert whereabouts(description, tmp_path) == "hub"
    write(folder, {"QQP/train_sample8999.jsonl": json_lines(row, TRAIN)})
    assert whereabouts(description, tmp_path) == "hub"  # no test
    write(folder, {"QQP/heldout_sample1000.jsonl": json_lines(row, TEST)})
    assert whereabouts(description, tmp_path) == VARIABLE
    before = source_identity(description, tmp_path)
    assert set(before) == {"description", "train/QQP/train_sample8999.jsonl", "test/QQP/heldout_sample1000.jsonl"}
    summary, _ = made("qqp", tmp_path)
    taken = {file["name"]: file.get("note") for file in summary["source"]["files"]}
    assert "a sample of the training set" in str(taken["QQP/train_sample8999.jsonl"])
    assert "not GLUE's dev split" in str(taken["QQP/heldout_sample1000.jsonl"])
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    write(folder, {"QQP/dev.tsv": lines(lambda n: f"{n}\t1\t2\ta {n}?\tb {n}?\t{n % 2}", TEST, header)})
    assert set(source_identity(description, tmp_path)) == {
        "description",
        "train/QQP/train_sample8999.jsonl",
        "test/QQP/dev.tsv",
    }


def test_the_hub_and_the_files_give_the_same_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = {
        "train": [{"premise": f"P {n}", "hypothesis": f"H {n}", "label": n % 3, "idx": n} for n in TRAIN],
        "validation_matched": [{"premise": f"P {n}", "hypothesis": f"H {n}", "label": n % 3, "idx": n} for n in TEST],
    }
    monkeypatch.setattr(
        hub_datasets, "load_dataset", lambda *_, split, revision: hub_datasets.Dataset.from_list(hub[split])
    )
    (tmp_path / "hub").mkdir()
    summary, by_hub = made("mnli", tmp_path / "hub")
    assert summary["source"]["origin"].startswith("hub:nyu-mll/glue@")
    for split, name in (("train", "train"), ("dev_matched", "validation_matched")):
        text = lines(
            lambda n: f"{n}\t{n}\tfiction\t( p )\tP {n}\tH {n}\tx\t{MNLI_LABELS[n % 3]}",
            TRAIN if name == "train" else TEST,
            MNLI_HEADER,
        )
        write(folder, {f"MNLI/{split}.tsv": text})
    (tmp_path / "files").mkdir()
    _, by_files = made("mnli", tmp_path / "files")
    assert by_files == by_hub


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"MNLI/train.tsv": "a\tb\n1\t2\n"}, "train.tsv: unknown column 'sentence1'. Known: a, b"),
        ({"MNLI/train.tsv": f"{MNLI_HEADER}\n1\t2\n"}, "train.tsv, line 2: it has 2 fields, not the 8"),
        ({"MNLI/dev_matched.jsonl": '{"premise": "a", "hypothesis": "b"}\n', "MNLI/train.jsonl": "{}\n"},
         "unknown column 'label'. Known: hypothesis, premise"),
        ({"MNLI/dev_matched.jsonl": '{"premise": "a", "hypothesis": "b", "label": "-"}\n', "MNLI/train.jsonl": "{}\n"},
         "'-' is none of the labels entailment"),
    ],
)  # fmt: skip
def test_a_wrong_layout(files: dict[str, str], told: str, folder: Path, tmp_path: Path) -> None:
    write(folder, {"MNLI/dev_matched.jsonl": "{}\n", **files})
    with pytest.raises(DatasetError, match=told):
        made("mnli", tmp_path)


@pytest.mark.parametrize(
    ("name", "files", "told"),
    [
        ("squad", {"SQuAD/train-v1.1.json": "[1]", "SQuAD/dev-v1.1.json": "[]"},
         "train-v1.1.json is not in the layout 'squad': row 1: expected an object with 'title', found a number"),
        ("squad", {"SQuAD/train-v1.1.json": "{", "SQuAD/dev-v1.1.json": "[]"}, "train-v1.1.json: it is not JSON"),
        ("multirc", {"MultiRC/train.jsonl": '{"a": 1}\n', "MultiRC/val.jsonl": '{"a": 1}\n'},
         "val.jsonl is not in the layout 'multirc': row 1: expected 'passage', found only 'a'"),
    ],
)  # fmt: skip
def test_a_wrong_nested_layout(name: str, files: dict[str, str], told: str, folder: Path, tmp_path: Path) -> None:
    write(folder, files)
    with pytest.raises(DatasetError) as raised:
        made(name, tmp_path)
    assert told in str(raised.value)


def test_a_file_that_is_no_gzip_file(folder: Path, tmp_path: Path) -> None:
    write(folder, {"DROP/dev.jsonl": "{}"})
    (folder / "DROP" / "dev.jsonl").rename(folder / "DROP" / "dev.jsonl.gz")
    with pytest.raises(DatasetError, match=r"dev.jsonl.gz cannot be read as a gzip file"):
        made("drop", tmp_path)


@pytest.mark.parametrize("is_set", [True, False])
def test_neither_hub_nor_files(is_set: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to the hub.\nand more")

    monkeypatch.setattr(hub_datasets, "load_dataset", unreachable)
    if not is_set:
        monkeypatch.delenv(VARIABLE)
    with pytest.raises(DatasetError) as raised:
        made("cb", tmp_path)
    told = str(raised.value)
    assert "the hub data set aps/super_glue (split train, revision " in told
    assert "no route to the hub. Check" in told
    where = f"{folder}, which {VARIABLE} names, lacks files" if is_set else f"{VARIABLE} is not set"
    assert told.endswith(f"{where}: it needs CB/train.jsonl and CB/val.jsonl")
    assert len(told.splitlines()) == 1


def test_where_a_dataset_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert whereabouts(find_dataset("rotten_tomatoes", tmp_path), tmp_path) == "package"
    assert whereabouts(find_dataset("sst2", tmp_path), tmp_path) == "hub"
    assert whereabouts(describe(tmp_path), tmp_path) == "missing"
    (tmp_path / "rows.jsonl").write_text(json_lines(lambda n: texts(1, n)[0], TRAIN))
    assert whereabouts(describe(tmp_path), tmp_path) == "files"
    assert whereabouts(describe(tmp_path, source=HUB), tmp_path) == "hub"
