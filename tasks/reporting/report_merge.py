"""The merges in the report: every set of biases on every dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beft.files import read_json
from beft.metrics.registry import METRICS
from tasks.reporting.formatting import percent, points


def merge_table(folder: Path) -> dict[str, Any]:
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
                    **{key: percent(score[key]) for key in ("value", "low", "high")},
                    "difference": points(score["value"] - own) if row != name else "",
                    "own": row == name,
                    "share": f"{min(1.0, abs(score['value'] - own) / 0.2):.3f}",
                    "worse": score["value"] < own,
                }
            )
        kind = "none" if row == "none" else "single" if row in names else "merged"
        note = _how(found["recipes"][row], names) if kind == "merged" else ""
        rows.append({"name": _merge_title(row, kind), "kind": kind, "cells": cells, "note": note})
    notes = list(dict.fromkeys(note for recipe in found["recipes"].values() for note in recipe["notes"]))
    return {
        "note": None,
        "datasets": [{"name": name, "metric": METRICS[metrics[name]].title} for name in names],
        "rows": rows,
        "tried": [
            {
                "method": method.replace("_", " "),
                "datasets": names,
                "rows": [
                    {
                        "how": _how(one, names),
                        "relative": f"{100 * one['relative']:.1f} %",
                        "loss": "not finite" if one["loss"] is None else f"{one['loss']:.4f}",
                        "values": [percent(one["by_dataset"][name]) for name in names],
                    }
                    for one in sorted(tried, key=_worst_last)
                ],
            }
            for method, tried in found["tried"].items()
        ],
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


def _how(made: dict[str, Any], names: list[str]) -> str:
    """The options of a merge, and the weights of the datasets' adapters where they are not all one."""
    options = [f"{key.replace('_', ' ')} {value}" for key, value in made["options"].items()]
    weights = [made["weights"][name] for name in names]
    if len(set(weights)) > 1 or weights[0] != 1:
        options.append(", ".join(f"{weight:g}" for weight in weights))
    return ", ".join(options)


def _merge_title(row: str, kind: str) -> str:
    if kind == "none":
        return "no bias change (the base's own)"
    return f"adapter of {row}" if kind == "single" else f"merged: {row.replace('_', ' ')}"


def _worst_last(tried: Mapping[str, Any]) -> tuple[float, ...]:
    """What merges that were tried are sorted by; one whose loss is not finite comes last."""
    return (1, 0, 0) if tried["loss"] is None else (0, -tried["relative"], tried["loss"])
