"""train: the target term and the head, with the epoch chosen on dev."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from beft.datasets.prepared import PreparedData
from beft.files import read_json, write_json
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings
from tasks.steps.same_base import require_base

if TYPE_CHECKING:
    from beft.training.results import TrainingResult


def train(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    dataset: str | None = None,
    checkpoints: Path | None = None,
) -> dict[str, JSON]:
    """Write the target term's adapter, and its history: the learning curves that DVC, MLflow and the report draw.

    Raises:
        InputError: The base cannot be reached, or is not that of the probe.
    """
    from beft.adapters.adapter import Adapter
    from beft.importance.probe_result import ProbeResult
    from beft.settings import ALL_BIASES
    from beft.training.opening import open_session

    assert dataset is not None
    target = str(read_json(inputs["score"] / "importance.json")["selection"]["target"])
    session = open_session(settings, PreparedData.from_folder(inputs["prepare"]))
    require_base(Adapter.load(inputs["probe"] / "adapter"), session.classifier, "probe", "train", dataset)
    inert = ProbeResult.load(inputs["probe"]).inert
    result = session.train([target], inert=inert, checkpoints=checkpoints)
    # Where all biases were chosen to be trained, it is no longer the target term's training.
    trained = target if result.adapter.terms == (target,) else ALL_BIASES
    result.adapter.save(out / "adapter")
    write_json(out / "history.json", result.history)
    write_json(
        out / "train.json",
        {
            "target": trained,
            "metric": session.metric,
            "truncated": session.sample.truncated,
            **result.facts(),
        },
    )
    write_json(out / "metrics.json", _metrics(result, session.metric))
    write_json(out / "cost.json", result.cost())
    return {
        "target": trained,
        "steps": result.run.steps,
        "steps_here": result.run.steps_here,
        "best_epoch": result.best_epoch,
        "learning_rate": result.learning_rate,
        "adapter_sha256": result.adapter.sha256,
    }


def _metrics(result: "TrainingResult", metric: str) -> dict[str, JSON]:
    """What ``dvc metrics`` shows: a few numbers of the chosen epoch."""
    names = {"dev_metric": f"dev_{metric}", "dev_loss": "dev_loss", "train_loss": "train_loss"}
    numbers = {names[name]: result.best[name] for name in names if name in result.best}
    return {**numbers, "best_epoch": result.best_epoch, "steps": result.run.steps}


train_step = Step(
    train,
    reads=("prepare", "probe", "score"),
    settings=(*CLASSIFIER_SECTIONS, "train", "datasets.{dataset}.epochs", "datasets.{dataset}.learning_rate"),
    computes=True,
    isolated=True,
    tags=("gpu",),
)
