"""A small dataset of the user's own, as a folder with a description and files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from beft.datasets.description import Description
from beft.datasets.preparation import prepare_source
from beft.datasets.reading.loaders import fetch_source
from beft.settings import SplitSettings

SPLIT = SplitSettings(test_rows=40, gate_rows=40, dev_fraction=0.25, draw=0)


def texts(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows with distinct texts, two labels in turn, sorted as little as any file is."""
    return [
        {"sentence": f"sentence number {n} of many", "mood": "good" if n % 2 else "bad"}
        for n in range(start, start + count)
    ]


def describe(root: Path, name: str = "own", **changes: Any) -> Description:
    """Write ``data/datasets/NAME.yaml`` and read it."""
    values: dict[str, Any] = {
        "title": "a dataset of the user's own",
        "version": 1,
        "source": {"kind": "files", "train": "rows.jsonl"},
        "columns": {"text": "sentence", "label": "mood"},
        "labels": ["bad", "good"],
        "sizes": {"low": 60},
    }
    path = root / "data" / "datasets" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False), encoding="utf-8")
    return Description.read(path)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fetched(root: Path, rows: Sequence[Mapping[str, Any]], **changes: Any) -> Path:
    """The raw folder of a dataset with these rows."""
    write_jsonl(root / "rows.jsonl", rows)
    raw = root / "raw"
    raw.mkdir()
    fetch_source(describe(root, **changes), raw, root)
    return raw


def prepared(root: Path, rows: Sequence[Mapping[str, Any]], size: int | str = "low", **changes: Any) -> Path:
    """The prepared folder of a dataset with these rows."""
    raw = fetched(root, rows, **changes)
    out = root / "prepared"
    out.mkdir()
    prepare_source(raw, out, size=size, settings=SPLIT)
    return out
