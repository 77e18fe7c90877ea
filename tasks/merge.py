"""merge: one set of biases for all datasets, made of their adapters without training; heads stay apart.

Every row of the result's matrix is a set of biases: none (the base's own), each dataset's adapter, each merged one.
Every column is a dataset, measured on its test split with its own head.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from beft.adaptation import dev_metric
from beft.adapter import Adapter
from beft.datasets import Split
from beft.evaluation import Method, SplitEvaluation, evaluate_methods
from beft.features import Floats, predict_probabilities
from beft.files import read_json, write_json
from beft.merging import Merged, compare_all
from beft.merging import merge as merge_adapters
from beft.opened import Opened, open_classifier
from beft.sites import read_bias
from tasks.predictions import read_predictions
from tasks.settings import PipelineSettings
from tasks.step import CLASSIFIER_SECTIONS, JSON, Step

log = logging.getLogger("tasks")

NONE = "none"
"""The row of the base's own biases, under the head that was trained with the dataset's adapter."""


def merge(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Merge the adapters of all datasets by every method, and evaluate each merged one on every dataset.

    Raises:
        InputError: The adapters have different bases.
    """
    names = list(settings.datasets)
    if len(names) == 1:
        note = f"there is only one dataset ({names[0]}), so there is nothing to merge"
        write_json(out / "merge.json", {"datasets": names, "note": note})
        return {"note": note}
    adapters = {name: Adapter.load(inputs[f"train/{name}"] / "adapter") for name in names}
    merged, tried = _merge(settings, inputs, adapters)
    for method, result in merged.items():
        for name, adapter in adapters.items():
            _with(adapter, result, adapters).save(out / "merged" / method / name)
    matrix = {name: _column(settings, inputs, name, adapters, merged) for name in names}
    opened = _open(settings, inputs, names[0])
    sites = {site for adapter in adapters.values() for site in adapter.deltas}
    before = {site: read_bias(opened.classifier.model, site) for site in sites}
    found: dict[str, JSON] = {
        "datasets": names,
        "rows": [NONE, *names, *merged],
        "matrix": {name: column.model_dump(mode="json") for name, column in matrix.items()},
        "metrics": {name: next(iter(column.scores[NONE])) for name, column in matrix.items()},
        "recipes": {method: result.recipe() for method, result in merged.items()},
        "scales_tried": tried,
        "comparisons": [pair.to_json() for pair in compare_all(adapters, before=before)],
    }
    write_json(out / "merge.json", found)
    from tasks.merge_picture import draw_matrix

    draw_matrix(found, out / "merge.png")
    return {
        f"{method}/{name}": matrix[name].scores[method][found["metrics"][name]].value
        for method in merged
        for name in names
    }


def _merge(
    settings: PipelineSettings, inputs: Mapping[str, Path], adapters: Mapping[str, Adapter]
) -> tuple[dict[str, Merged], list[dict[str, JSON]]]:
    """The merged biases by method, and what dev said of each scale of task arithmetic."""
    merged: dict[str, Merged] = {}
    tried: list[dict[str, JSON]] = []
    for method in settings.merge.methods:
        if method == "task_arithmetic":
            # The paper's protocol has no dev split, so there is nothing to choose a scale with.
            scales = (1.0,) if settings.protocol == "paper" else settings.merge.scales
            candidates = {scale: merge_adapters(method, adapters, scale=scale) for scale in scales}
            tried = _on_dev(settings, inputs, adapters, candidates) if len(candidates) > 1 else []
            best = max(tried, key=lambda one: (one["metric"], -one["loss"]))["scale"] if tried else scales[0]
            merged[method] = candidates[best]
        else:
            merged[method] = merge_adapters(method, adapters)
    return merged, tried


def _on_dev(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    adapters: Mapping[str, Adapter],
    candidates: Mapping[float, Merged],
) -> list[dict[str, JSON]]:
    """Each scale's metric and loss on every dataset's dev split, and their means over the datasets."""
    found: dict[float, dict[str, tuple[float, float]]] = {scale: {} for scale in candidates}
    for name, adapter in adapters.items():
        opened = _open(settings, inputs, name)
        rows = opened.rows("dev")
        metric = dev_metric(opened.metric, rows)
        log.info("merge: %d scales on %d dev rows of %s", len(candidates), len(rows), name)
        for scale, result in candidates.items():
            probabilities = _probabilities(opened, _with(adapter, result, adapters), "dev")
            loss = functional.nll_loss(
                torch.from_numpy(probabilities).clamp_min(1e-12).log(), torch.from_numpy(rows.labels)
            )
            found[scale][name] = metric(probabilities, rows.labels), float(loss)
    return [
        {
            "scale": scale,
            "metric": float(np.mean([value for value, _ in by_dataset.values()])),
            "loss": float(np.mean([loss for _, loss in by_dataset.values()])),
            "by_dataset": {name: value for name, (value, _) in by_dataset.items()},
        }
        for scale, by_dataset in found.items()
    ]


def _column(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    name: str,
    adapters: Mapping[str, Adapter],
    merged: Mapping[str, Merged],
) -> SplitEvaluation:
    """Every row of the matrix on the test split of one dataset, under that dataset's own head."""
    opened = _open(settings, inputs, name)
    own = adapters[name]
    evaluated = inputs[f"evaluate/{name}"]
    target = str(read_json(evaluated / "evaluation.json")["target"])
    # The dataset's own adapter was evaluated on these rows already.
    probabilities = {name: read_predictions(evaluated / "predictions.parquet", target, "test")}
    untouched = {site: torch.zeros_like(delta) for site, delta in own.deltas.items()}
    rows: dict[str, Adapter] = {NONE: own.with_deltas(untouched)}
    rows |= {
        other: own.with_deltas({**untouched, **adapter.deltas}, beside=[adapter])
        for other, adapter in adapters.items()
        if other != name
    }
    rows |= {method: _with(own, result, adapters) for method, result in merged.items()}
    known: dict[str, Floats] = {}
    for row, adapter in rows.items():
        if adapter.sha256 not in known:  # two merges can be the same biases
            log.info("merge: the biases of %s on the test rows of %s", row, name)
            known[adapter.sha256] = _probabilities(opened, adapter, "test")
        probabilities[row] = known[adapter.sha256]
    methods: Sequence[str] = list(merged)
    evaluation = evaluate_methods(
        {row: Method({"test": probabilities[row]}) for row in (NONE, *adapters, *merged)},
        {"test": opened.rows("test").labels.tolist()},
        target=methods[-1],
        baselines=[name, NONE],
        metrics=[opened.metric],
        settings=settings.evaluate,
        seed=settings.seed,
    )
    return evaluation.splits["test"]


def _with(own: Adapter, result: Merged, adapters: Mapping[str, Adapter]) -> Adapter:
    """A dataset's head with merged biases."""
    others = [adapter for adapter in adapters.values() if adapter is not own]
    return own.with_deltas(result.deltas, beside=others, provenance={"merge": result.recipe()})


def _open(settings: PipelineSettings, inputs: Mapping[str, Path], name: str) -> Opened:
    return open_classifier(settings, inputs[f"prepare/{name}"], name)


def _probabilities(opened: Opened, adapter: Adapter, split: Split) -> Floats:
    with adapter.attached(opened.classifier):
        rows = opened.rows(split)
        batch_size = opened.settings.evaluate.batch_size
        return predict_probabilities(opened.classifier, rows.encoded, batch_size=batch_size).double().numpy()


merge_step = Step(
    merge,
    reads=("prepare", "train", "evaluate"),
    sections=(*(name.replace(".{dataset}.max_length", "") for name in CLASSIFIER_SECTIONS), "evaluate", "merge"),
    per_dataset=False,
    computes=True,
    own_process=True,
    tags=("gpu",),
)
