"""Prepare: from the raw source to train, dev, gate and test, all with one schema."""

from collections.abc import Mapping
from pathlib import Path

from beft.datasets.preparation import prepare_source
from tasks.engine.declaration import JSON, Step
from tasks.settings import PipelineSettings


def prepare(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write ``train.parquet``, ``dev.parquet``, ``gate.parquet``, ``test.parquet`` and ``data.json``.

    Raises:
        InputError: The raw data is not what the dataset's description says, or too little.
    """
    size = settings.datasets[str(dataset)].size
    summary = prepare_source(inputs["fetch"], out, size=size, settings=settings.split)
    return {"rows": summary["rows"], "dropped": summary["dropped"], "conflicts": summary["conflicts"]["texts"]}


prepare_step = Step(prepare, reads=("fetch",), settings=("datasets.{dataset}.size", "split"))
