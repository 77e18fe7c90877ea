"""The data sets of a run in MLflow: one for each split, with its use (train, dev, gate or test) as the context."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from beft.files import read_json
from tasks.engine.declaration import JSON
from tasks.tracking.connection import Connection
from tasks.tracking.limits import DATASET_DIGEST, DATASET_SOURCE

if TYPE_CHECKING:
    from tasks.tracking.prepared_split import PreparedSource

CONTEXTS = ("train", "dev", "gate", "test")
"""The splits, which are MLflow's contexts as well."""

_HASHES = ("prepared_md5", "prepared_sha256", "raw_md5")
_PROFILE = ("version", "shape", "metric", "metrics", "rows", "balance", "dropped", "ragged")


def dataset_names(dataset: str) -> dict[str, str]:
    """The name in MLflow of each split of a dataset, to its context; the training rows have the dataset's own name."""
    return {dataset if split == "train" else f"{dataset} ({split})": split for split in CONTEXTS}


def log_datasets(connection: Connection, parent: str, facts: Mapping[str, JSON], root: Path) -> None:
    """Every split of every dataset with its md5, where it came from and what is in it.

    The ``data.json`` of a dataset becomes one of the run's files.

    Args:
        facts: Of the run; those of its data stand below ``data``.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    from tasks.tracking.prepared_split import PreparedSplit, columns_of

    inputs = []
    for name, data in facts["data"].items():
        folder = root / str(data.get("folder", ""))
        is_there = "folder" in data and (folder / "data.json").is_file()
        prepared = read_json(folder / "data.json") if is_there else {}
        source = _source(name, data, prepared)
        digest = data.get("prepared_md5") or data["prepared_sha256"]
        columns = columns_of(folder) if is_there else None
        profile = {key: prepared[key] for key in _PROFILE if key in prepared}
        if is_there:
            connection.client.log_artifact(parent, str(folder / "data.json"), f"data/{name}")
        for own, context in dataset_names(name).items():
            if context != "train" and not (is_there and (folder / f"{context}.parquet").is_file()):
                continue
            split = PreparedSplit(source, own, digest[:DATASET_DIGEST], columns, profile)
            inputs.append(DatasetInput(Dataset(**split.to_dict()), [InputTag(MLFLOW_DATASET_CONTEXT, context)]))
    connection.client.log_inputs(parent, datasets=inputs)


def _source(name: str, data: Mapping[str, JSON], prepared: Mapping[str, JSON]) -> "PreparedSource":
    """Where the prepared data is, its hashes, and where it came from as far as MLflow has room for it."""
    from tasks.tracking.prepared_split import PreparedSource

    address, hashes = f"data/prepared/{name}", {key: data.get(key) for key in _HASHES}
    whole = PreparedSource(address, {**hashes, **prepared.get("source", {})})
    return whole if len(whole.to_json()) <= DATASET_SOURCE else PreparedSource(address, hashes)
