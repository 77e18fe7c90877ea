"""A small workspace with two DVC stages for each of two datasets."""

from pathlib import Path
from typing import Any

import yaml

from beft.files import write_text

PROJECT = Path(__file__).resolve().parent.parent.parent

STAGES = """
stages:
  fetch:
    foreach: ${datasets}
    do:
      cmd: python stage.py data/raw/${key} ${item.size}
      deps:
        - stage.py
      outs:
        - data/raw/${key}
  prepare:
    foreach: ${datasets}
    do:
      cmd: python stage.py data/prepared/${key} ${item.size}
      deps:
        - stage.py
        - data/raw/${key}
      params:
        - datasets.${key}.size
      outs:
        - data/prepared/${key}
"""
DATA_STAGES: dict[str, Any] = {
    "fetch": {"cmd": "python -m tasks fetch --dataset ${key}", "deps": ["data/datasets"], "outs": ["data/raw/${key}"]},
    "prepare": {
        "cmd": "python -m tasks prepare --dataset ${key}",
        "deps": ["data/raw/${key}"],
        "params": ["datasets.${key}.size", "split"],
        "outs": ["data/prepared/${key}"],
    },
}
"""The stages of the data, as dvc.yaml has them, once a dataset."""

STAGE = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True)
(folder / "rows.txt").write_text(sys.argv[2])
with open("ran.txt", "a") as file:
    file.write(sys.argv[1] + "\\n")
"""


def dvc_workspace(root: Path) -> Path:
    """Write the workspace, without git; nothing has run in it."""
    write_text(root / "dvc.yaml", STAGES)
    write_text(root / "stage.py", STAGE)
    write_text(root / "params.yaml", yaml.safe_dump({"datasets": {"imdb": {"size": 7}, "sst2": {"size": 8}}}))
    for name in ("config", ".gitignore"):
        write_text(root / ".dvc" / name, (PROJECT / ".dvc" / name).read_text())
    return root
