"""A finished run with an evaluation of chosen numbers, and its registration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beft.evaluation.scores import Method, evaluate_methods
from beft.files import read_json, write_json
from beft.settings import EvaluateSettings
from tasks.steps.register import register
from tasks.tracking.runs import open_run
from tests.support.finished_run import FINGERPRINT, FinishedRun


def target_of(run: FinishedRun, dataset: str) -> str:
    """The target term of a dataset; a tiny random base decides it as it likes."""
    return str(read_json(run.inputs[f"train/{dataset}"] / "train.json")["target"])


def with_evaluation(run: FinishedRun, folder: Path, *, baseline: float, target: float) -> FinishedRun:
    """The run with an evaluation of films in which baseline and target are right on these shares of the rows."""
    rows, term = 400, target_of(run, "films")
    truth = np.arange(rows) % 2

    def predictions(share: float) -> Any:
        right = np.arange(rows) < share * rows
        labels = np.where(right, truth, 1 - truth)
        return np.eye(2)[labels]

    found = evaluate_methods(
        {
            term: Method({split: predictions(target) for split in ("test", "gate")}),
            "head_only": Method({split: predictions(baseline) for split in ("test", "gate")}),
            "logistic_regression": Method({split: predictions(baseline - 0.02) for split in ("test", "gate")}),
        },
        {split: truth.tolist() for split in ("test", "gate")},
        target=term,
        baselines=("head_only", "logistic_regression"),
        metrics=["accuracy"],
        settings=EvaluateSettings(resamples=500),
    )
    assert found.decision().passed == (target > baseline + 0.1)
    write_json(folder / "evaluation.json", found.to_json() | {"decision": {}, "tuning": {}, "truncated": {}})
    settings = run.settings.model_copy(update={"datasets": {"films": run.settings.datasets["films"]}})
    return replace(run, settings=settings, inputs=run.inputs | {"evaluate/films": folder})


def registered(run: FinishedRun, root: Path, fingerprint: str = FINGERPRINT) -> dict[str, Any]:
    """Register the run's only model."""
    parent = open_run(fingerprint, run.settings, root=root, facts=run.facts)
    out = root / "registration"
    out.mkdir(exist_ok=True)
    found = register(run.settings, run.inputs, out, parent=parent, root=root, facts=run.facts)
    [model] = found["models"]
    assert read_json(out / "registration.json")["models"][0]["version"] == model["version"]
    return dict(model)
