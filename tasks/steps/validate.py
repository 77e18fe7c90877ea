"""Validate the prepared data, before anything is trained on it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beft.datasets.normalisation import text_key
from beft.datasets.preparation import COPIES_COST
from beft.datasets.prepared import SPLITS, load_summary
from beft.datasets.reading.parquet import read_table
from beft.datasets.spans import span_problem
from tasks.engine.declaration import JSON, Step
from tasks.settings import PipelineSettings
from tasks.validation.expectation_files import ANY_NUMBER, SPLIT, Subject, as_texts, watched_files
from tasks.validation.expectations import check

_FACT_OF_ROLE = {"choices": "choices", "answers": "answers", "group": "groups"}
"""What ``data.json`` says of a column that only some datasets have."""


def validate(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    dataset: str | None = None,
    root: Path | None = None,
) -> dict[str, JSON]:
    """Check prepared data against ``data/expectations/prepared.yaml``; write ``validation.json`` and ``data_docs/``.

    Args:
        root: The workspace's folder, whose expectations win over the project's; None: the current one.

    Raises:
        ExpectationsFailed: The data is not as expected; the message names expectation, column and offending rows.
        InputError: The data cannot be read at all.
    """
    validation = check("prepared", prepared_subject(inputs["prepare"]), out, root=root or Path.cwd())
    return {"rows": validation["rows"], "expectations": len(validation["expectations"])}


def prepared_subject(folder: Path) -> Subject:
    """The rows of all splits in one frame, with counts of equal texts, and what was asked of them."""
    import pandas as pd

    summary = load_summary(folder)
    tables = {split: read_table(folder / f"{split}.parquet") for split in SPLITS}
    if not (summary["asked"]["gate_rows"] or tables["gate"].num_rows):
        del tables["gate"]  # nobody asked for one
    common = [name for name in tables["train"].column_names if all(name in t.column_names for t in tables.values())]
    columns: dict[str, list[Any]] = {
        name: [value for table in tables.values() for value in table[name].to_pylist()] for name in common
    }
    columns[SPLIT] = [split for split, table in tables.items() for _ in range(table.num_rows)]
    roles = {role: role for role in ("id", "text", *(["text_pair"] if summary["text_pairs"] else []))}
    roles |= _roles_of_shape(summary, columns)
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    if {"text", "text_pair"} <= set(common):
        choices = frame["choices"] if "choices" in frame else [()] * len(frame)
        rows = zip(frame["text"], frame["text_pair"], choices, strict=True)
        keys = pd.Series([_key(*texts) for texts in rows], dtype=object)
        frame["splits_with_text"] = frame.groupby(keys)[SPLIT].transform("nunique")
        frame["copies_in_split"] = frame.groupby([keys, frame[SPLIT]])[SPLIT].transform("size")
        roles |= {name: name for name in ("splits_with_text", "copies_in_split")}
    if "group" in roles and "group" in frame:
        frame["splits_with_group"] = frame.groupby("group")[SPLIT].transform("nunique")
        roles["splits_with_group"] = "splits_with_group"
    places = [SPLIT, "id"] if "id" in common else [SPLIT]
    return Subject(summary["dataset"], frame, roles, _facts(summary), list(tables), together=True, places=places)


def _roles_of_shape(summary: Mapping[str, Any], columns: dict[str, list[Any]]) -> dict[str, str]:
    """The roles of what a problem type has beside texts; what is counted of it is added to the columns."""
    shape = summary["shape"]
    roles: dict[str, str] = {}
    if shape == "multi_label":
        roles["labels"] = "labels"
        known = set(range(len(summary["labels"])))
        columns["undeclared_labels"] = [
            ", ".join(str(one) for one in value if one not in known) if isinstance(value, list) else repr(value)
            for value in columns.get("labels", [])
        ]
        roles["undeclared_labels"] = "undeclared_labels"
    elif shape == "token_classification":
        roles |= {"spans": "spans", "wrong_spans": "wrong_spans"}
        numbers = {str(number): number for number in range(len(summary["labels"]))}
        rows = zip(columns.get("text", []), columns.get("spans", []), strict=False)
        columns["wrong_spans"] = [span_problem(text, spans, numbers) for text, spans in rows]
    elif shape != "generation":
        of_shape = {"classification": "category", "regression": "number", "multiple_choice": "right_choice"}
        roles |= {"label": "label", of_shape[shape]: "label"}
    roles |= {role: role for role, fact in _FACT_OF_ROLE.items() if fact in summary}
    if "choices" in columns:
        columns["choices_count"] = [len(as_texts(value)) for value in columns["choices"]]
        roles["choices_count"] = "choices_count"
        if "label" in columns:
            columns["choices_behind"] = [
                count - label if isinstance(label, int) else None
                for count, label in zip(columns["choices_count"], columns["label"], strict=True)
            ]
            roles["choices_behind"] = "choices_behind"
    if "answers" in columns:
        answers = [as_texts(value) for value in columns["answers"]]
        columns["answers_count"] = [len(of_row) for of_row in answers]
        columns["shortest_answer"] = [min((len(text.strip()) for text in of_row), default=0) for of_row in answers]
        roles |= {name: name for name in ("answers_count", "shortest_answer")}
    return roles


def _key(text: object, text_pair: object, choices: object) -> str:
    return text_key(str(text), None if text_pair is None else str(text_pair), as_texts(choices))


def _facts(summary: Mapping[str, Any]) -> dict[str | None, dict[str, JSON]]:
    """What was asked of each split; where nothing in particular was, what ``data.json`` says that it has."""
    names = summary["labels"]
    numbers = list(range(len(names)))
    least_label, most_label = summary.get("label_range") or ANY_NUMBER
    general = {"label_numbers": numbers, "least_label": least_label, "most_label": most_label}
    facts: dict[str | None, dict[str, JSON]] = {None: general}
    for split, (least, most) in _rows(summary).items():
        facts[split] = {"least_rows": least, "most_rows": most}
        if not names:
            continue
        shares = _shares(summary, split)
        facts[split] |= {
            "shares": {"values": numbers, "weights": shares},
            "imbalance": _imbalance(summary, split, shares),
        }
    return facts


def _rows(summary: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The fewest and the most rows that each split can have."""
    asked, made = summary["asked"], summary["rows"]
    sample = asked["rows"] if asked["rows"] is not None else made["train"] + made["dev"]
    dev = max(1, round(asked["dev_fraction"] * sample))
    rows = {"train": sample - dev, "dev": dev, "gate": asked["gate_rows"], "test": asked["test_rows"]}
    if summary["own_test"]:
        rows["test"] = made["test"]
    found = {split: (count, count) for split, count in rows.items()}
    spare = summary.get("largest_group", 0)  # groups go together: by less than one, rows are others
    if spare:
        found = {split: (count - spare, count + spare) for split, count in rows.items()}
    if summary["own_test"]:
        found["test"] = (rows["test"], rows["test"])
    else:  # copies of a text that would not fit stay out of test together
        spare += max(rows["test"] // 20, summary.get(COPIES_COST, 0))
        found["test"] = (rows["test"] - spare, found["test"][1])
    return found


def _shares(summary: Mapping[str, Any], split: str) -> list[float]:
    """The share of each label that a split should have: train, dev and gate are of the same rows, test need not be."""
    alike = [one for one in SPLITS if one != "test"]
    if split == "test":
        alike = ["test"] if summary["own_test"] else list(SPLITS)
    counts = [sum(summary["balance"][one][name] for one in alike) for name in summary["labels"]]
    return [count / sum(counts) for count in counts]


def _imbalance(summary: Mapping[str, Any], split: str, shares: Sequence[float]) -> float:
    """The largest divergence from the shares, in nats, that rounding to whole rows and dropping copies can cause.

    A divergence is at most the chi-square distance. Groups are not stratified: of them any divergence is possible.
    """
    if "largest_group" in summary:
        return 1 - math.log(min(share for share in shares if share))
    rows: int = summary["rows"][split]
    spare = 4.0
    if split == "test" and not summary["own_test"]:
        spare += max(summary["asked"]["test_rows"] - rows, 0)
        dropped = sum(summary["dropped"][reason] for reason in ("duplicates", "conflicts"))
        spare += rows * dropped / max(1, summary["raw_rows"] - rows)
    deviation = min(1.0, spare / max(1, rows))
    return 0.02 + sum(deviation**2 / share for share in shares if share)


def _watched(settings: PipelineSettings, dataset: str | None, root: Path) -> dict[str, str]:
    return watched_files("prepared", str(dataset), root)


validate_step = Step(validate, reads=("prepare",), extra_inputs=_watched)
