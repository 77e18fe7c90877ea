"""What a finished step says, in MLflow's words: which run gets which parameters, tags, metrics and files.

Names are the same for every method, so that the pages of MLflow put them side by side: ``dev/METRIC``, ``dev/loss``
and ``train/loss`` by epoch, ``test/METRIC``, ``gate/METRIC`` and ``usage/…`` on the nested runs;
``DATASET/test_METRIC`` and the gains on the parent. MLflow draws one chart a name, in groups by what stands before the
slash, in the order of the alphabet: so there are few, and what was used comes last.

Parameters are named as the settings; what a nested run was trained with stands below ``train``, its dataset's own
settings below ``dataset``, whatever trained it and whichever dataset that is. Methods differ in few of them, and these
come early in the alphabet: MLflow's page that compares runs begins with the first three that differ.

Nothing here talks to MLflow.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from beft.evaluation.records import Evaluation
from beft.files import read_json
from tasks.engine.declaration import JSON
from tasks.engine.store import StepRecord
from tasks.settings import PipelineSettings
from tasks.tracking.flat_settings import flat

Metrics = list[tuple[str, float, int]]
"""Name, value, and the epoch that it belongs to (0 for a final one)."""

TARGET = "target"
"""How the nested run of the trained target term is named in its tag, whatever the term."""
PROBE = "all_biases"


CURVES = {"train_loss": "train/loss", "dev_loss": "dev/loss", "dev_metric": "dev/{metric}"}
"""What an epoch's record holds, and the metric that it is in MLflow; ``{metric}`` is that of the dataset."""


@dataclass(frozen=True)
class RunEntry:
    """What one run of MLflow gets from one step.

    Attributes:
        nested: Which nested run (``DATASET/METHOD``); None: the parent.
        title: The run's name where it has to be made.
        seconds: How long what it stands for took.
        note: Markdown that is added to the run's description.
        artifacts: Files or folders, and the folder among the run's artifacts that they go to.
    """

    nested: str | None = None
    dataset: str | None = None
    title: str = ""
    seconds: float = 0.0
    params: Mapping[str, JSON] = field(default_factory=dict)
    tags: Mapping[str, JSON] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=list)
    note: str = ""
    artifacts: Sequence[tuple[Path, str | None]] = ()


def entries(record: StepRecord, folder: Path, settings: PipelineSettings) -> list[RunEntry]:
    """What a step's folder has to say.

    Args:
        folder: The step's folder, whole.
    """
    said = _LOGGERS_BY_STEP.get(record.step)
    return list(said(record, folder, settings)) if said is not None else []


def as_mlflow_text(value: JSON, longest: int) -> str:
    """A value as the text of a parameter or tag, cut to what MLflow takes."""
    if isinstance(value, list):
        text = ", ".join(str(item) for item in value)
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = "none" if value is None else str(value)
    # No database takes half a character of UTF-16, and PostgreSQL no NUL.
    text = text.encode("utf-8", "replace").decode().replace("\0", "?")
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _prepared(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    yield RunEntry(artifacts=[(folder / "data.json", f"data/{record.dataset}")])


def _validated(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    yield RunEntry(artifacts=[(folder / "validation.json", f"data/{record.dataset}/{record.step}")])


def _probed(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    facts = read_json(folder / "probe.json")
    yield _training(record, folder, settings, PROBE, facts["terms"], facts)


def _scored(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    selection = read_json(folder / "importance.json")["selection"]
    files = [folder / f"importance.{ending}" for ending in ("png", "json")]
    yield RunEntry(
        tags={f"target.{record.dataset}": selection["target"]},
        artifacts=[(file, f"importance/{record.dataset}") for file in files],
    )


def _trained(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    facts = read_json(folder / "train.json")
    yield _training(record, folder, settings, TARGET, [facts["target"]], facts)
    yield RunEntry(tags=record.compute)


def _training(
    record: StepRecord,
    folder: Path,
    settings: PipelineSettings,
    method: str,
    terms: list[str],
    facts: Mapping[str, JSON],
) -> RunEntry:
    """A nested run of something that was trained by epochs."""
    dataset, name = str(record.dataset), terms[0] if method == TARGET else method
    data = read_json(folder / "adapter" / "beft.json")
    metrics = _curves(read_json(folder / "history.json"), facts["metric"])
    metrics += _usage(read_json(folder / "cost.json"))
    metrics.append(("usage/best_epoch", facts["best_epoch"], 0))
    named = ["history.json", "cost.json", f"{record.step}.json"]
    return RunEntry(
        nested=f"{dataset}/{method}",
        dataset=dataset,
        title=_title(name, dataset),
        seconds=record.seconds,
        params=_shared_params(settings, dataset, name)
        | _section(settings)
        | _trained_with(data["provenance"].get("training", {})),
        tags={
            **_shared_tags(settings, dataset, name, data["base"]["id"]),
            "term": ", ".join(terms),
            "adapter_sha256": facts["adapter_sha256"],
            **record.compute,
        },
        metrics=metrics,
        artifacts=[(folder / name, None) for name in named if (folder / name).exists()],
    )


def _evaluated(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    value = read_json(folder / "evaluation.json")
    evaluation = Evaluation.from_json({name: value[name] for name in Evaluation.model_fields})
    dataset, target, headline = str(record.dataset), evaluation.target, evaluation.metrics[0]
    trained = (target, PROBE)  # which have said by themselves what they were trained with
    for method in evaluation.splits["test"].scores:
        tuning = value["tuning"].get(method, {})
        yield RunEntry(
            nested=f"{dataset}/{nested_name(method, target)}",
            dataset=dataset,
            title=_title(method, dataset),
            seconds=(evaluation.costs[method].seconds or 0.0) if method in evaluation.costs else 0.0,
            params=_shared_params(settings, dataset, method)
            | ({} if method in trained else _section(settings) | _chosen(tuning)),
            tags=_shared_tags(settings, dataset, method, settings.base.source),
            metrics=_metrics_of(evaluation, method) + _tuned(tuning, headline),
        )
    test = evaluation.splits["test"]
    metrics: Metrics = []
    for method, scores in test.scores.items():
        suffix = "" if method == target else f"_{method}"
        metrics.append((f"{dataset}/test_{headline}{suffix}", scores[headline].value, 0))
    for baseline, gains in test.gains.items():
        metrics.append((f"{dataset}/test_gain_over_{baseline}", round(gains[headline].difference, 12), 0))
    yield RunEntry(metrics=metrics, artifacts=[(folder / "evaluation.json", f"evaluation/{dataset}")])


def _metrics_of(evaluation: Evaluation, method: str) -> Metrics:
    """A method's metrics on each split, the interval of the headline one on test, and the gains of the target."""
    headline = evaluation.metrics[0]
    metrics: Metrics = []
    for split, found in evaluation.splits.items():
        scores = found.scores.get(method, {})
        wanted = evaluation.metrics if split == "test" else (headline,)
        metrics += [(f"{split}/{metric}", scores[metric].value, 0) for metric in wanted if metric in scores]
        if split == "test" and headline in scores:
            score = scores[headline]
            metrics += [(f"test/{headline}_low", score.low, 0), (f"test/{headline}_high", score.high, 0)]
        for baseline, gains in found.gains.items() if method == evaluation.target else ():
            name, gain = f"{split}/gain_over_{baseline}", gains[headline]
            metrics += [(name, round(gain.difference, 12), 0), (f"{name}_low", round(gain.low, 12), 0)]
    if method in evaluation.costs:
        metrics += _usage(evaluation.costs[method].model_dump(mode="json"))
    return metrics


def _curves(history: Sequence[Mapping[str, JSON]], metric: str) -> Metrics:
    """A point an epoch."""
    names = {name: written.format(metric=metric) for name, written in CURVES.items()}
    return [
        (names[name], epoch[name], epoch["epoch"]) for epoch in history for name in names if epoch.get(name) is not None
    ]


def _trained_with(training: Mapping[str, JSON]) -> dict[str, JSON]:
    return {f"train.{name}": value for name, value in training.items()}


def _chosen(tuning: Mapping[str, JSON]) -> dict[str, JSON]:
    """What dev chose for a baseline, named as what the others were trained with."""
    names = {"epochs": "epochs", "learning_rate": "learning_rate", "C": "logistic_C", "start": "start"}
    found = {new: tuning[old] for old, new in names.items() if old in tuning}
    return _trained_with({"epochs": None, "learning_rate": None, **found})


def _tuned(tuning: Mapping[str, JSON], metric: str) -> Metrics:
    """The curve of a baseline that learns by epochs, as far as the one that dev chose; the dev metric of another."""
    if "history" not in tuning:
        return [(f"dev/{metric}", tuning["dev"], 0)] if "dev" in tuning else []
    kept = [epoch for epoch in tuning["history"] if epoch["epoch"] <= max(1, tuning["best_epoch"])]
    return [*_curves(kept, metric), ("usage/best_epoch", tuning["best_epoch"], 0)]


def nested_name(method: str, target: str) -> str:
    """How a method of the evaluation is named in the tag of its nested run."""
    return TARGET if method == target else method


def _merged(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    found = read_json(folder / "merge.json")
    metrics: Metrics = []
    for dataset, column in found.get("matrix", {}).items():
        metric = found["metrics"][dataset]
        metrics += [
            (f"{dataset}/test_{metric}_merged_{method}", column["scores"][method][metric]["value"], 0)
            for method in found["recipes"]
        ]
    cosines = [
        (f"merge/cosine_{pair['first']}_{pair['second']}", pair["cosine"], 0)
        for pair in found.get("comparisons", [])
        if pair["cosine"] is not None
    ]
    files = [file for file in (folder / "merge.json", folder / "merge.png") if file.exists()]
    yield RunEntry(metrics=metrics + cosines, artifacts=[(file, "merge") for file in files])


def _reported(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    yield RunEntry(artifacts=[(folder / "report.html", None)])


def _registered(record: StepRecord, folder: Path, settings: PipelineSettings) -> Iterator[RunEntry]:
    tags: dict[str, JSON] = {}
    lines = []
    for model in record.summary["models"]:
        tags[f"model.{model['dataset']}"] = f"{model['name']} version {model['version']}"
        aliases = ", ".join(f"@{alias}" for alias in model["aliases"])
        page = f"#/models/{model['name']}/versions/{model['version']}"
        lines.append(
            f"- **{model['dataset']}**: [{model['name']} version {model['version']}]({page}) {aliases}: "
            f"{model['reason']}"
        )
    yield RunEntry(tags=tags, note="\n".join(lines), artifacts=[(folder / "registration.json", None)])


_LOGGERS_BY_STEP = {
    "prepare": _prepared,
    "validate_raw": _validated,
    "validate": _validated,
    "probe": _probed,
    "score": _scored,
    "train": _trained,
    "evaluate": _evaluated,
    "merge": _merged,
    "report": _reported,
    "register": _registered,
}


def _usage(cost: Mapping[str, JSON]) -> Metrics:
    """What a training took, as ``cost.json`` and the evaluation have it; an interrupted one has no seconds."""
    names = ("seconds", "trainable_parameters", "bias_bytes", "head_bytes")
    metrics: Metrics = [(f"usage/{name}", float(cost[name]), 0) for name in names if cost[name] is not None]
    if cost.get("peak_memory_bytes") is not None:
        metrics.append(("usage/peak_memory_megabytes", cost["peak_memory_bytes"] / 1e6, 0))
    return metrics


def _title(method: str, dataset: str) -> str:
    """The name of a nested run: the method first, since lists and legends cut what is long."""
    return f"{method.replace('_', ' ')} · {dataset}"


def _shared_params(settings: PipelineSettings, dataset: str, method: str) -> dict[str, JSON]:
    """The method, and the settings that every method of a dataset shares."""
    shared = ("seed", "protocol", "base.", "head.", "split.")
    own = settings.datasets[dataset]
    return {
        "method": method,
        **{name: value for name, value in flat(settings).items() if name.startswith(shared)},
        "dataset": dataset,
        "dataset.size": own.size,
        "dataset.max_length": own.max_length,
    }


def _section(settings: PipelineSettings) -> dict[str, JSON]:
    """The settings of training; a method that was trained with others says so after them."""
    return {name: value for name, value in flat(settings).items() if name.startswith("train.")}


def _shared_tags(settings: PipelineSettings, dataset: str, method: str, base: str) -> dict[str, JSON]:
    return {
        "base": base,
        "dataset": dataset,
        "method": method,
        "regime": settings.datasets[dataset].size,
        "seed": settings.seed,
        "protocol": settings.protocol,
    }
