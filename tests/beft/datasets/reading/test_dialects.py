"""Files as spreadsheets and exports write them: read in their dialect, or refused with the words that mend it."""

import csv
import gzip
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from beft.datasets.description import DatasetError, Description
from beft.datasets.reading.loaders import fetch_source
from beft.datasets.reading.raw_data import RawFile, read_columns, read_raw
from beft.datasets.reading.separated import Dialect, read_separated, suggested_dialect
from beft.datasets.sources import Reading

ROWS = [
    {"text": f"{text} (no. {number})", "label": label}
    for number in range(20)
    for text, label in (("splendid acting throughout", "pos"), ("tired jokes, no heart", "neg"))
]
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]


def described(root: Path, name: str, **changes: Any) -> Description:
    """The description of a dataset of one file; what is no part of a source replaces a part of the description."""
    parts = {key: changes.pop(key) for key in ("columns", "labels") if key in changes}
    values: dict[str, Any] = {
        "title": "films",
        "version": 1,
        "source": {"kind": "files", "train": name, **changes},
        "columns": {"text": "text", "label": "label"},
        "labels": ["neg", "pos"],
    }
    path = root / "films.yaml"
    path.write_text(yaml.safe_dump(values | parts, allow_unicode=True), encoding="utf-8")
    return Description.read(path)


def read(root: Path, name: str, contents: bytes | str, **changes: Any) -> RawFile:
    """Write a file, fetch it and read it."""
    (root / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    fetch_source(described(root, name, **changes), root / "raw", root)
    (file,) = read_raw(root / "raw").files
    return file


def refusal(root: Path, name: str, contents: bytes | str, **changes: Any) -> str:
    """What is said of a file that cannot be read: one message, exit status 2."""
    with pytest.raises(DatasetError) as raised:
        read(root, name, contents, **changes)
    assert raised.value.exit_status == 2
    return str(raised.value)


def lines(separator: str = ",", quote: str = "", header: str = "text{}label", end: str = "\n") -> str:
    """The rows as a file of fields."""
    rows = [header.format(separator)] if header else []
    rows += [f"{quote}{row['text'].replace(quote or '~', 2 * quote)}{quote}{separator}{row['label']}" for row in ROWS]
    return end.join(rows) + end


SEMICOLONS = lines(";", '"', header='"text"{}"label"')
SINGLE = "label;text\n" + "".join(f"{row['label']};'{row['text']}; so it''s said'\n" for row in ROWS)
SAID = [f"{text}; so it's said" for text in TEXTS]


@pytest.mark.parametrize(
    ("contents", "source", "texts"),
    [
        (SEMICOLONS, {"separator": ";"}, TEXTS),
        (SINGLE, {"separator": ";", "quote": "'"}, SAID),
        (lines("\t"), {"separator": "\t"}, TEXTS),
        (lines("|"), {"separator": "|", "quotes": False}, TEXTS),
        ("sep=;\r\n" + SEMICOLONS, {}, TEXTS),  # the line that Excel reads and writes
        ('"sep=|"\n' + lines("|"), {}, TEXTS),
        ("sep=;\n" + lines("\t"), {"separator": "\t"}, TEXTS),
        (lines(";", end="\r"), {"separator": ";"}, TEXTS),
        ("\ufeff" + SEMICOLONS, {"separator": ";"}, TEXTS),
    ],
)
def test_a_dialect_that_is_declared_is_read(
    contents: str, source: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    file = read(tmp_path, "films.csv", contents, **source)
    assert file.columns == {"text": texts, "label": LABELS}
    first = 3 if contents.lstrip('"').startswith("sep=") else 2
    assert file.numbers == list(range(first, first + len(ROWS)))


@pytest.mark.parametrize(
    ("name", "contents", "source", "advice"),
    [
        ("films.csv", SEMICOLONS, {}, 'say separator: ";" and quote: \'"\' in the source'),
        ("films.csv", SINGLE, {}, 'say separator: ";" and quote: "\'" in the source'),
        ("films.csv", SINGLE, {"separator": ";"}, 'say separator: ";" and quote: "\'" in the source'),
        ("films.csv", lines("\t"), {}, 'say separator: "\\t" in the source'),
        ("films.tsv", lines(",", '"'), {}, 'say separator: "," and quote: \'"\' in the source'),
        ("films.tsv", lines("\t", '"', header='"text"{}"label"'), {}, "quote: '\"' in the source"),
        ("films.csv", lines(",", '"'), {"separator": ";"}, 'say separator: "," and quote: \'"\' in the source'),
    ],
)
def test_without_it_one_sentence_says_what_to_declare_and_following_it_helps(
    name: str, contents: str, source: dict[str, Any], advice: str, tmp_path: Path
) -> None:
    told = refusal(tmp_path, name, contents, **source)
    assert advice in told
    assert len(told.splitlines()) == 1
    words = told.split(" dialect: say ")[1].removesuffix(" in the source of the description")
    declared = {key: value for part in words.split(" and ") for key, value in yaml.safe_load(part).items()}
    assert read(tmp_path, name, contents, **source | declared).columns["label"] == LABELS


def test_the_first_lines_suggest_a_dialect_without_a_description(tmp_path: Path) -> None:
    found = {}
    for name, contents in {
        "semicolons": SEMICOLONS,
        "single": SINGLE,
        "tabs": lines("\t"),
        "quotes": lines(",", '"'),
        "excel": "sep=;\n" + lines(";"),
        "apostrophes": "text,label\n" + "".join(f"'t is {number},neg\n" for number in range(60)),
        "one column": "text\n" + "\n".join(text.replace(",", "") for text in TEXTS),
    }.items():
        (tmp_path / name).write_text(contents)
        found[name] = suggested_dialect(tmp_path / name, Reading())
    assert found == {
        "semicolons": Dialect(";", '"'),
        "single": Dialect(";", "'"),
        "tabs": Dialect("\t", None),
        "quotes": Dialect(",", '"'),
        "excel": Dialect(";", None),
        "apostrophes": Dialect(",", None),
        "one column": None,
    }


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"separator": ";;"}, 'it must be one character (a tab is "\\t", in double quotes)'),
        ({"separator": "\n"}, "it must be one character"),
        ({"quote": "'", "quotes": False}, "quotes says that there is none"),
        ({"quote": ";", "separator": ";"}, "cannot enclose a field"),
        ({"seperator": ";"}, "Did you mean 'separator'?"),
        ({"separator": ";", "format": "jsonl"}, "'films.csv' is jsonl: separator can be said of CSV"),
    ],
)
def test_a_dialect_that_cannot_be(source: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as raised:
        described(tmp_path, "films.csv", **source)
    assert told in str(raised.value)


def test_what_was_fetched_before_keeps_its_description(tmp_path: Path) -> None:
    assert not {"separator", "quote"} & set(yaml.safe_load(described(tmp_path, "films.csv").to_yaml())["source"])
    declared = described(tmp_path, "films.csv", separator=";", quote="'")
    (tmp_path / "films.yaml").write_text(declared.to_yaml())
    assert Description.read(tmp_path / "films.yaml") == declared


def test_only_columns_that_are_named_must_be_unique(tmp_path: Path) -> None:
    rows = "".join(f'{label},"{text}",,,\n' for text, label in zip(TEXTS, LABELS, strict=True))
    columns = {"text": "v2", "label": "v1"}
    file = read(tmp_path, "spam.csv", "v1,v2,,,\n" + rows, columns=columns)
    assert file.columns == {"v1": LABELS, "v2": TEXTS}
    told = refusal(tmp_path, "spam.csv", "v1,v2,v1,,\n" + rows, columns=columns)
    assert "spam.csv: the column 'v1' is there 2 times: rename or remove all but one" in told

    for name, twice in (("fine.parquet", "other"), ("wrong.parquet", "text")):
        table = pa.Table.from_arrays(
            [pa.array(TEXTS), pa.array(LABELS), pa.array(TEXTS), pa.array(TEXTS)], ["text", "label", "other", twice]
        )
        pq.write_table(table, tmp_path / f"made-{name}")
    file = read(tmp_path, "fine.parquet", (tmp_path / "made-fine.parquet").read_bytes())
    assert file.columns == {"text": TEXTS, "label": LABELS}
    told = refusal(tmp_path, "wrong.parquet", (tmp_path / "made-wrong.parquet").read_bytes())
    assert "wrong.parquet: the column 'text' is there 2 times" in told

    row = '{"text": "a", "label": "pos", "more": {"text": 1}, "x": 1, "x": 2}\n'
    assert read(tmp_path, "films.jsonl", row).columns["text"] == ["a"]
    told = refusal(tmp_path, "films.jsonl", row + '{"text": "a", "label": "pos", "text": "b"}\n')
    assert "films.jsonl, line 2: the column 'text' is there 2 times" in told
    nested = {"text": "a", "label": "pos", "meta": {}}
    for name, form in (("films.jsonl", "{}\n"), ("films.json", "[{}]")):
        row = json.dumps(nested).replace("{}", '{"text": 1, "text": 2}')
        assert read(tmp_path, name, form.replace("{}", row)).columns["text"] == ["a"]
    told = refusal(tmp_path, "films.json", '[{"text": "a", "label": "pos", "text": "b"}]')
    assert "films.json: the column 'text' is there 2 times" in told


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("compressed", [False, True])
def test_utf_16_with_and_without_its_mark(encoding: str, compressed: bool, tmp_path: Path) -> None:
    contents = lines(",", '"').encode(encoding)
    name = "films.csv.gz" if compressed else "films.csv"
    if compressed:
        contents = gzip.compress(contents)
    assert read(tmp_path, name, contents, encoding=encoding).columns["text"] == TEXTS
    likely = {"utf-16": "utf-16", "utf-32": "utf-32"}.get(encoding, encoding)
    assert f"'encoding: {likely}'" in refusal(tmp_path, name, contents)  # read as UTF-8, which nobody declared
    if encoding != "utf-16":
        assert f"'encoding: {likely}'" in refusal(
            tmp_path, name, contents, encoding=encoding[:6] if "le" in encoding else "utf-16"
        )


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(encoding: str, tmp_path: Path) -> None:
    contents = ("\ufeff" + lines(",", '"')).encode(encoding)
    assert list(read(tmp_path, "films.csv", contents, encoding=encoding).columns) == ["text", "label"]
    joined = "".join("\ufeff" + json.dumps(row) + "\n" for row in ROWS)  # of files that were joined
    assert read(tmp_path, "films.jsonl", joined.encode(encoding), encoding=encoding).columns["text"] == TEXTS


def test_bytes_of_another_encoding_are_found_in_their_line(tmp_path: Path) -> None:
    long = "".join(f"line {number},pos\n" for number in range(3000))
    told = refusal(tmp_path, "films.csv", f"text,label\n{long}caf\u00e9,pos\n".encode("latin-1"))
    assert "films.csv, line 3002: the byte 0xe9 is not utf-8" in told
    assert "'encoding' in the source of the description, for example cp1252 (Windows) or latin-1" in told
    told = refusal(tmp_path, "films.csv", "text,label\na,\udcff\n".encode("utf-16", "surrogatepass"), encoding="utf-16")
    assert "films.csv, line 2: the byte 0xff is not utf-16" in told


@pytest.mark.parametrize(
    ("contents", "encoding", "said"),
    [
        (lines().encode(), "utf-16", "films.csv is not utf-16: it holds no zero byte"),
        (lines().encode(), "utf-16-le", "films.csv is not utf-16-le: it holds no zero byte"),
        (lines(",", '"').encode("utf-16") + b"x", "utf-16", "films.csv is not utf-16 behind line 41 (truncated data)"),
        (b"text,label\na\x81,pos\n", "cp1252", "films.csv, line 2: the byte 0x81 is not cp1252"),
        (b"", "rot13", "'rot13' is no encoding that Python knows"),
        (b"", "undefined", "'undefined' is no encoding that Python knows"),
    ],
)
def test_an_encoding_that_is_not_that_of_the_file(contents: bytes, encoding: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, "films.csv", contents, encoding=encoding)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (
            "# made by hand\n" + lines(",", '"'),
            "line 2: it has 2 fields, not the 1 of the header, which has none of the",
        ),
        ('label, text\npos, "a, b"\n', 'line 2: it has 3 fields, not the 2 of the header. A blank stands before a "'),
        ("text,label\na, b,pos\n", "(a field that holds ',' stands in \"), or say 'ragged: true'"),
        ('text,label\n"a \\"b\\" c",pos\n', "line 2: ',' expected after '\"'. Write \" twice inside"),
        ("great,pos\nbad,neg\n", "say 'header: […]' in the source of the description, with a name for each of the 2"),
    ],
)
def test_lines_that_are_not_in_the_dialect_are_told_what_helps(contents: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, "films.csv", contents)


def test_json_lines_under_another_name(tmp_path: Path) -> None:
    written = "".join(json.dumps(row) + "\n" for row in ROWS)
    file = read(tmp_path, "films.json", written)
    assert (file.columns["text"], file.numbers[-1], file.unit) == (TEXTS, len(ROWS), "line")
    assert read(tmp_path, "films.json", json.dumps(ROWS)).columns["text"] == TEXTS
    assert "line 41: it is not JSON" in refusal(tmp_path, "films.json", written + "{'text': 1}\n")
    assert "line 1: it must be a JSON object, not list (where the file is one list of objects, say 'format: json')" in (
        refusal(tmp_path, "films.jsonl", json.dumps(ROWS))
    )
    assert "line 1: it is not JSON: Expecting value at character 2" in (
        refusal(tmp_path, "films.jsonl", json.dumps(ROWS, indent=1))
    )
    by_column = json.dumps({"text": dict(enumerate(TEXTS)), "label": dict(enumerate(LABELS))})
    assert "to_json(orient='records')" in refusal(tmp_path, "films.json", by_column)
    assert "there is one under 'data': write that alone" in refusal(tmp_path, "films.json", json.dumps({"data": ROWS}))
    for wrong, said in (("[" * 100_000, "recursion"), ('{"text": ' + "9" * 5000 + "}", "Exceeds the limit")):
        assert said in refusal(tmp_path, "films.jsonl", written + wrong)


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("declared", "found"), [(NFC, NFD), (NFD, NFC)])
def test_accents_in_either_form(declared: str, found: str, tmp_path: Path) -> None:
    contents = f"text, {found}\n" + "".join(f"{text.replace(',', '')},{found}\n" for text in TEXTS) + "more,neg\n"
    columns = {"text": "text", "label": declared}
    file = read(tmp_path, "films.csv", contents, columns=columns, labels=["neg", declared], where={declared: declared})
    assert list(file.columns) == ["text", declared]
    assert len(file.columns[declared]) == len(ROWS)
    description = described(tmp_path, "films.csv", labels=["neg", declared])
    assert description.label_numbers == {"neg": 0, NFC: 1}


def foreign(root: Path, inner: str) -> bytes:
    """A zip archive with one member, as office programs write it."""
    with zipfile.ZipFile(root / "made.zip", "w") as archive:
        archive.writestr(inner, "<xml/>")
    return (root / "made.zip").read_bytes()


def test_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    told = refusal(tmp_path, "films.csv", foreign(tmp_path, "xl/workbook.xml"))
    assert "films.csv is an Excel workbook (xlsx): save its sheet as CSV (UTF-8)" in told
    assert "a zip archive: unpack it" in refusal(tmp_path, "films.csv", foreign(tmp_path, "films.csv"))
    pq.write_table(pa.table({"text": TEXTS, "label": LABELS}), tmp_path / "made.parquet")
    parquet = (tmp_path / "made.parquet").read_bytes()
    assert "films.csv is a Parquet file: say 'format: parquet'" in refusal(tmp_path, "films.csv", parquet)
    assert read(tmp_path, "films.csv", parquet, format="parquet").columns["text"] == TEXTS
    assert "no Parquet file: say its 'format'" in refusal(tmp_path, "films.parquet", lines())
    assert "compressed by gzip, and Parquet is read as it is" in (
        refusal(tmp_path, "films.parquet.gz", gzip.compress(parquet))
    )
    assert "compressed by gzip: let its name end in .gz" in refusal(tmp_path, "films.csv", gzip.compress(b"text,label"))
    assert "cannot be read as a gzip file" in refusal(tmp_path, "films.csv.gz", lines())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name in ("films.csv", "films.parquet", "films.jsonl"):
        assert "a Git LFS pointer, not the data: get the data with 'git lfs pull'" in refusal(tmp_path, name, pointer)
        assert "an HTML page, not the data" in refusal(tmp_path, name, "\n<!DOCTYPE html>\n<title>404</title>\n")
        assert "is empty" in refusal(tmp_path, name, "\n\n")
        assert "a DVC pointer, not the data" in refusal(tmp_path, name, "outs:\n- md5: ab\n")
    assert "an XML document" in refusal(tmp_path, "films.csv", '<?xml version="1.0"?><Error/>')
    assert "films.csv is JSON, not CSV: say 'format: jsonl'" in refusal(tmp_path, "films.csv", '{"text": "a"}\n')
    assert "films.tsv is JSON, not TSV: say 'format: json'" in refusal(tmp_path, "films.tsv", '[{"text": "a"}]')
    assert "(where the file is no JSON, say its 'format')" in refusal(tmp_path, "films.jsonl", lines())


def test_compressed_files_are_named_for_what_is_in_them(tmp_path: Path) -> None:
    def told(contents: bytes) -> str:
        return refusal(tmp_path, "films.csv.gz", contents)

    assert "an HTML page" in told(gzip.compress(b"<!DOCTYPE html>"))
    assert "compressed twice: unpack it once" in told(gzip.compress(gzip.compress(lines().encode())))
    assert "cannot be read as a gzip file" in told(gzip.compress(lines(",", '"').encode())[:-9])


def test_names_that_are_no_valid_unicode_name_no_column(tmp_path: Path) -> None:
    written = "".join(json.dumps({**row, "\ud83d": 1}) + "\n" for row in ROWS)
    assert read(tmp_path, "films.jsonl", written).columns == {"text": TEXTS, "label": LABELS}


def test_columns_of_parquet(tmp_path: Path) -> None:
    def stored(**columns: Any) -> bytes:
        pq.write_table(pa.table(columns), tmp_path / "made.parquet")
        return (tmp_path / "made.parquet").read_bytes()

    kinds = (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())
    plain = [pa.array(TEXTS).cast(kind) for kind in kinds]
    categories = [pa.array(TEXTS).cast(kind).dictionary_encode() for kind in (pa.string(), pa.binary())]
    for text in [*plain, *categories]:
        assert read(tmp_path, "films.parquet", stored(text=text, label=LABELS)).columns["text"] == TEXTS
        assert read_columns(tmp_path / "films.parquet", Reading())["text"] == TEXTS
    broken = pa.array([*map(str.encode, TEXTS[1:]), b"caf\xe9"], pa.binary())
    as_text = pa.StringArray.from_buffers(len(TEXTS), *broken.buffers()[1:])
    for text, said in (
        (broken, "column 'text' (binary) cannot"),
        (as_text, "Invalid UTF8 sequence at string index 39"),
    ):
        assert said in refusal(tmp_path, "films.parquet", stored(text=text, label=LABELS))
        file = read(tmp_path, "films.parquet", stored(text=TEXTS, label=LABELS, other=text))
        assert file.columns["text"] == TEXTS
    assert "films.parquet cannot be read as Parquet" in refusal(
        tmp_path, "films.parquet", stored(text=TEXTS, label=LABELS)[:300]
    )


def test_long_fields_are_read_in_several_threads_and_the_limit_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "long.csv").write_text("text,label\n" + "".join(f"{'x' * 2 * limit},neg\n" for _ in range(20)))
    (tmp_path / "short.csv").write_text(lines(",", '"'))

    def read_once(name: str) -> int:
        return len(read_separated(tmp_path / name, Reading(), "csv", ["text", "label"]).rows)

    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(read_once, ["long.csv", "short.csv", "short.csv", "short.csv"] * 20))
    assert set(rows) == {20, len(ROWS)}
    assert csv.field_size_limit() == limit
