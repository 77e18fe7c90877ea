"""report: one page that says what came of a run; self-contained, so that it can be mailed, archived and printed."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import beft
from beft.evaluation.promotion.certainty import decision_certainty
from beft.evaluation.records import Cost, Gain, MetricScore
from beft.files import read_json, write_text
from beft.importance.result import numbers_of_layers
from beft.metrics.registry import METRICS
from tasks.engine.declaration import JSON, Step
from tasks.model_name import model_name
from tasks.registry.card import licence_of, short
from tasks.reporting.formatting import duration, percent, points, quantity, small, title
from tasks.reporting.report_confusion import confusion_table
from tasks.reporting.report_merge import merge_table
from tasks.reporting.report_pictures import curve_pictures, gain_picture, order, score_picture
from tasks.reporting.results import DatasetResults, read_datasets
from tasks.reporting.template import TEMPLATE
from tasks.settings import PipelineSettings
from tasks.tracking.flat_settings import NON_TRAINING_SECTIONS, flat

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "evaluate",
    "scikit-learn",
    "numpy",
    "pandas",
    "great-expectations",
    "mlflow",
    "prefect",
    "dvc",
)


def report(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write ``report.html``: results, selection, curves, merges, data, cost, settings and versions of a run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    datasets = [_dataset(results, settings) for results in read_datasets(settings, inputs)]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE.name).render(
        datasets=datasets,
        base=datasets[0]["base"],
        confidence=f"{100 * settings.evaluate.confidence:g}",
        protocol=settings.protocol,
        seed=settings.seed,
        merge=merge_table(inputs["merge"]) if "merge" in inputs else None,
        settings=_settings(settings),
        versions=_versions(),
        certain=sum(dataset["passed"] for dataset in datasets),
    )
    write_text(out / "report.html", page)
    return {"datasets": len(datasets), "bytes": len(page.encode())}


def _dataset(results: DatasetResults, settings: PipelineSettings) -> dict[str, Any]:
    evaluation, metric = results.evaluation, results.metric
    adapter = read_json(results.folders["train"] / "adapter" / "beft.json")
    test, target = evaluation.splits["test"], evaluation.target
    decision = evaluation.decision("gate")
    methods = [_method(results, method) for method in order(results)]
    best = max(evaluation.baselines, key=lambda name: test.scores[name][metric].value)
    base_id = adapter["base"]["id"]
    return {
        "name": results.name,
        "title": results.data.get("title", results.name),
        "data": results.data,
        "licence": licence_of(results),
        "base": {"id": short(base_id), "sha256": adapter["base"]["sha256"]},
        "local_base": base_id.startswith("sha256:"),
        "labels": adapter["labels"],
        "max_length": adapter["max_length"],
        "target": target,
        "metric": METRICS[metric].title,
        "metrics": [METRICS[name].title for name in evaluation.metrics],
        "sign": METRICS[metric].sign,
        "test_rows": test.rows,
        "gate_rows": evaluation.splits["gate"].rows if evaluation.has_gate else 0,
        "score": _score(test.scores[target][metric]),
        "best_baseline": title(best),
        "gain": _gain(test.gains[best][metric]),
        "passed": decision.passed,
        "gate": [
            {
                "baseline": title(name),
                **_gain(evaluation.splits["gate"].gains[name][metric]),
            }
            for name in (evaluation.baselines if evaluation.has_gate else ())
        ],
        "certainty": decision_certainty(results.data, evaluation.confidence),
        "methods": methods,
        "score_picture": score_picture(results),
        "gain_picture": gain_picture(results),
        "confusion": confusion_table(results.extra.get("confusion")),
        "selection": results.importance["selection"],
        "tables": _tables(results, settings),
        "curves": curve_pictures(results),
        "train": results.train,
        "probe": results.probe,
        "bias_parameters": results.train["bias_parameters"],
        "head_parameters": results.train["head_parameters"],
        "truncated": results.extra.get("truncated", {}),
        "tuning": _tuning(results),
        "choice": _choice(results),
        "validations": [_validation(found) for found in (results.raw_validation, results.validation) if found],
        "adapter": adapter,
        "adapter_sha256": results.train["adapter_sha256"],
        "model_name": model_name(settings.tracking.model_prefix, base_id, results.name),
        "peft": adapter["peft"],
    }


def _method(results: DatasetResults, method: str) -> dict[str, Any]:
    evaluation = results.evaluation
    test, cost = evaluation.splits["test"], evaluation.costs.get(method)
    gains = test.gains.get(method)
    return {
        "name": title(method),
        "target": method == evaluation.target,
        "scores": [_score(test.scores[method][metric]) for metric in evaluation.metrics],
        "gain": _gain(gains[results.metric]) if gains else None,
        "cost": _cost(cost) if cost else None,
    }


def _score(score: MetricScore) -> dict[str, Any]:
    return {
        "value": percent(score.value),
        "low": percent(score.low),
        "high": percent(score.high),
        "spread": percent(score.spread) if score.spread is not None else None,
        "runs": len(score.runs),
    }


def _gain(gain: Gain) -> dict[str, Any]:
    return {
        "difference": points(gain.difference),
        "low": points(gain.low),
        "high": points(gain.high),
        "p_value": f"{gain.p_value:.4f}",
        "certain": gain.certain,
        "positive": gain.difference > 0,
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "parameters": f"{cost.trainable_parameters:,}",
        "seconds": "not known: interrupted" if cost.seconds is None else duration(cost.seconds),
        "memory": quantity(cost.peak_memory_bytes),
        "bias": quantity(cost.bias_bytes) if cost.bias_bytes else "—",
        "head": quantity(cost.head_bytes) if cost.head_bytes else "—",
    }


def _tables(results: DatasetResults, settings: PipelineSettings) -> list[dict[str, Any]]:
    """The heat map of every importance method, as tables; the one that chose comes first."""
    selection, inert = results.importance["selection"], results.importance["inert"]
    found = []
    for method, table in results.importance["tables"].items():
        known = [value for layers in table["scores"].values() for value in layers if value is not None]
        greatest = max(known, default=0.0) or 1.0
        layers = max(len(of) for of in table["scores"].values())
        terms = [*table["ranking"], *(term for term in table["scores"] if term not in table["ranking"])]
        rows = [
            {
                "term": term,
                "target": term == selection["target"],
                "candidate": term in settings.score.candidates,
                "inert": inert.get(term, {}).get("inert", False),
                "mean": small(table["mean"][term]),
                "cells": [
                    {"text": small(value), "share": f"{(value or 0) / greatest:.3f}"} for value in table["scores"][term]
                ],
                "missing": layers - len(table["scores"][term]),
            }
            for term in terms
        ]
        stacks = table.get("stacks", {})
        found.append(
            {
                "method": method,
                "chose": method == selection["method"],
                "stacks": stacks,
                "numbers": numbers_of_layers(layers, stacks),
                "rows": rows,
            }
        )
    return sorted(found, key=lambda table: not table["chose"])


def _choice(results: DatasetResults) -> dict[str, Any] | None:
    """What ``train.method: auto`` compared, a row a candidate; None where the way of training was fixed."""
    choice = results.train.get("choice")
    if choice is None:
        return None
    rows = []
    for one in choice["candidates"]:
        behind = one.get("behind")
        rows.append(
            {
                "name": one["name"],
                "chosen": one["name"] == choice["chosen"],
                "score": percent(one["metric"]) if "metric" in one else one["failed"],
                "behind": "" if behind is None else points(behind["difference"]),
                "interval": "" if behind is None else f"{points(behind['low'])} to {points(behind['high'])}",
            }
        )
    return {"folds": choice["folds"], "repeats": choice["repeats"], "rows": rows, "biases": choice["trains_biases"]}


def _tuning(results: DatasetResults) -> list[str]:
    """One sentence a method that was searched for: what was tried, and what dev, or cross-validation, chose."""
    sentences = []
    if rates := results.train.get("learning_rates_tried"):
        chosen = results.train["learning_rate"]
        name = title(results.train["target"])
        failed = [f"{one['learning_rate']:.3g}" for one in rates if "failed" in one]
        lost = f"; the training failed at {', '.join(failed)}" if failed else ""
        sentences.append(f"{name}: the best on dev of {len(rates)} learning rates ({chosen:.3g}){lost}")
    for name, found in results.extra.get("tuning", {}).items():
        tried = len(found.get("candidates", []))
        chosen = [f"{key.replace('_', ' ')} {found[key]:.3g}" for key in ("C", "learning_rate") if key in found]
        if "epochs" in found:
            chosen.append(f"epoch {found['best_epoch']} of {found['epochs']}")
        by = "by cross-validation" if "folds" in found else "on dev"
        sentences.append(f"{title(name)}: the best {by} of {tried} settings ({', '.join(chosen)})")
    return sentences


def _validation(found: Mapping[str, Any]) -> dict[str, Any]:
    expectations = found["expectations"]
    return {
        "stage": found["stage"],
        "rows": found["rows"],
        "passed": sum(one["success"] for one in expectations),
        "expectations": [
            {
                "name": one["expectation"].removeprefix("expect_").replace("_", " "),
                "column": one["column"] or "",
                "split": one["split"] or "",
                "success": one["success"],
            }
            for one in expectations
        ],
        "of": len(expectations),
    }


def _settings(settings: PipelineSettings) -> list[dict[str, Any]]:
    """All settings by section, under their dotted names."""
    sections: dict[str, list[dict[str, str]]] = {}
    for name, value in flat(settings).items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
        sections.setdefault(name.partition(".")[0] if "." in name else "run", []).append({"name": name, "value": shown})
    return [{"name": name, "rows": rows} for name, rows in sections.items()]


def _versions() -> list[tuple[str, str]]:
    return [
        ("beft", beft.__version__),
        ("Python", platform.python_version()),
        *((name, importlib.metadata.version(name)) for name in LIBRARIES),
    ]


report_step = Step(
    report,
    reads=("prepare", "validate_raw", "validate", "probe", "score", "train", "evaluate", "merge"),
    settings=(
        *(name for name in PipelineSettings.model_fields if name not in NON_TRAINING_SECTIONS),
        "tracking.model_prefix",
    ),
    per_dataset=False,
    source=("tasks/reporting/report.html.jinja",),
)
