"""Validate the raw data, before anything is made of it."""

import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from beft.datasets.description import Description, canonical
from beft.datasets.reading.raw_data import RawData, read_raw
from beft.datasets.shape import Columns
from beft.datasets.spans import span_problem
from beft.datasets.targets import labels_in, number_of
from beft.errors import writable
from tasks.engine.declaration import JSON, Step
from tasks.settings import PipelineSettings
from tasks.validation.advice import raw_advice
from tasks.validation.expectation_files import ANY_NUMBER, FILE, LINE, ROW, SPLIT, Subject, as_texts, watched_files
from tasks.validation.expectations import check

logger = logging.getLogger(__name__)

_IMBALANCE = 0.7
"""The divergence from the declared shares that is too much, as a part of the largest between even shares and one label.

Two labels of which none is declared rarer than the other may stand about 94 to 6.
"""


def validate_raw(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    dataset: str | None = None,
    root: Path | None = None,
) -> dict[str, JSON]:
    """Check raw data against ``data/expectations/raw.yaml``; write ``validation.json`` and ``data_docs/``.

    Args:
        root: The workspace's folder, whose expectations win over the project's; None: the current one.

    Raises:
        ExpectationsFailed: The data is not as expected; the message names expectation, column and offending rows.
        InputError: The data cannot be read at all.
    """
    data = read_raw(inputs["fetch"])
    for file in data.files:
        if file.short:
            logger.warning("%s: %s, left out for too few fields", file.name, file.listed(file.short))
        if file.cut:
            logger.warning("%s: %s, read without the fields that the header lacks", file.name, file.listed(file.cut))
    validation = check("raw", raw_subject(data), out, root=root or Path.cwd())
    return {"rows": validation["rows"], "expectations": len(validation["expectations"])}


def raw_subject(data: RawData) -> Subject:
    """The rows of all files in one frame, with what is counted of each row, and what is known of the dataset."""
    import pandas as pd

    description = data.description
    roles = dict(description.columns.by_role)
    # A column that one of the files lacks is a missing column.
    common = [name for name in data.files[0].columns if all(name in file.columns for file in data.files)]
    columns: dict[str, list[JSON]] = {
        name: [value for file in data.files for value in file.columns[name]] for name in common
    }
    columns[SPLIT] = [file.split for file in data.files for _ in file.numbers]
    columns[FILE] = [file.name for file in data.files for _ in file.numbers]
    units = {"line": LINE, "row": ROW}
    numbered = [units[unit] for unit in dict.fromkeys(file.unit for file in data.files)]
    for name in numbered:
        columns[name] = [n if units[file.unit] == name else None for file in data.files for n in file.numbers]
    roles |= _counted(description, columns)
    splits = list(dict.fromkeys(file.split for file in data.files))
    facts = _facts(description)
    return Subject(
        dataset=description.name,
        frame=pd.DataFrame(
            {_writable(name): pd.Series(map(_writable, values), dtype=object) for name, values in columns.items()}
        ),
        roles=roles,
        facts={None: facts},
        splits=splits,
        together=len(splits) == 1,
        places=[SPLIT, FILE, *numbered],
        advice=partial(raw_advice, description, columns, roles, facts),
    )


def _writable(value: JSON) -> JSON:
    """A value that Great Expectations can take and write: valid Unicode, and no object beside lists in one column."""
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, dict):
        return [_writable(str(value))]
    return list(map(_writable, value)) if isinstance(value, list | tuple) else value


def _counted(description: Description, columns: dict[str, list[JSON]]) -> dict[str, str]:
    """Add to the columns what is checked of them beside their values; the roles of what was added."""
    given = description.columns
    found: dict[str, list[JSON]] = {}
    roles: dict[str, str] = {}
    if description.shape == "classification" and given.label in columns:
        names = list(description.labels)
        values = [None if value is None else canonical(value) for value in columns[given.label]]
        columns[given.label] = values
        name_of = {value: names[number] for value, number in description.label_numbers.items()}
        found["label_name"] = [None if value is None else name_of.get(value) for value in values]
        roles["category"] = given.label
    if description.shape == "multi_label" and given.labels in columns:
        found["undeclared_labels"] = [_undeclared(description, value) for value in columns[given.labels]]
    if description.shape == "token_classification" and given.spans in columns and given.text in columns:
        rows = zip(columns[given.text], columns[given.spans], strict=True)
        found["wrong_spans"] = [span_problem(text, spans, description.label_numbers) for text, spans in rows]
    if description.shape == "regression" and given.label in columns:
        found["number"] = [number_of(value) for value in columns[given.label]]
    choices = _choices(given, columns)
    if choices is not None:
        found["choices_count"] = [len(of_row) for of_row in choices]
        right = columns.get(str(given.label))
        if right is not None:
            found["right_choices"] = [
                int(number_of(value) in range(len(of_row))) for value, of_row in zip(right, choices, strict=True)
            ]
        elif given.answers in columns:
            found["right_choices"] = [
                len(set(of_row) & set(as_texts(answers)))
                for of_row, answers in zip(choices, columns[given.answers], strict=True)
            ]
    if given.answers in columns:
        answers = [as_texts(value) for value in columns[given.answers]]
        found |= {
            "answers_count": [len(of_row) for of_row in answers],
            "shortest_answer": [min((len(text.strip()) for text in of_row), default=0) for of_row in answers],
        }
    added = {
        role: f"{given.by_role.get('label', 'label')} (name)" if role == "label_name" else f"({role})" for role in found
    }
    columns |= {added[role]: values for role, values in found.items()}
    return roles | added


def _undeclared(description: Description, value: JSON) -> str:
    """The labels of a row that the description does not name, and what is no list or text of labels at all."""
    values = labels_in(value, description.label_separator)
    if values is None:
        return repr(value)
    known = description.label_numbers
    return ", ".join(repr(one) for one in values if one is None or canonical(one) not in known)


def _choices(given: Columns, columns: Mapping[str, list[JSON]]) -> list[list[str]] | None:
    """The choices of each row; None where the data has none, or a column of them is missing."""
    if isinstance(given.choices, str) and given.choices in columns:
        return [as_texts(value) for value in columns[given.choices]]
    if given.choice_columns and all(name in columns for name in given.choice_columns):
        rows = zip(*(columns[name] for name in given.choice_columns), strict=True)
        return [as_texts(list(row)) for row in rows]
    return None


def _facts(description: Description) -> dict[str, JSON]:
    if description.shape == "regression":
        least, most = description.label_range or ANY_NUMBER
        return {"least_label": least, "most_label": most}
    if description.shape != "classification":
        return {}
    names = list(description.labels)
    shares = description.shares or dict.fromkeys(names, 1 / len(names))
    return {
        "label_values": list(description.label_numbers),
        "label_names": names,
        "shares": {"values": names, "weights": [shares[name] for name in names]},
        "imbalance": _IMBALANCE * math.log(len(names)),
    }


def _watched(settings: PipelineSettings, dataset: str | None, root: Path) -> dict[str, str]:
    return watched_files("raw", str(dataset), root)


validate_raw_step = Step(validate_raw, reads=("fetch",), extra_inputs=_watched)
