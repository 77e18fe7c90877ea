"""merge: one set of biases for all datasets, made of their adapters without training; heads stay apart."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from beft.datasets.prepared import PreparedData
from beft.files import read_json, write_json
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings
from tasks.steps.predictions import WITHOUT_BIASES, has_predictions, read_predictions

if TYPE_CHECKING:
    from beft.encoding.examples import Predictions
    from beft.training.session import Session

log = logging.getLogger("tasks")


def merge(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Merge the adapters of all datasets by every method, and evaluate each merged one on every dataset.

    Raises:
        InputError: The adapters have different bases, or weights are to be searched and there are no dev rows.
    """
    from beft.adapters.adapter import Adapter
    from beft.merging.adapters import merged_adapters
    from beft.merging.choice import choose_merges
    from beft.merging.comparison import biases_of, compare_all
    from beft.merging.matrix import NONE, merge_matrix

    names = list(settings.datasets)
    if len(names) == 1:
        note = f"there is only one dataset ({names[0]}), so there is nothing to merge"
        write_json(out / "merge.json", {"datasets": names, "note": note})
        return {"note": note}
    adapters = {name: Adapter.load(inputs[f"train/{name}"] / "adapter") for name in names}
    open_dataset = partial(_open, settings, inputs)
    # The paper's protocol has no dev split, so there is nothing to choose with.
    with_dev = None if settings.protocol == "paper" else open_dataset
    choices = choose_merges(settings.merge, adapters, with_dev, seed=settings.seed, progress=log.info)
    merged = {method: choice.merged for method, choice in choices.items()}
    for method, result in merged.items():
        for name, adapter in merged_adapters(adapters, result).items():
            adapter.save(out / "merged" / method / name)
    known = {name: _test_predictions(inputs[f"evaluate/{name}"], name) for name in names}
    matrix = merge_matrix(adapters, merged, open_dataset, known)
    before = biases_of(open_dataset(names[0]).classifier.model, adapters)
    found: dict[str, JSON] = {
        "datasets": names,
        "rows": [NONE, *names, *merged],
        "matrix": {name: column.model_dump(mode="json") for name, column in matrix.items()},
        "metrics": {name: next(iter(column.scores[NONE])) for name, column in matrix.items()},
        "recipes": {method: result.recipe() for method, result in merged.items()},
        "tried": {
            method: [one.to_json() for one in choice.trials] for method, choice in choices.items() if choice.trials
        },
        "comparisons": [pair.to_json() for pair in compare_all(adapters, before=before)],
    }
    write_json(out / "merge.json", found)
    from tasks.reporting.merge_picture import draw_matrix

    draw_matrix(found, out / "merge.png")
    return {
        f"{method}/{name}": matrix[name].scores[method][found["metrics"][name]].value
        for method in merged
        for name in names
    }


def _test_predictions(evaluated: Path, dataset: str) -> "dict[str, Predictions]":
    """What was predicted on the test rows when the dataset was evaluated: by its adapter, and by its head alone."""
    from beft.merging.matrix import NONE

    path, target = evaluated / "predictions.parquet", str(read_json(evaluated / "evaluation.json")["target"])
    known: dict[str, Predictions] = {dataset: read_predictions(path, target, "test")}
    if has_predictions(path, WITHOUT_BIASES, "test"):
        known[NONE] = read_predictions(path, WITHOUT_BIASES, "test")
    return known


def _open(settings: PipelineSettings, inputs: Mapping[str, Path], name: str) -> "Session":
    from beft.training.opening import open_session

    return open_session(settings, PreparedData.from_folder(inputs[f"prepare/{name}"]))


merge_step = Step(
    merge,
    reads=("prepare", "train", "evaluate"),
    settings=(*(name.replace(".{dataset}.max_length", "") for name in CLASSIFIER_SECTIONS), "evaluate", "merge"),
    per_dataset=False,
    computes=True,
    isolated=True,
    tags=("gpu",),
)
