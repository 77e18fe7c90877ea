"""What a finished step shows on its task run's page in Prefect: a table, and the heat map of the scores."""

import base64
import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beft.evaluation.records import Evaluation
from beft.files import read_json
from beft.importance.result import Importance
from tasks.engine.declaration import JSON
from tasks.engine.store import StepRecord

logger = logging.getLogger(__name__)

_PICTURE_WIDTH = 1000  # pixels; the picture lies in Prefect's database, once a run


@dataclass(frozen=True)
class Artifact:
    """One artifact.

    Attributes:
        text: Markdown above the table.
        rows: The table; every row has the same columns.
        picture: Shown below the text, in place of a table.
    """

    text: str = ""
    rows: list[dict[str, JSON]] | None = None
    picture: Path | None = None


def artifacts_of(record: StepRecord, folder: Path) -> list[Artifact]:
    """What a step's folder has to show; of a step without anything of its own, its summary.

    Args:
        folder: The step's folder, whole.
    """
    return _SHOWS.get(record.step, _summary)(record, folder)


def publish_artifacts(record: StepRecord, folder: Path) -> None:
    """Leave a step's artifacts on the page of the task run that is going on.

    They are there to be looked at: where the server does not take them, the log says so, and the step is as finished.
    """
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    key = artifact_key(record.key)
    try:
        for number, one in enumerate(artifacts_of(record, folder)):
            own = key if number == 0 else f"{key}-{number + 1}"
            if one.rows is not None:
                create_table_artifact(key=own, table=one.rows, description=one.text or record.key)
            else:
                text = f"{one.text}\n\n![{record.key}]({as_data(one.picture)})" if one.picture else one.text
                create_markdown_artifact(key=own, markdown=text, description=record.key)
    except Exception as error:
        logger.warning("%s: could not publish its artifacts in Prefect: %s", record.key, error)


def artifact_key(text: str) -> str:
    """A name as Prefect's keys are: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def as_data(picture: Path) -> str:
    """A picture as an address that holds it: smaller, in few colours."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB")
        small.thumbnail((_PICTURE_WIDTH, 4 * _PICTURE_WIDTH))
        written = io.BytesIO()
        small.quantize(64).save(written, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"


def _summary(record: StepRecord, folder: Path) -> list[Artifact]:
    rows: list[dict[str, JSON]] = []

    def walk(name: str, value: JSON) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                walk(f"{name}.{key}" if name else key, below)
        else:
            rows.append({"what": name, "value": value if isinstance(value, int | float | str) else str(value)})

    walk("", record.summary)
    rows.append({"what": "seconds", "value": record.seconds})
    return [Artifact(rows=rows)]


def _scored(record: StepRecord, folder: Path) -> list[Artifact]:
    found = read_json(folder / "importance.json")
    selection = found["selection"]
    means = {method: Importance.from_json(table).mean for method, table in found["tables"].items()}
    terms = list(dict.fromkeys(term for of_method in means.values() for term in of_method))
    rows: list[dict[str, JSON]] = [
        {"term": term, **{method: _rounded(of_method.get(term)) for method, of_method in means.items()}}
        for term in terms
    ]
    text = f"Target term: {selection['target']}. {selection['reason']}"
    return [Artifact(text, rows=rows), Artifact(text, picture=folder / "importance.png")]


def _trained(record: StepRecord, folder: Path) -> list[Artifact]:
    rows = [
        {name: _rounded(value) for name, value in epoch.items() if isinstance(value, int | float)}
        for epoch in read_json(folder / "history.json")
    ]
    return [Artifact(f"{record.key}: best epoch {record.summary['best_epoch']}", rows=rows), *_summary(record, folder)]


def _evaluated(record: StepRecord, folder: Path) -> list[Artifact]:
    value = read_json(folder / "evaluation.json")
    evaluation = Evaluation.from_json({name: value[name] for name in Evaluation.model_fields})
    metric = evaluation.metrics[0]
    rows: list[dict[str, JSON]] = []
    for split, found in evaluation.splits.items():
        for method, scores in found.scores.items():
            score, gain = scores[metric], found.gains.get(method, {}).get(metric)
            rows.append(
                {
                    "split": split,
                    "method": method,
                    metric: _rounded(score.value),
                    "from": _rounded(score.low),
                    "to": _rounded(score.high),
                    f"gain of {evaluation.target} over it": _rounded(gain.difference) if gain else "",
                }
            )
    return [Artifact(f"{record.dataset}: {evaluation.target} beside the other methods, by {metric}", rows=rows)]


def _registered(record: StepRecord, folder: Path) -> list[Artifact]:
    rows = [
        {
            "dataset": model["dataset"],
            "model": model["name"],
            "version": model["version"],
            "aliases": ", ".join(model["aliases"]),
            "because": model["reason"],
        }
        for model in record.summary["models"]
    ]
    return [Artifact("Registered versions, with aliases and reasons as of their registration", rows=rows)]


_SHOWS: dict[str, Callable[[StepRecord, Path], list[Artifact]]] = {
    "score": _scored,
    "probe": _trained,
    "train": _trained,
    "evaluate": _evaluated,
    "register": _registered,
}


def _rounded(value: Any) -> JSON:
    return float(f"{value:.4g}") if isinstance(value, float) else "" if value is None else value
