"""The pictures of the report: scores and gains with their intervals, and the curves of probe and target."""

from typing import Any

from markupsafe import Markup

from beft.metrics.registry import METRICS
from tasks.reporting.drawing import Curve, Interval, curves, intervals
from tasks.reporting.formatting import TITLES, percent, points, title
from tasks.reporting.results import DatasetResults

COLOURS = {"head_only": "other", "logistic_regression": "third", "all_biases": "second"}


def order(results: DatasetResults) -> list[str]:
    """The methods of the test split: the target first, then what it is measured against, then the rest."""
    evaluation = results.evaluation
    first = [evaluation.target, *evaluation.baselines]
    return [*first, *(name for name in evaluation.splits["test"].scores if name not in first)]


def score_picture(results: DatasetResults) -> Markup:
    """Every method on test."""
    evaluation, metric = results.evaluation, results.metric
    scores = evaluation.splits["test"].scores
    rows = []
    for method in order(results):
        score = scores[method][metric]
        text = f"{percent(score.value)}  [{percent(score.low)}, {percent(score.high)}]"
        colour = COLOURS.get(method, "accent")
        rows.append(Interval(title(method), 100 * score.value, 100 * score.low, 100 * score.high, text, colour))
    return intervals(rows, title=f"{METRICS[metric].title} on test, with intervals")


def gain_picture(results: DatasetResults) -> Markup:
    """The target's gain over each baseline, on test and, where there is one, on gate."""
    evaluation, metric = results.evaluation, results.metric
    rows = []
    for split in ("test", "gate") if evaluation.has_gate else ("test",):
        for baseline in evaluation.baselines:
            gain = evaluation.splits[split].gains[baseline][metric]
            text = f"{points(gain.difference)}  [{points(gain.low)}, {points(gain.high)}]"
            rows.append(
                Interval(
                    f"{split}: over {title(baseline)}",
                    100 * gain.difference,
                    100 * gain.low,
                    100 * gain.high,
                    text,
                    COLOURS.get(baseline, "other"),
                )
            )
    return intervals(rows, title=f"Gain of {evaluation.target} over each baseline, paired on the same rows", zero=True)


def curve_pictures(results: DatasetResults) -> list[dict[str, Any]]:
    """Loss, and the dev metric, by epoch, of probe and target."""
    named = (("probe", TITLES["all_biases"], "second"), ("train", results.evaluation.target, "accent"))
    best = {"probe": results.probe.get("best_epoch"), "train": results.train.get("best_epoch")}
    losses, quality = [], []
    for step, name, colour in named:
        history = results.histories[step]
        for key, suffix in (("train_loss", "train"), ("dev_loss", "dev")):
            line = [(float(epoch["epoch"]), float(epoch[key])) for epoch in history if key in epoch]
            if line:
                losses.append(Curve(f"{name}, {suffix}", line, colour, best[step], dashed=suffix == "train"))
        line = [(float(epoch["epoch"]), 100 * float(epoch["dev_metric"])) for epoch in history if "dev_metric" in epoch]
        if line:
            quality.append(Curve(name, line, colour, best[step]))
    pictures = [("Loss (dashed: on train)", losses), (f"{METRICS[results.metric].title} on dev", quality)]
    return [{"title": name, "picture": curves(lines, title=name)} for name, lines in pictures if lines]
