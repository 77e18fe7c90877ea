"""results.json and README.md, which several processes may write: one on each core."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from beft.files import read_json, write_json, write_text
from benchmarks.common.machine import with_earlier
from benchmarks.few_labels.table import table


class Store:
    """The results so far: in a folder, or only in memory.

    Args:
        folder: Where results.json and README.md are; None: nothing is read or written.
        about: The machine, as ``benchmarks.common.machine.describe`` has it.
    """

    def __init__(self, folder: Path | None, about: dict[str, Any]) -> None:
        self._folder = folder
        self._about = about
        self._results: dict[str, Any] = {"cells": {}}

    def read(self) -> dict[str, Any]:
        """All results as they are now."""
        if self._folder is not None and (self._folder / "results.json").is_file():
            self._results = read_json(self._folder / "results.json")
        return {**self._results, "about": with_earlier(self._about, self._results.get("about", {}))}

    @contextmanager
    def cell(self, name: str) -> Iterator[dict[str, Any]]:
        """The results of a cell, to be changed; then they are written, while no other process writes."""
        if self._folder is None:
            yield self._cell(self._results, name)
            return
        with FileLock(self._folder / "results.json.tmp-lock"):
            results = self.read()
            yield self._cell(results, name)
            write_json(self._folder / "results.json", results)
            write_text(self._folder / "README.md", table(results))

    @staticmethod
    def _cell(results: dict[str, Any], name: str) -> dict[str, Any]:
        found: dict[str, Any] = results["cells"].setdefault(name, {"searched": {}, "draws": {}})
        return found
