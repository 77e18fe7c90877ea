"""A whole run of the steps on a tiny random base and made-up sentences: real files, in seconds."""

import importlib
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from beft.files import sha256_tree, write_json
from tasks.engine.declaration import find_declared, step_key
from tasks.engine.store import StepRecord
from tasks.settings import PipelineSettings
from tests.conftest import build_tiny
from tests.support.tiny_bases import save_base

FINGERPRINT = "ab" * 32
FINISHED = "2026-01-02T03:04:05+00:00"
GOOD, BAD = ("good", "fine", "touching"), ("dull", "not", "was")


@dataclass(frozen=True)
class FinishedRun:
    """The folders of a run and what the flow would say of it.

    Attributes:
        inputs: ``STEP/DATASET`` or ``STEP`` to its folder, without report and register.
        records: The records of the steps, in the order of the flow.
    """

    settings: PipelineSettings
    inputs: dict[str, Path]
    records: list[StepRecord]
    facts: dict[str, Any]
    base: Path

    def folder(self, record: StepRecord) -> Path:
        """The folder of a step."""
        return self.inputs[record.key]


def make_finished_run(folder: Path, datasets: Mapping[str, int], **sections: Any) -> FinishedRun:
    """Fetch, prepare, probe, score, train and evaluate by the steps' own functions.

    Args:
        datasets: Names, and the seeds of their sentences.
        sections: Further settings.
    """
    base = save_base(folder / "base", build_tiny("bert", num_labels=2), pooling="mean")
    for name, seed in datasets.items():
        write_rows(folder, name, seed)
    training = {"epochs": 3, "learning_rate": 5e-3, "loss": "cross_entropy"}
    settings = PipelineSettings.from_mapping(
        {
            "base": {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1},
            "datasets": {name: {"size": 60, "max_length": 16} for name in datasets},
            "split": {"test_rows": 60, "gate_rows": 60},
            "probe": {**training, "learning_rate": 6e-3},
            "train": training,
            "evaluate": {"resamples": 200},
            **sections,
        }
    )
    inputs: dict[str, Path] = {}
    records: list[StepRecord] = []
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in datasets:
            for step in ("fetch", "prepare", "probe", "score", "train", "evaluate"):
                inputs[step_key(step, name)] = folder / "steps" / step / name
                records.append(_run(step, settings, inputs, name))
        inputs["merge"] = folder / "steps" / "merge"
        records.append(_run("merge", settings, inputs, None))
    finally:
        os.chdir(before)
    facts = {
        "data": {
            name: {
                "raw_md5": "1" * 32 + ".dir",
                "prepared_md5": str(number) * 32 + ".dir",
                "prepared_sha256": sha256_tree(inputs[f"prepare/{name}"]),
                "dvc": True,
                "folder": str(inputs[f"prepare/{name}"]),
            }
            for number, name in enumerate(datasets)
        },
        "source_sha256": "5" * 64,
        "commit": "c" * 40,
        "dirty": False,
        "lock_sha256": "7" * 64,
        "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
        "run_folder": f"runs/{FINGERPRINT[:16]}",
        "requirements_sha256": "8" * 64,
    }
    return FinishedRun(settings, inputs, records, facts, base)


def write_rows(folder: Path, name: str, seed: int, rows: int = 400) -> None:
    """A dataset of the user's own: sentences whose label follows from their words, but for one in ten."""
    rng = random.Random(seed)
    lines = ["text\tlabel"]
    seen: set[str] = set()
    while len(seen) < rows:
        label = rng.randrange(2)
        words = [rng.choice(("a", "film", "story", "the")) for _ in range(rng.randrange(3, 8))]
        words += rng.choices(GOOD if label else BAD, k=2)
        rng.shuffle(words)
        text = " ".join(words)
        if text not in seen:
            seen.add(text)
            lines.append(f"{text}\t{label if rng.random() > 0.1 else 1 - label}")
    source = folder / "data" / "datasets"
    source.mkdir(parents=True, exist_ok=True)
    (source / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    description = {
        "title": f"Made-up sentences <{name}>",
        "version": 1,
        "source": {"kind": "files", "train": f"data/datasets/{name}.tsv"},
        "columns": {"text": "text", "label": "label"},
        "labels": {"negative": 0, "positive": 1},
    }
    (source / f"{name}.yaml").write_text(yaml.safe_dump(description))


def _run(step: str, settings: PipelineSettings, inputs: dict[str, Path], dataset: str | None) -> StepRecord:
    declared = find_declared(importlib.import_module(f"tasks.steps.{step}"), step)
    out = inputs[step_key(step, dataset)]
    out.mkdir(parents=True)
    if dataset is None:
        given = {key: path for key, path in inputs.items() if key.split("/")[0] in declared.reads}
    else:
        given = {name: inputs[step_key(name, dataset)] for name in declared.reads}
    summary = declared.function(settings, given, out, dataset=dataset)
    record = StepRecord(
        step=step,
        dataset=dataset,
        fingerprint=f"{len(inputs):02d}" * 32,
        seconds=2.5,
        finished=FINISHED,
        summary=summary,
        inputs={},
        outputs={},
        compute={"device": "cpu", "precision": "fp32", "threads": 1} if declared.computes else {},
    )
    write_json(out / "step.json", record.model_dump(mode="json"))
    return record
