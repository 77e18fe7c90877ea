"""What the steps of a run left on disk, read once, for the report, the model card and the registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beft.evaluation.records import Evaluation
from beft.files import read_json
from tasks.settings import PipelineSettings

Facts = dict[str, Any]


@dataclass(frozen=True)
class DatasetResults:
    """One dataset's way through the steps; a step that was left out is an empty mapping.

    Attributes:
        data: ``data.json`` of the prepared data.
        raw_validation: ``validation.json`` of the raw data.
        validation: ``validation.json`` of the prepared data.
        probe: ``probe.json``.
        importance: ``importance.json``.
        train: ``train.json``.
        histories: The records of the epochs, of ``probe`` and ``train``.
        evaluation: ``evaluation.json``, checked.
        extra: What ``evaluation.json`` holds beside the evaluation.
        folders: Step to its folder.
    """

    name: str
    data: Facts
    raw_validation: Facts
    validation: Facts
    probe: Facts
    importance: Facts
    train: Facts
    histories: dict[str, list[Facts]]
    evaluation: Evaluation
    extra: Facts
    folders: dict[str, Path]

    @property
    def metric(self) -> str:
        """The headline metric."""
        return self.evaluation.metrics[0]


def read_dataset(dataset: str, inputs: Mapping[str, Path]) -> DatasetResults:
    """Read what the steps left of one dataset.

    Args:
        inputs: ``STEP/DATASET`` to the step's folder.
    """
    folders = {
        step: inputs[f"{step}/{dataset}"]
        for step in ("prepare", "validate_raw", "validate", "probe", "score", "train", "evaluate")
        if f"{step}/{dataset}" in inputs
    }

    def facts(step: str, name: str) -> Any:
        path = folders[step] / name if step in folders else None
        return read_json(path) if path is not None and path.is_file() else {}

    evaluation = facts("evaluate", "evaluation.json")
    known = {name: value for name, value in evaluation.items() if name in Evaluation.model_fields}
    return DatasetResults(
        name=dataset,
        data=facts("prepare", "data.json"),
        raw_validation=facts("validate_raw", "validation.json"),
        validation=facts("validate", "validation.json"),
        probe=facts("probe", "probe.json"),
        importance=facts("score", "importance.json"),
        train=facts("train", "train.json"),
        histories={step: facts(step, "history.json") or [] for step in ("probe", "train")},
        evaluation=Evaluation.from_json(known),
        extra={name: value for name, value in evaluation.items() if name not in known},
        folders=folders,
    )


def read_datasets(settings: PipelineSettings, inputs: Mapping[str, Path]) -> list[DatasetResults]:
    """Read what the steps left of every dataset, in the order of the settings."""
    return [read_dataset(dataset, inputs) for dataset in settings.datasets]
