"""A split of prepared data as a data set of MLflow: where it came from, its columns and what is in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.data.dataset import Dataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from pyarrow import parquet, types

from tasks.engine.declaration import JSON

_TYPES = {"int32": DataType.integer, "double": DataType.double}


class PreparedSource(LocalArtifactDatasetSource):  # type: ignore[misc]
    """The folder of prepared data, with the hashes and the origin that are known of it.

    ``mlflow.data.get_source`` gives the folder back from a run.
    """

    def __init__(self, uri: str, known: Mapping[str, JSON]) -> None:
        super().__init__(uri)
        self._known = dict(known)

    def to_dict(self) -> dict[str, JSON]:
        """The folder's address as ``uri``, beside what else is known."""
        return {**self._known, **super().to_dict()}


class PreparedSplit(Dataset):  # type: ignore[misc]
    """One split of a dataset.

    Args:
        name: The name in MLflow.
        digest: The md5 of the prepared data.
        columns: Of the split; None: its files are not here.
        profile: What is in the data, as JSON values.
    """

    def __init__(
        self, source: PreparedSource, name: str, digest: str, columns: Schema | None, profile: Mapping[str, JSON]
    ) -> None:
        super().__init__(source, name, digest)
        self._columns, self._profile = columns, profile

    @property
    def schema(self) -> Schema | None:
        """The columns."""
        return self._columns

    @property
    def profile(self) -> Mapping[str, JSON]:
        """What is in the data."""
        return self._profile

    def to_dict(self) -> dict[str, str]:
        """The texts that MLflow keeps of it: the fields of ``mlflow.entities.Dataset``."""
        columns = "" if self.schema is None else json.dumps({"mlflow_colspec": self.schema.to_dict()})
        return {**super().to_dict(), "schema": columns, "profile": json.dumps(dict(self.profile), sort_keys=True)}


def columns_of(prepared: Path) -> Schema:
    """The columns of prepared data; which there are depends on the problem type."""
    schema = parquet.read_schema(prepared / "train.parquet")
    return Schema([ColSpec(_type_of(column.type), column.name) for column in schema])


def _type_of(column: Any) -> Array | DataType:
    if types.is_list(column):
        return Array(_type_of(column.value_type))
    return _TYPES.get(str(column), DataType.string)
