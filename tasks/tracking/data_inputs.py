"""The data sets of a run in MLflow: one for each split, with its use (train, dev, gate or test) as the context."""

import json
from collections.abc import Mapping
from pathlib import Path

from beft.files import read_json
from tasks.engine.declaration import JSON
from tasks.tracking.connection import Connection
from tasks.tracking.limits import DATASET_SOURCE

CONTEXTS = ("train", "dev", "gate", "test")
"""The splits, which are MLflow's contexts as well."""

_HASHES = ("prepared_md5", "prepared_sha256", "raw_md5")
_PROFILE = ("version", "shape", "metric", "metrics", "rows", "balance", "dropped", "ragged")
_MLFLOW_TYPES = {"int32": "integer", "double": "double"}


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

    inputs = []
    for name, data in facts["data"].items():
        digest = data.get("prepared_md5") or data["prepared_sha256"]
        source = {"uri": f"data/prepared/{name}", **{key: data.get(key) for key in _HASHES}}
        schema, profile = "", {}
        folder = root / str(data.get("folder", ""))
        is_there = "folder" in data and (folder / "data.json").is_file()
        if is_there:
            prepared = read_json(folder / "data.json")
            source |= prepared["source"]
            profile = {key: prepared[key] for key in _PROFILE if key in prepared}
            schema = json.dumps({"mlflow_colspec": _columns(folder)})
            connection.client.log_artifact(parent, str(folder / "data.json"), f"data/{name}")
        described = json.dumps(source, sort_keys=True)
        if len(described) > DATASET_SOURCE:
            described = json.dumps({key: source[key] for key in ("uri", *_HASHES)}, sort_keys=True)
        for own, split in dataset_names(name).items():
            if split != "train" and not (is_there and (folder / f"{split}.parquet").is_file()):
                continue
            dataset = Dataset(own, digest[:36], "local", described, schema, json.dumps(profile, sort_keys=True))
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", split)]))
    connection.client.log_inputs(parent, datasets=inputs)


def _columns(prepared: Path) -> list[dict[str, JSON]]:
    """The columns of prepared data in MLflow's words; which there are depends on the shape of the data."""
    from pyarrow import parquet, types

    found: list[dict[str, JSON]] = []
    for column in parquet.read_schema(prepared / "train.parquet"):
        if types.is_list(column.type):
            found.append({"name": column.name, "type": "array", "items": {"type": "string"}})
        else:
            found.append({"name": column.name, "type": _MLFLOW_TYPES.get(str(column.type), "string")})
    return found
