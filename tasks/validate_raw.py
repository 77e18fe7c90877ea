"""Validate the raw data, before anything is made of it."""

import math
from collections.abc import Mapping
from pathlib import Path

from beft.datasets.description import Description, canonical
from beft.datasets.reading import RawData, read_raw
from tasks.expectation_files import FILE, ROW, SPLIT, Subject, watched_files
from tasks.expectations import check
from tasks.settings import PipelineSettings
from tasks.step import JSON, Step

_IMBALANCE = 0.7
"""The divergence from the declared shares that is too much, as a part of the largest between even shares and one label.

Two labels of which none is declared rarer than the other may stand about 94 to 6.
"""


def validate_raw(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Check raw data against ``data/expectations/raw.yaml``; write ``validation.json`` and ``data_docs/``.

    Raises:
        ExpectationsFailed: The data is not as expected; the message names expectation, column and offending rows.
        InputError: The data cannot be read at all.
    """
    validation = check("raw", raw_subject(read_raw(inputs["fetch"])), out, root=Path.cwd())
    return {"rows": validation["rows"], "expectations": len(validation["expectations"])}


def raw_subject(data: RawData) -> Subject:
    """The rows of all files in one frame, with the name of each row's label, and what is known of the dataset."""
    import pandas as pd

    description = data.description
    roles = description.columns.by_role
    # A column that one of the files lacks is a missing column.
    common = [name for name in data.files[0].columns if all(name in file.columns for file in data.files)]
    columns: dict[str, list[JSON]] = {
        name: [value for file in data.files for value in file.columns[name]] for name in common
    }
    columns[SPLIT] = [file.split for file in data.files for _ in file.numbers]
    columns[FILE] = [file.name for file in data.files for _ in file.numbers]
    columns[ROW] = [number for file in data.files for number in file.numbers]
    if roles["label"] in columns:
        names = list(description.labels)
        values = [None if value is None else canonical(value) for value in columns[roles["label"]]]
        columns[roles["label"]] = values
        roles["label_name"] = f"{roles['label']} (name)"
        name_of = {value: names[number] for value, number in description.label_numbers.items()}
        columns[roles["label_name"]] = [None if value is None else name_of.get(value) for value in values]
    splits = list(description.source.splits)
    return Subject(
        dataset=description.name,
        frame=pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}),
        roles=roles,
        facts={None: _facts(description)},
        splits=splits,
        together=len(splits) == 1,
        places=[SPLIT, FILE, ROW],
    )


def _facts(description: Description) -> dict[str, JSON]:
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


validate_raw_step = Step(validate_raw, reads=("fetch",), watches=_watched)
