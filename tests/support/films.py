"""The prepared rows of a small dataset, beside whatever base a test has."""

from pathlib import Path

import yaml

from beft.datasets.preparation import prepare_source
from beft.datasets.reading.loaders import fetch_source
from beft.datasets.registry import find_dataset
from beft.settings import SplitSettings
from tests.support.tiny_bases import WORDS

FILMS = {
    "title": "Films, made up",
    "version": 1,
    "source": {"kind": "files", "train": "films.csv"},
    "columns": {"text": "words", "label": "mark"},
    "labels": ["down", "up"],
}
"""The description of a dataset of the user's own."""


def prepare_films(root: Path, out: Path, *, size: int = 80, rows: int = 400) -> None:
    """A dataset ``films`` of the user's own, whose label follows from one word in most rows, prepared into ``out``."""
    lines = ["words,mark"]
    for number in range(rows):
        good = number % 2 == (number % 7 != 0)
        others = " ".join(WORDS[(number // 10**at) % 10] for at in range(3))
        lines.append(f"{'fine' if good else 'dull'} {others} a,{'up' if number % 2 else 'down'}")
    (root / "films.csv").write_text("\n".join(lines) + "\n")
    path = root / "data" / "datasets" / "films.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(FILMS))
    raw = root / "raw"
    raw.mkdir()
    out.mkdir()
    fetch_source(find_dataset("films", root), raw, root)
    prepare_source(raw, out, size=size, settings=SplitSettings(test_rows=40, gate_rows=40))
