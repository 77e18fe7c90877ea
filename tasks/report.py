"""report: one page that says what came of a run; self-contained, so that it can be mailed, archived and printed."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

import beft
from beft.evaluation import Cost, Gain, Score
from beft.files import read_json, write_text
from beft.metrics import METRICS
from tasks.card import licence_of, short
from tasks.drawing import Curve, Interval, curves, intervals
from tasks.flat_settings import ELSEWHERE, flat
from tasks.model_name import model_name
from tasks.results import DatasetResults, read_datasets
from tasks.settings import PipelineSettings
from tasks.step import JSON, Step

TEMPLATE = Path(__file__).with_name("report.html.jinja")
TITLES = {
    "head_only": "head only",
    "logistic_regression": "logistic regression",
    "all_biases": "all bias terms",
}
COLOURS = {"head_only": "other", "logistic_regression": "third", "all_biases": "second"}
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
NO_METRIC_OF_SHARES = {"matthews"}
"""Metrics that are shown as they are, not in percent."""


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
        merge=_merge(inputs["merge"]) if "merge" in inputs else None,
        settings=_settings(settings),
        versions=_versions(),
        certain=sum(dataset["passed"] for dataset in datasets),
    )
    write_text(out / "report.html", page)
    return {"datasets": len(datasets), "bytes": len(page.encode())}


def percent(value: float, metric: str = "accuracy") -> str:
    """A metric as people read it: in percent with one decimal, or as it is."""
    return f"{value:.3f}" if metric in NO_METRIC_OF_SHARES else f"{100 * value:.1f}"


def points(value: float, metric: str = "accuracy") -> str:
    """A difference of a metric, with its sign."""
    return f"{value:+.3f}" if metric in NO_METRIC_OF_SHARES else f"{100 * value:+.1f}"


def quantity(size: float | None) -> str:
    """Bytes with a unit; a dash where they are not known."""
    if size is None:
        return "—"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def duration(seconds: float) -> str:
    """Seconds, in minutes too where they are many."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {round(seconds) % 60:02d} s"


def _dataset(results: DatasetResults, settings: PipelineSettings) -> dict[str, Any]:
    evaluation, metric = results.evaluation, results.metric
    adapter = read_json(results.folders["train"] / "adapter" / "beft.json")
    test, target = evaluation.splits["test"], evaluation.target
    decision = evaluation.decision("gate")
    methods = [_method(results, method) for method in _order(results)]
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
        "percent": "" if metric in NO_METRIC_OF_SHARES else " %",
        "test_rows": test.rows,
        "gate_rows": evaluation.splits["gate"].rows,
        "score": _score(test.scores[target][metric], metric),
        "best_baseline": TITLES.get(best, best),
        "gain": _gain(test.gains[best][metric], metric),
        "passed": decision.passed,
        "gate": [
            {
                "baseline": TITLES.get(name, name),
                **_gain(evaluation.splits["gate"].gains[name][metric], metric),
            }
            for name in evaluation.baselines
        ],
        "methods": methods,
        "score_picture": _score_picture(results),
        "gain_picture": _gain_picture(results),
        "selection": results.importance["selection"],
        "tables": _tables(results, settings),
        "curves": _curve_pictures(results),
        "train": results.train,
        "probe": results.probe,
        "bias_parameters": results.train["bias_parameters"],
        "head_parameters": results.train["head_parameters"],
        "truncated": results.extra.get("truncated", {}),
        "tuning": _tuning(results),
        "validations": [_validation(found) for found in (results.raw_validation, results.validation) if found],
        "adapter": adapter,
        "adapter_sha256": results.train["adapter_sha256"],
        "model_name": model_name(settings.tracking.model_prefix, base_id, results.name),
        "peft": adapter["peft"],
    }


def _order(results: DatasetResults) -> list[str]:
    """The methods of the test split: the target first, then what it is measured against, then the rest."""
    evaluation = results.evaluation
    first = [evaluation.target, *evaluation.baselines]
    return [*first, *(name for name in evaluation.splits["test"].scores if name not in first)]


def _method(results: DatasetResults, method: str) -> dict[str, Any]:
    evaluation = results.evaluation
    test, cost = evaluation.splits["test"], evaluation.costs.get(method)
    gains = test.gains.get(method)
    return {
        "name": _title(method),
        "target": method == evaluation.target,
        "scores": [_score(test.scores[method][metric], metric) for metric in evaluation.metrics],
        "gain": _gain(gains[results.metric], results.metric) if gains else None,
        "cost": _cost(cost) if cost else None,
    }


def _title(method: str) -> str:
    return TITLES.get(method, method.replace("_", " "))


def _score(score: Score, metric: str) -> dict[str, Any]:
    return {
        "value": percent(score.value, metric),
        "low": percent(score.low, metric),
        "high": percent(score.high, metric),
        "spread": percent(score.spread, metric) if score.spread is not None else None,
        "runs": len(score.runs),
    }


def _gain(gain: Gain, metric: str) -> dict[str, Any]:
    return {
        "difference": points(gain.difference, metric),
        "low": points(gain.low, metric),
        "high": points(gain.high, metric),
        "p_value": f"{gain.p_value:.4f}",
        "certain": gain.certain,
        "positive": gain.difference > 0,
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "parameters": f"{cost.trainable_parameters:,}",
        "seconds": duration(cost.seconds),
        "memory": quantity(cost.peak_memory_bytes),
        "bias": quantity(cost.bias_bytes) if cost.bias_bytes else "—",
        "head": quantity(cost.head_bytes) if cost.head_bytes else "—",
    }


def _score_picture(results: DatasetResults) -> Markup:
    evaluation, metric = results.evaluation, results.metric
    scores = evaluation.splits["test"].scores
    factor = 1 if metric in NO_METRIC_OF_SHARES else 100
    rows = []
    for method in _order(results):
        score = scores[method][metric]
        text = f"{percent(score.value, metric)}  [{percent(score.low, metric)}, {percent(score.high, metric)}]"
        colour = COLOURS.get(method, "accent")
        rows.append(
            Interval(_title(method), factor * score.value, factor * score.low, factor * score.high, text, colour)
        )
    return intervals(rows, title=f"{METRICS[metric].title} on test, with intervals")


def _gain_picture(results: DatasetResults) -> Markup:
    """The target's gain over each baseline, on test and on gate."""
    evaluation, metric = results.evaluation, results.metric
    factor = 1 if metric in NO_METRIC_OF_SHARES else 100
    rows = []
    for split in ("test", "gate"):
        for baseline in evaluation.baselines:
            gain = evaluation.splits[split].gains[baseline][metric]
            text = f"{points(gain.difference, metric)}  [{points(gain.low, metric)}, {points(gain.high, metric)}]"
            rows.append(
                Interval(
                    f"{split}: over {_title(baseline)}",
                    factor * gain.difference,
                    factor * gain.low,
                    factor * gain.high,
                    text,
                    COLOURS.get(baseline, "other"),
                )
            )
    return intervals(rows, title=f"Gain of {evaluation.target} over each baseline, paired on the same rows", zero=True)


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
                "mean": _small(table["mean"][term]),
                "cells": [
                    {"text": _small(value), "share": f"{(value or 0) / greatest:.3f}"}
                    for value in table["scores"][term]
                ],
                "missing": layers - len(table["scores"][term]),
            }
            for term in terms
        ]
        found.append({"method": method, "chose": method == selection["method"], "layers": layers, "rows": rows})
    return sorted(found, key=lambda table: not table["chose"])


def _small(value: float | None) -> str:
    """An importance score; methods differ in size by orders of magnitude."""
    if value is None:
        return "no direction"
    if value == 0:
        return "0"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def _curve_pictures(results: DatasetResults) -> list[dict[str, Any]]:
    """Loss, and the dev metric, by epoch, of probe and target."""
    named = (("probe", TITLES["all_biases"], "second"), ("train", results.evaluation.target, "accent"))
    best = {"probe": results.probe.get("best_epoch"), "train": results.train.get("best_epoch")}
    factor = 1 if results.metric in NO_METRIC_OF_SHARES else 100
    losses, quality = [], []
    for step, name, colour in named:
        history = results.histories[step]
        for key, suffix in (("train_loss", "train"), ("dev_loss", "dev")):
            line = [(float(epoch["epoch"]), float(epoch[key])) for epoch in history if key in epoch]
            if line:
                losses.append(Curve(f"{name}, {suffix}", line, colour, best[step], dashed=suffix == "train"))
        line = [
            (float(epoch["epoch"]), factor * float(epoch["dev_metric"])) for epoch in history if "dev_metric" in epoch
        ]
        if line:
            quality.append(Curve(name, line, colour, best[step]))
    pictures = [("Loss (dashed: on train)", losses), (f"{METRICS[results.metric].title} on dev", quality)]
    return [{"title": title, "picture": curves(lines, title=title)} for title, lines in pictures if lines]


def _tuning(results: DatasetResults) -> list[str]:
    """One sentence a baseline: what was searched, and what dev chose."""
    sentences = []
    for name, found in results.extra.get("tuning", {}).items():
        tried = len(found.get("candidates", []))
        chosen = [f"{key.replace('_', ' ')} {found[key]:.3g}" for key in ("C", "learning_rate") if key in found]
        if "epochs" in found:
            chosen.append(f"epoch {found['best_epoch']} of {found['epochs']}")
        sentences.append(f"{_title(name)}: the best on dev of {tried} settings ({', '.join(chosen)})")
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


def _merge(folder: Path) -> dict[str, Any]:
    """The matrix of the merges: every set of biases on every dataset."""
    found = read_json(folder / "merge.json")
    if "matrix" not in found:
        return {"note": found.get("note", "nothing was merged")}
    names, metrics = found["datasets"], found["metrics"]
    rows = []
    for row in found["rows"]:
        cells = []
        for name in names:
            metric = metrics[name]
            score = found["matrix"][name]["scores"][row][metric]
            own = found["matrix"][name]["scores"][name][metric]["value"]
            cells.append(
                {
                    **{key: percent(score[key], metric) for key in ("value", "low", "high")},
                    "difference": points(score["value"] - own, metric) if row != name else "",
                    "own": row == name,
                    "share": f"{min(1.0, abs(score['value'] - own) / 0.2):.3f}",
                    "worse": score["value"] < own,
                }
            )
        kind = "none" if row == "none" else "single" if row in names else "merged"
        options = found["recipes"].get(row, {}).get("options", {})
        note = ", ".join(f"{key} {value:g}" for key, value in options.items() if isinstance(value, int | float))
        rows.append({"name": _merge_title(row, kind), "kind": kind, "cells": cells, "note": note})
    notes = list(dict.fromkeys(note for recipe in found["recipes"].values() for note in recipe["notes"]))
    return {
        "note": None,
        "datasets": [{"name": name, "metric": METRICS[metrics[name]].title} for name in names],
        "rows": rows,
        "scales": found["scales_tried"],
        "notes": notes,
        "comparisons": [
            {
                "first": pair["first"],
                "second": pair["second"],
                "cosine": "—" if pair["cosine"] is None else f"{pair['cosine']:+.3f}",
                "conflict": "—" if pair["sign_conflict"] is None else f"{100 * pair['sign_conflict']:.1f} %",
                "norms": [f"{norm:.3f}" for norm in pair["norms"]],
            }
            for pair in found["comparisons"]
        ],
    }


def _merge_title(row: str, kind: str) -> str:
    if kind == "none":
        return "no bias change (the base's own)"
    return f"adapter of {row}" if kind == "single" else f"merged: {row.replace('_', ' ')}"


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
    sections=(*(name for name in PipelineSettings.model_fields if name not in ELSEWHERE), "tracking.model_prefix"),
    per_dataset=False,
    source=("tasks/report.html.jinja",),
)
