"""How many test rows it takes to see a gain of four points: `make power`.

The variance of a paired difference follows from how many rows the two methods answer differently. That is measured on
rows of no split, neither test nor gate nor sample, so that no test row decides how many test rows there are. Writes
benchmarks/quality/power.json and .md.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from beft.comparison.baselines.cheap import cheap_baselines
from beft.datasets.prepared import PreparedData
from beft.files import write_json, write_text
from beft.models.device import resolve_compute
from beft.settings import Settings
from beft.training.opening import open_session
from benchmarks.common import machine
from benchmarks.common.prepared import prepared_data, settings_on_disk
from benchmarks.quality.recipes import spare_rows

HERE = Path(__file__).parent
SPARE = 1000
GAIN, CONFIDENCE = 0.04, 0.95
POWERS = (0.8, 0.9)
BASELINES = ("head_only", "logistic_regression")

log = logging.getLogger("beft.bench")


def rows_needed(discordant: float, gain: float, power: float) -> int:
    """Rows at which a paired test sees a gain with a given power.

    Args:
        discordant: The share of rows that exactly one of the two methods answers rightly.
        gain: The true difference of the accuracies.
    """
    deviations = norm.ppf((1 + CONFIDENCE) / 2) + norm.ppf(power)
    return int(np.ceil(deviations**2 * (discordant - gain**2) / gain**2))


def measure(settings: Settings, dataset: str) -> dict[str, Any]:
    """The gains of the value biases over the cheap baselines on spare rows, and on how many of them they differ."""
    with prepared_data(dataset, settings.datasets[dataset].size, settings.split) as prepared:
        session = open_session(settings, PreparedData.from_folder(prepared))
        spare = session.classifier.examples(spare_rows(prepared, settings, dataset, SPARE), session.max_length)
        rows = {"train": session.sample.train, "test": spare}
        if session.sample.dev is not None:
            rows["dev"] = session.sample.dev
    adapter = session.train(["value"]).adapter
    right = session.predict(adapter, spare).argmax(-1) == spare.labels  # type: ignore[union-attr]
    found: dict[str, Any] = {"rows": len(spare), "accuracy": float(right.mean())}
    fitted = cheap_baselines(session, rows)
    for name in BASELINES:
        of_baseline = fitted.predictions[name]["test"].argmax(-1) == spare.labels  # type: ignore[union-attr]
        discordant = float((right != of_baseline).mean())
        found[name] = {
            "gain": float(right.mean() - of_baseline.mean()),
            "discordant": discordant,
            "rows_needed": {f"{power:.0%}": rows_needed(discordant, GAIN, power) for power in POWERS},
        }
    return found


def main() -> None:
    """Measure the default datasets, and write the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = settings_on_disk()
    found = {dataset: measure(settings, dataset) for dataset in settings.datasets}
    about = machine.describe(resolve_compute(settings.base))
    write_json(HERE / "power.json", {"command": "make power", "machine": about, "gain": GAIN, "datasets": found})
    lines = [
        "# How many test rows see a gain of four points",
        "",
        f"`make power`, {about['date']}; {about['cpu']}, {about['precision']}. Settings of params.yaml. The value "
        "biases and the cheap baselines are trained on the sample and compared on rows of no split. Needed are the "
        f"rows at which a paired test at {CONFIDENCE:.0%} sees a true gain of {100 * GAIN:.0f} points with that power.",
        "",
        "| dataset | against | gain on spare rows | rows that only one answers rightly | "
        + " | ".join(f"rows needed, power {power:.0%}" for power in POWERS)
        + " |",
        "|---" * (4 + len(POWERS)) + "|",
        *(
            f"| {dataset} | {name} | {100 * of[name]['gain']:+.1f} | {100 * of[name]['discordant']:.1f} % | "
            + " | ".join(f"{rows:,}" for rows in of[name]["rows_needed"].values())
            + " |"
            for dataset, of in found.items()
            for name in BASELINES
        ),
    ]
    write_text(HERE / "power.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    main()
