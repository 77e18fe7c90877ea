"""A small labelled dataset of a user's own, and a workspace that is about it."""

import csv
import io
import random
from pathlib import Path
from typing import Any

import yaml

from beft.files import write_text

GOOD = ("warm", "funny", "gripping", "tender", "clever", "bright")
BAD = ("dull", "flat", "tired", "clumsy", "bleak", "stale")
REST = ("film", "story", "plot", "cast", "scene", "score", "script", "ending", "camera", "music")

DESCRIPTION = {
    "title": "Short made-up reviews",
    "version": 1,
    "source": {"kind": "files", "train": "data/files/mine.csv"},
    "columns": {"text": "review", "label": "verdict"},
    "labels": ["bad", "good"],
    "metric": "accuracy",
}
SETTINGS: dict[str, Any] = {
    "datasets": {"mine": {"size": 60, "max_length": 16}},
    "split": {"test_rows": 40, "gate_rows": 40},
}


def reviews(rows: int = 240, seed: int = 0) -> list[tuple[str, str]]:
    """Distinct texts of six words, of which three say the label."""
    chooser = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < rows:
        label = "good" if len(found) % 2 else "bad"
        words = chooser.sample(GOOD if label == "good" else BAD, 3) + chooser.sample(REST, 3)
        chooser.shuffle(words)
        found.setdefault(" ".join(words), label)
    return list(found.items())


def write_reviews(root: Path, rows: list[tuple[str, str]] | None = None) -> None:
    """Write the file of the dataset ``mine``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["review", "verdict"])
    writer.writerows(rows or reviews())
    write_text(root / "data" / "files" / "mine.csv", text.getvalue())


def small_workspace(root: Path, settings: dict[str, Any] | None = None) -> Path:
    """A folder with ``params.yaml``, the dataset ``mine``, and the project's expectations of data."""
    write_reviews(root)
    write_text(root / "data" / "datasets" / "mine.yaml", yaml.safe_dump(DESCRIPTION))
    project = Path(__file__).resolve().parent.parent.parent
    for name in ("raw", "prepared"):
        path = Path("data", "expectations", f"{name}.yaml")
        write_text(root / path, (project / path).read_text())
    write_text(root / "params.yaml", yaml.safe_dump(SETTINGS | (settings or {}), sort_keys=False))
    return root
