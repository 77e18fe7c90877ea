"""Challenger and champion on labelled traffic: the rows that both have answered, and what the verdict is made of."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from beft.adapters.adapter import Adapter
from beft.comparison.answers import AnsweredRows, compare_answers
from beft.comparison.versions import CHALLENGER, CHAMPION
from beft.errors import InputError
from beft.files import read_json, sha256_json
from beft.metrics.label_sets import scores_from
from beft.problems.multi_label import MultiLabel
from beft.problems.regression import Regression
from tasks.engine.declaration import JSON
from tasks.registry.package import TRAINING_ROWS_FILE
from tasks.registry.promote import Candidates
from tasks.serving.feedback import labelled_answers, told_labels
from tasks.settings import PipelineSettings


def traffic_rows_id(model: str) -> str:
    """What stands for a model's traffic where decisions are counted: all of it is one, since looks at it overlap."""
    return sha256_json(["labelled traffic", model])


def compare_on_traffic(
    settings: PipelineSettings,
    found: Candidates,
    models: Mapping[str, Path],
    traffic: Path,
    *,
    metric: str,
    since: datetime | None = None,
) -> dict[str, JSON]:
    """The content of a ``comparison.json``, with how the rows were selected as ``notes``.

    A row counts where both versions answered it, its true label was told, and neither was trained on its text.

    Args:
        models: The folders of both versions' MLflow models, by ``challenger`` and ``champion``.
        traffic: The folder of a server's traffic.
        since: Answers of before are left out.

    Raises:
        InputError: There is no champion, a version was registered by an older beft, or fewer than two rows count.
    """
    if found.champion is None:
        raise InputError(
            f"{found.model} has no champion to compare with on traffic; 'beft promote' decides on the gate"
        )
    adapters = {side: Adapter.load(folder / "artifacts" / "adapter") for side, folder in models.items()}
    if adapters[CHAMPION].problem_type.reads_words:
        raise InputError("spans are not compared on labelled traffic: decide on the gate ('beft promote')")
    labelled = labelled_answers(traffic, found.model, since=since)
    versions = {CHALLENGER: found.challenger, CHAMPION: found.champion}
    own = {
        # Of this adapter: a registry that was started anew gave its version's number to another one before.
        side: labelled[(labelled["version"] == versions[side]) & (labelled["sha256"] == adapter.sha256)]
        for side, adapter in adapters.items()
    }
    both = _answered_by_both(own)
    seen = frozenset().union(*(_training_rows(folder) for folder in models.values()))
    fresh = both[~both["text_key"].isin(seen)]
    kept, truth = _truth(fresh, adapters[CHAMPION])
    unknown = len(fresh) - len(kept)
    labels = adapters[CHAMPION].labels
    if adapters[CHALLENGER].labels != labels:
        raise InputError("the labels of challenger and champion differ; decide on the gate")
    column = "probabilities" if labels else "value"
    predictions = {side: _stacked(kept[f"{column}_{side}"]) for side in (CHALLENGER, CHAMPION)}
    for side, adapter in adapters.items():
        if isinstance(adapter.problem_type, MultiLabel) and len(kept):
            predictions[side] = scores_from(predictions[side], np.array(adapter.problem_type.thresholds))
    rows = AnsweredRows(
        predictions=predictions,
        labels=labels,
        truth=truth,
        lengths=kept["tokens"].to_numpy(dtype=np.int64),
        adapter_bytes={
            side: sum(path.stat().st_size for path in (folder / "artifacts" / "adapter").iterdir())
            for side, folder in models.items()
        },
        seen_before=len(both) - len(fresh),
    )
    compared = compare_answers(rows, metric, settings.promotion, settings).to_json()
    return {**compared, "kind": "labelled traffic", "notes": _notes(kept, len(both) - len(fresh), unknown)}


def _answered_by_both(labelled: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a labelled row, with the answers of both sides beside each other.

    Args:
        labelled: The labelled answers of each side.
    """
    key = ["request_id", "row"]
    shared = [*key, "time", "text_key", "tokens", "label", "feedback_source"]
    once = {side: answers.drop_duplicates(key) for side, answers in labelled.items()}
    sides = {side: answers[[*key, "probabilities", "value"]] for side, answers in once.items()}
    champion = once[CHAMPION][shared]
    joined = champion.merge(sides[CHAMPION], on=key).merge(
        sides[CHALLENGER], on=key, suffixes=(f"_{CHAMPION}", f"_{CHALLENGER}")
    )
    # The same text asked for often is one row: it must not count as often as it came.
    found: pd.DataFrame = joined.sort_values("time").drop_duplicates("text_key", keep="last")
    return found


def _truth(rows: pd.DataFrame, adapter: Adapter) -> tuple[pd.DataFrame, list[float] | np.ndarray]:
    """The rows whose labels the adapter knows, and their truth as numbers; of several labels 1 or 0 for each."""
    if isinstance(adapter.problem_type, MultiLabel):
        told = [set(told_labels(label)) for label in rows["label"]]
        known = [of_row <= set(adapter.labels) for of_row in told]
        sets = [[int(label in of_row) for label in adapter.labels] for of_row in told]
        return rows[known], np.array(sets, dtype=np.int64).reshape(-1, len(adapter.labels))[known]
    if isinstance(adapter.problem_type, Regression):
        values = pd.to_numeric(rows["label"], errors="coerce")
        kept = rows[np.isfinite(values)]
        return kept, [float(value) for value in values[np.isfinite(values)]]
    if adapter.takes_choices:
        raise InputError("rows that bring their own choices are not judged on traffic; decide on the gate")
    numbers = {label: number for number, label in enumerate(adapter.labels)}
    kept = rows[rows["label"].isin(list(numbers))]
    return kept, [numbers[label] for label in kept["label"]]


def _stacked(column: pd.Series) -> Any:
    return np.array([np.asarray(one, dtype=np.float64) for one in column])


def _training_rows(folder: Path) -> frozenset[str]:
    path = folder / TRAINING_ROWS_FILE
    if not path.is_file():
        raise InputError("a version was registered by an older beft: it does not name the rows that it was trained on")
    return frozenset(read_json(path))


def _notes(rows: pd.DataFrame, seen: int, unknown: int) -> list[str]:
    """What a reader must know of the rows."""
    counts = rows["feedback_source"].replace("", "not stated").value_counts()
    selected = "; ".join(f"{source}: {count}" for source, count in counts.items()) or "none"
    first, last = (rows["time"].min(), rows["time"].max()) if len(rows) else (None, None)
    notes = [
        f"Labelled traffic from {first:%Y-%m-%d} to {last:%Y-%m-%d}, rows by how they were selected: {selected}. "
        "Labels that are told only where an answer looked wrong favour the version that did not give it.",
        f"Left out: {seen} rows that a version was trained on, {unknown} with a label that the adapters do not have.",
        "Not judged on traffic: perturbed texts and latency.",
    ]
    return notes if len(rows) else notes[1:]
