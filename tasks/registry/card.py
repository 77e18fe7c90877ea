"""The model card of an adapter: what it is, how good, against what, and how to use it; from the facts of its run."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beft.evaluation.records import Evaluation
from beft.metrics.registry import METRICS
from tasks.engine.declaration import JSON
from tasks.reporting.formatting import percent, points, small
from tasks.reporting.results import DatasetResults
from tasks.settings import PipelineSettings
from tasks.tracking.entries import as_mlflow_text
from tasks.tracking.limits import REGISTRY_TEXT

if TYPE_CHECKING:
    from beft.adapters.adapter import Adapter


def model_card(
    results: DatasetResults,
    adapter: "Adapter",
    settings: PipelineSettings,
    *,
    name: str,
    decision: Mapping[str, JSON],
    facts: Mapping[str, JSON],
) -> str:
    """The card as Markdown.

    Args:
        name: The registered model's name.
        decision: ``decision`` (champion or challenger), its ``reason``, and ``gate_decisions`` taken so far.
        facts: Commit, hashes and the like.
    """
    data, evaluation = results.data, results.evaluation
    rows = data["rows"]
    title = as_mlflow_text(str(data.get("title", results.name)).replace("\n", " "), 200)
    provenance = adapter.provenance
    parts = [
        _headline(results, title),
        _verdict(decision),
        _comparison(evaluation),
        "## What it is",
        f"The change of one bias term, **{', '.join(adapter.terms)}**, of `{short(adapter.base_id)}`, "
        f"{_head(adapter)}. {_predicts(adapter)}. Texts are cut to {adapter.max_length} tokens.",
        "## How the term was selected",
        results.importance["selection"]["reason"].replace("_", " "),
        _selection(results.importance["selection"]),
        "## Recipe",
        learnt_rows(rows, provenance, settings),
        _recipe(provenance, settings),
        "## Use",
        _use(name, str(decision["decision"]), adapter),
        "## Where it came from",
        _origin(results, adapter, facts),
        "## Limits",
        "One seed; the intervals are over rows. It was tried on texts of the kind that it was trained on, no others.",
    ]
    return as_mlflow_text("\n\n".join(part for part in parts if part), REGISTRY_TEXT)


def learnt_rows(rows: Mapping[str, int], provenance: Mapping[str, Any], settings: PipelineSettings) -> str:
    """What was trained on, and what dev chose."""
    training = provenance.get("training", {})
    epochs = training.get("epochs", "?")
    if provenance.get("learns_from_dev"):
        learnt = rows["train"] + rows["dev"]
        return f"Trained on {learnt:,} rows, those of dev among them, for {epochs} epochs; seed {settings.seed}."
    if training.get("loss") in ("contrastive", "both"):
        return (
            f"Trained on {rows['train']:,} rows for {epochs} epochs; {rows['dev']:,} dev rows chose the penalty of the "
            f"head; seed {settings.seed}."
        )
    return (
        f"Trained on {rows['train']:,} rows; {rows['dev']:,} dev rows chose the epoch "
        f"({provenance.get('best_epoch', '?')} of {epochs}); seed {settings.seed}."
    )


def licence_of(results: DatasetResults) -> str:
    """What the dataset's description says of its licence, and what its package says."""
    licence = results.data.get("source", {}).get("licence") or {}
    said = [str(licence.get("dataset") or "not stated")]
    if licence.get("package"):
        said.append(f"its package: {licence['package']}")
    return "; ".join(said)


def _head(adapter: "Adapter") -> str:
    """What of the adapter is the head, and the number of its parameters."""
    if not adapter.problem_type.has_head:
        return f"without a head: {adapter.bias_parameters:,} parameters"
    return f"and a head: {adapter.bias_parameters:,} + {adapter.head_parameters:,} parameters"


def _predicts(adapter: "Adapter") -> str:
    """What the adapter answers."""
    from beft.problems.multi_label import MultiLabel

    if isinstance(adapter.problem_type, MultiLabel):
        parts = zip(adapter.labels, adapter.problem_type.thresholds, strict=True)
        named = as_mlflow_text(", ".join(f"`{label}` from {threshold:.2f}" for label, threshold in parts), 1000)
        return f"Labels, any number of them a text, each from its probability on: {named}"
    if adapter.problem_type.reads_words:
        return (
            f"Labels of spans of the text: {as_mlflow_text(', '.join(f'`{label}`' for label in adapter.labels), 1000)}"
        )
    if adapter.labels:
        return f"Labels: {as_mlflow_text(', '.join(f'`{label}`' for label in adapter.labels), 1000)}"
    if adapter.problem_type.generates:
        return "It answers with a text"
    return (
        "It predicts a number"
        if adapter.problem_type.name == "regression"
        else "It chooses among the choices of each text"
    )


def _headline(results: DatasetResults, title: str) -> str:
    """The first line, which lists of versions show alone: plain text."""
    evaluation, metric = results.evaluation, results.metric
    test = evaluation.splits["test"]
    score = test.scores[evaluation.target][metric]
    return (
        f"{percent(score.value)}{METRICS[metric].sign} {metric} on {test.rows:,} test rows of {title} "
        f"({100 * evaluation.confidence:g} % interval {percent(score.low)} to {percent(score.high)})."
    )


def _comparison(evaluation: Evaluation) -> str:
    """One line a method, the best first. A list: MLflow's pages set tables without space between the columns."""
    metric, test = evaluation.metrics[0], evaluation.splits["test"]
    lines = []
    for method in sorted(test.scores, key=lambda method: -test.scores[method][metric].value):
        score = test.scores[method][metric]
        name = method.replace("_", " ")
        label = f"**{name}, the target**" if method == evaluation.target else name
        line = f"- {label}: {percent(score.value)} ({percent(score.low)} to {percent(score.high)})"
        if method in test.gains:
            gain = test.gains[method][metric]
            line += f"; the target's gain {points(gain.difference)} ({points(gain.low)} to {points(gain.high)})"
        lines.append(line)
    return "\n".join(lines)


def _selection(selection: Mapping[str, JSON]) -> str:
    """One line a candidate, with its score by every method, the one that chose first. A list, as above."""
    chose = str(selection["method"])
    scores: dict[str, dict[str, float | None]] = {}
    for method, ranking in {chose: selection["ranking"], **selection["beside"]}.items():
        for of in ranking:
            scores.setdefault(of["term"], {})[method] = of["score"]
    lines = []
    for term, by_method in scores.items():
        name = f"**{term}, the target**" if term == selection["target"] else term.replace("_", " ")
        found = (f"{method.replace('_', ' ')} {small(score)}" for method, score in by_method.items())
        lines.append(f"- {name}: {'; '.join(found)}")
    lines += [f"- {term.replace('_', ' ')}: inert, shifting it changes no logit" for term in selection["inert"]]
    return "\n".join(lines)


def _recipe(provenance: Mapping[str, JSON], settings: PipelineSettings) -> str:
    """What was trained with which settings, those alone that say something."""
    training, compute = provenance.get("training", {}), provenance.get("compute", {})
    said = {
        "learning rate": training.get("learning_rate"),
        "of the head": training.get("head_learning_rate"),
        "schedule": training.get("schedule"),
        "warm-up": training.get("warmup_fraction"),
        "batch": training.get("batch_size"),
        "clipped at": training.get("clip_norm"),
        "dropout": training.get("dropout"),
        "head": settings.head.train,
        "pooling": settings.head.pooling,
        "protocol": provenance.get("protocol"),
        "precision of the base": compute.get("precision"),
        "device": compute.get("device"),
        "threads": compute.get("threads"),
    }
    return ", ".join(f"{name} {as_mlflow_text(value, 100)}" for name, value in said.items() if value is not None) + "."


def short(base_id: str) -> str:
    """A base's portable id, with long hashes cut."""
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{20,}", r"\1…", base_id)


def _verdict(decision: Mapping[str, JSON]) -> str:
    text = f"**{str(decision['decision']).capitalize()}**: {decision['reason']}."
    if "gate_decisions" in decision:
        text += f" Decisions taken on this gate split so far: {decision['gate_decisions']}."
    return text


def _use(name: str, alias: str, adapter: "Adapter") -> str:
    base = ', model_config={"base": "FOLDER OF THE BASE"}' if adapter.base_id.startswith("sha256:") else ""
    columns: dict[str, JSON] = {"text": ["…"]}
    if adapter.pairs:
        columns["text_pair"] = ["…"]
    if adapter.takes_choices:
        columns["choices"] = [["…", "…"]]
    return (
        "```python\n"
        "import mlflow, pandas\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}@{alias}"{base})\n'
        f"model.predict(pandas.DataFrame({json.dumps(columns, ensure_ascii=False)}))\n"
        "```"
    )


def _origin(results: DatasetResults, adapter: "Adapter", facts: Mapping[str, JSON]) -> str:
    data = facts["data"][results.name]
    commit = facts.get("commit") or "no git repository"
    digest = f"md5 {data['prepared_md5']}" if data.get("prepared_md5") else f"sha256 {data['prepared_sha256'][:16]}…"
    rows = {
        "data": f"{results.name} version {results.data.get('version', '?')}, {digest}",
        "licence of the data": licence_of(results),
        "base": f"{short(adapter.base_id)}, sha256 {adapter.base_sha256[:16]}…",
        "adapter": f"sha256 {adapter.sha256[:16]}…",
        "commit": f"{commit}{' (with changes)' if facts.get('dirty') else ''}",
        "source": f"sha256 {str(facts['source_sha256'])[:16]}…",
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())
