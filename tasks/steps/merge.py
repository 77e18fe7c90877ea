"""merge: one set of biases for all datasets, made of their adapters without training; heads stay apart.

Every row of the result's matrix is a set of biases: none (the base's own), each dataset's adapter, each merged one.
Every column is a dataset, measured on its test split with its own head.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from beft.adapters.adapter import Adapter
from beft.datasets.prepared import PreparedData
from beft.encoding.examples import LabelledRows, Predictions
from beft.evaluation.records import SplitEvaluation
from beft.evaluation.scores import Method, evaluate_methods
from beft.files import read_json, write_json
from beft.merging.choice import choose_merges
from beft.merging.comparison import compare_all
from beft.merging.dev import with_merged
from beft.merging.merged import Merged
from beft.sites.site import read_bias
from beft.training.session import Session, open_session
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings
from tasks.steps.predictions import read_predictions

log = logging.getLogger("tasks")

NONE = "none"
"""The row of the base's own biases, under the head that was trained with the dataset's adapter."""


def merge(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Merge the adapters of all datasets by every method, and evaluate each merged one on every dataset.

    Raises:
        InputError: The adapters have different bases, or weights are to be searched and there are no dev rows.
    """
    names = list(settings.datasets)
    if len(names) == 1:
        note = f"there is only one dataset ({names[0]}), so there is nothing to merge"
        write_json(out / "merge.json", {"datasets": names, "note": note})
        return {"note": note}
    adapters = {name: Adapter.load(inputs[f"train/{name}"] / "adapter") for name in names}
    # The paper's protocol has no dev split, so there is nothing to choose with.
    open_dataset = None if settings.protocol == "paper" else partial(_open, settings, inputs)
    choices = choose_merges(settings.merge, adapters, open_dataset, seed=settings.seed, progress=log.info)
    merged = {method: choice.merged for method, choice in choices.items()}
    for method, result in merged.items():
        for name in names:
            with_merged(adapters, name, result).save(out / "merged" / method / name)
    matrix = {name: _column(settings, inputs, name, adapters, merged) for name in names}
    session = _open(settings, inputs, names[0])
    sites = {site for adapter in adapters.values() for site in adapter.deltas}
    before = {site: read_bias(session.classifier.model, site) for site in sites}
    found: dict[str, JSON] = {
        "datasets": names,
        "rows": [NONE, *names, *merged],
        "matrix": {name: column.model_dump(mode="json") for name, column in matrix.items()},
        "metrics": {name: next(iter(column.scores[NONE])) for name, column in matrix.items()},
        "recipes": {method: result.recipe() for method, result in merged.items()},
        "tried": {
            method: [one.to_json() for one in choice.tried] for method, choice in choices.items() if choice.tried
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


def _column(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    name: str,
    adapters: Mapping[str, Adapter],
    merged: Mapping[str, Merged],
) -> SplitEvaluation:
    """Every row of the matrix on the test split of one dataset, under that dataset's own head."""
    session = _open(settings, inputs, name)
    own = adapters[name]
    evaluated = inputs[f"evaluate/{name}"]
    target = str(read_json(evaluated / "evaluation.json")["target"])
    # The dataset's own adapter was evaluated on these rows already.
    predictions: dict[str, Predictions] = {name: read_predictions(evaluated / "predictions.parquet", target, "test")}
    test = session.rows("test")
    untouched = {site: torch.zeros_like(delta) for site, delta in own.deltas.items()}
    rows: dict[str, Adapter] = {NONE: own.with_deltas(untouched)}
    rows |= {
        other: own.with_deltas({**untouched, **adapter.deltas}, beside=[adapter])
        for other, adapter in adapters.items()
        if other != name
    }
    rows |= {method: with_merged(adapters, name, result) for method, result in merged.items()}
    known: dict[str, Predictions] = {}
    for row, adapter in rows.items():
        if adapter.sha256 not in known:  # two merges can be the same biases
            log.info("merge: the biases of %s on the test rows of %s", row, name)
            known[adapter.sha256] = _predictions(session, adapter, test)
        predictions[row] = known[adapter.sha256]
    methods: Sequence[str] = list(merged)
    evaluation = evaluate_methods(
        {row: Method({"test": predictions[row]}) for row in (NONE, *adapters, *merged)},
        {"test": test.truth},
        target=methods[-1],
        baselines=[name, NONE],
        metrics=[session.metric],
        settings=settings.evaluate,
        seed=settings.seed,
    )
    return evaluation.splits["test"]


def _open(settings: PipelineSettings, inputs: Mapping[str, Path], name: str) -> Session:
    return open_session(settings, PreparedData.from_folder(inputs[f"prepare/{name}"]))


def _predictions(session: Session, adapter: Adapter, rows: LabelledRows) -> Predictions:
    with adapter.attached(session.classifier):
        return session.predictions(rows)


merge_step = Step(
    merge,
    reads=("prepare", "train", "evaluate"),
    settings=(*(name.replace(".{dataset}.max_length", "") for name in CLASSIFIER_SECTIONS), "evaluate", "merge"),
    per_dataset=False,
    computes=True,
    isolated=True,
    tags=("gpu",),
)
