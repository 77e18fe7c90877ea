"""train: the target term and the head, with the epoch chosen on dev."""

from collections.abc import Mapping
from pathlib import Path

from beft.files import read_json, write_json
from beft.importance.probe_result import Evidence
from beft.inference.runs import RunResult
from beft.training.adaptation import train_terms
from beft.training.session import open_classifier, training_cost, training_facts
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings


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
        InputError: The base cannot be reached.
    """
    assert dataset is not None
    target = str(read_json(inputs["score"] / "importance.json")["selection"]["target"])
    opened = open_classifier(settings, inputs["prepare"], dataset)
    sample = opened.sample()
    training = opened.training(settings.train)
    result = train_terms(
        opened.classifier,
        sample,
        settings,
        training,
        [target],
        inert=Evidence.load(inputs["probe"]).inert,
        checkpoints=checkpoints,
    )
    adapter = opened.adapter(result, (target,))
    adapter.save(out / "adapter")
    write_json(out / "history.json", result.history)
    write_json(
        out / "train.json",
        {"target": target, "metric": sample.metric, "truncated": sample.truncated, **training_facts(result, adapter)},
    )
    write_json(out / "metrics.json", _metrics(result, sample.metric))
    write_json(out / "cost.json", training_cost(result, adapter))
    return {
        "target": target,
        "steps": result.steps,
        "steps_here": result.steps_here,
        "best_epoch": result.best_epoch,
        "learning_rate": result.run.settings.learning_rate,
        "adapter_sha256": adapter.sha256,
    }


def _metrics(result: RunResult, metric: str) -> dict[str, JSON]:
    """What ``dvc metrics`` shows: a few numbers of the chosen epoch."""
    names = {"dev_metric": f"dev_{metric}", "dev_loss": "dev_loss", "train_loss": "train_loss"}
    chosen = next(record for record in result.history if record["epoch"] == result.best_epoch)
    numbers = {names[name]: chosen[name] for name in names if name in chosen}
    return {**numbers, "best_epoch": result.best_epoch, "steps": result.steps}


train_step = Step(
    train,
    reads=("prepare", "probe", "score"),
    sections=(*CLASSIFIER_SECTIONS, "train", "datasets.{dataset}.epochs", "datasets.{dataset}.learning_rate"),
    computes=True,
    own_process=True,
    tags=("gpu",),
)
