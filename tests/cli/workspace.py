"""A folder of a user, and what a command leaves in it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.films import FILMS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    """What a command left: exit status, stdout, stderr."""

    status: int
    out: str
    err: str


Beft = Callable[..., Answer]


def describe(root: Path, name: str, **changes: Any) -> Path:
    """Write a dataset's description."""
    path = root / "data" / "datasets" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(FILMS | changes))
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


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
