"""Raw files of every format: each value as it stands in the file, and an error that says where a file is broken."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beft.datasets.description import DatasetError
from beft.datasets.reading.loaders import fetch_source
from beft.datasets.reading.raw_data import RawFile, read_raw
from tests.beft.datasets.small import describe


def read(root: Path, name: str, contents: bytes, **source: Any) -> RawFile:
    """Fetch and read a dataset of one file, whose columns are a and b."""
    (root / name).write_bytes(contents)
    columns = {"text": "a", "label": "b"}
    fetch_source(describe(root, source={"kind": "files", "train": name, **source}, columns=columns), root / "raw", root)
    (file,) = read_raw(root / "raw").files
    return file


@pytest.mark.parametrize(
    ("name", "contents", "source", "columns"),
    [
        ("a.csv", b"a,b\nNA,1.0\nnull,\n", {}, {"a": ["NA", "null"], "b": ["1.0", ""]}),
        ("a.csv", b'a,b\r\n"x\r\ny, ""z""",1\r\n', {}, {"a": ['x\r\ny, "z"'], "b": ["1"]}),
        ("a.csv", b"\xef\xbb\xbfa,b\n1,2\n", {}, {"a": ["1"], "b": ["2"]}),
        ("a.csv", b'a,b\n"x,1\n', {"quotes": False}, {"a": ['"x'], "b": ["1"]}),
        ("a.csv", b"a\n\nx\n\n", {}, {"a": ["x"]}),
        ("a.tsv", b'a\tb\n"x\t1\n', {}, {"a": ['"x'], "b": ["1"]}),
        ("a.tsv", b'a\tb\n"x\ty"\t1\n', {"quotes": True}, {"a": ["x\ty"], "b": ["1"]}),
        ("a.tsv", b"gj04\t1\t\tA line.\n", {"header": ["a", "b", "c", "d"]},
         {"a": ["gj04"], "b": ["1"], "c": [""], "d": ["A line."]}),
        ("a.dat", b"a,b\n1,2\n", {"format": "csv"}, {"a": ["1"], "b": ["2"]}),
        ("a.csv", "a\ncaf\u00e9\n".encode("latin-1"), {"encoding": "latin-1"}, {"a": ["caf\u00e9"]}),
        ("a.jsonl", b'{"a": "x", "b": 1}\n\n{"a": null, "c": [true]}\n', {},
         {"a": ["x", None], "b": [1, None], "c": [None, [True]]}),
        ("a.jsonl", b'{"a": "2020-01-01"}\n', {}, {"a": ["2020-01-01"]}),  # text, never a date
    ],
)  # fmt: skip
def test_values_are_as_in_the_file(
    name: str, contents: bytes, source: dict[str, Any], columns: dict[str, list[Any]], tmp_path: Path
) -> None:
    file = read(tmp_path, name, contents, **source)
    assert file.columns == columns


@pytest.mark.parametrize(
    ("name", "contents", "source", "told"),
    [
        (
            "a.csv",
            b"a,b\n1,2\n1,2,3\n",
            {},
            "a.csv, line 3: it has 3 fields, not the 2 of the header. Correct the line",
        ),
        ("a.csv", b'a,b\n"x,1\ny,2\n', {}, 'a.csv, line 2: a field begins with " and nothing closes it'),
        ("a.csv", b'a,b\n"x"z,1\n', {}, "a.csv, line 2: ',' expected after"),
        ("a.csv", b"a,a\n1,2\n", {}, "a.csv: the column 'a' is there 2 times: rename or remove all but one"),
        ("a.csv", b"a\n\xff\n", {}, "a.csv, line 2: the byte 0xff is not utf-8 .* for example cp1252"),
        ("a.csv", b"a\nx\n", {"encoding": "klingon"}, "'klingon' is no encoding"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', {}, "a.jsonl, line 2: it is not JSON"),
        ("a.jsonl", b"[1]\n", {}, "a.jsonl, line 1: it must be a JSON object, not list"),
        ("a.parquet", b"PAR1 not really", {}, "a.parquet cannot be read as Parquet"),
        ("a.csv", b"lang,b\n1,2\n", {"where": {"land": 1}}, "unknown column 'land'. Did you mean 'lang'"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where(
    name: str, contents: bytes, source: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=told):
        read(tmp_path, name, contents, **source)


def test_parquet_keeps_its_types_and_where_compares_values_not_types(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", None, "c"], "label": [1.0, 2.0, 1.0], "keep": [True, False, True]})
    pq.write_table(table, tmp_path / "made.parquet")
    file = read(tmp_path, "a.parquet", (tmp_path / "made.parquet").read_bytes(), where={"label": 1, "keep": True})
    assert file.columns == {"text": ["a", "c"], "label": [1.0, 1.0], "keep": [True, True]}
    assert file.numbers == [1, 3]


def test_a_folder_without_a_raw_source(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"holds no raw source: there is no valid source.json in it; fetch it again"):
        read_raw(tmp_path)


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=8))
@settings(deadline=None, max_examples=25)
def test_any_text_comes_through_csv_and_jsonl(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("any")

    def writable(text: str) -> str:
        return text.encode("utf-8", "replace").decode().replace("\x00", "")

    rows = [(writable(first), writable(second)) for first, second in rows]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    lines = "".join(json.dumps({"a": first, "b": second}, ensure_ascii=False) + "\n" for first, second in rows)
    expected = {"a": [first for first, _ in rows], "b": [second for _, second in rows]}
    assert read(root, "a.csv", buffer.getvalue().encode()).columns == expected
    assert read(root, "a.jsonl", lines.encode()).columns == expected
