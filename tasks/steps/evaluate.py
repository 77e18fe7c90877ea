"""evaluate: the target beside the probe and cheap baselines, on test; and the gain that decides, on gate."""

from collections.abc import Mapping
from pathlib import Path

from beft.datasets.prepared import PreparedData, Split
from beft.evaluation.records import Evaluation
from beft.files import read_json, write_json
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings
from tasks.steps.predictions import WITHOUT_BIASES, write_predictions
from tasks.steps.same_base import require_base


def evaluate(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write every method's predictions, its metrics with intervals, and the target's gain over each baseline.

    Raises:
        InputError: An adapter does not fit the base, or was trained over another one.
    """
    from beft.adapters.adapter import Adapter
    from beft.comparison.evaluation import cost_of, evaluate_adapters
    from beft.evaluation.confusion import confusion_of
    from beft.settings import ALL_BIASES
    from beft.training.opening import open_session

    assert dataset is not None
    session = open_session(settings, PreparedData.from_folder(inputs["prepare"]))
    splits: list[Split] = ["test", "gate"] if session.facts["rows"]["gate"] else ["test"]
    target = str(read_json(inputs["train"] / "train.json")["target"])
    folders = {ALL_BIASES: inputs["probe"], target: inputs["train"]}
    adapters = {name: Adapter.load(folder / "adapter") for name, folder in folders.items()}
    for name, adapter in adapters.items():  # before the baselines are fitted
        made_by = "train" if name == target else "probe"
        require_base(adapter, session.classifier, made_by, "evaluate", dataset)
    compared = evaluate_adapters(
        session,
        adapters,
        target=target,
        # Promotion compares the target with the cheap baselines: the probe is not needed on gate.
        splits=splits,
        costs={name: cost_of(read_json(folder / "cost.json")) for name, folder in folders.items()},
    )
    found, rows = compared.evaluation, compared.rows
    decision = found.decision("gate")
    confusion = {}
    if session.problem_type.has_classes:
        predicted = compared.predictions[target]["test"]
        confusion = {"confusion": confusion_of(rows["test"].labels, predicted, session.data.labels)}
    write_json(
        out / "evaluation.json",
        {
            **found.to_json(),
            "decision": decision.model_dump(mode="json"),
            "tuning": dict(compared.tuning),
            "truncated": {split: rows[split].encoded.truncated for split in rows},
            **confusion,
        },
    )
    write_json(out / "metrics.json", _headlines(found))
    ids: dict[str, list[str]] = {split: session.data.rows(split).ids for split in splits}
    truth = {split: rows[split].truth for split in ids}
    predictions = dict(compared.predictions)
    if compared.without_biases is not None:  # a row of the merge matrix, which is known here
        predictions[WITHOUT_BIASES] = {"test": compared.without_biases}
    write_predictions(out / "predictions.parquet", ids, truth, predictions)
    headline = compared.score()
    return {
        "target": target,
        "metric": session.metric,
        "test": headline.value,
        "low": headline.low,
        "high": headline.high,
        "gate_passed": decision.passed,
    }


def _headlines(found: Evaluation) -> dict[str, JSON]:
    """What ``dvc metrics`` shows: the target's headline metric on test and gate, its interval and its gains on test."""
    headline, test = found.metrics[0], found.splits["test"]
    score = test.scores[found.target][headline]
    gate = {"gate": {headline: found.splits["gate"].scores[found.target][headline].value}} if found.has_gate else {}
    return {
        "test": {headline: score.value, "low": score.low, "high": score.high},
        **gate,
        "test_gain_over": {baseline: gains[headline].difference for baseline, gains in test.gains.items()},
    }


evaluate_step = Step(
    evaluate,
    reads=("prepare", "probe", "train"),
    settings=(
        *CLASSIFIER_SECTIONS,
        "train",
        "evaluate",
        "datasets.{dataset}.epochs",
        "datasets.{dataset}.learning_rate",
    ),
    computes=True,
    isolated=True,
    tags=("gpu",),
)
