"""Whether a served model still gets what it was made for: a look at the traffic since the last one.

Each look takes fresh rows, so that looks are independent. False alarms are limited over many looks: of ``looks`` looks
(a month of hours), at most a share of ``false_alarms`` has one on unchanged data. So a look has false_alarms / looks to
spend, divided among its tests by Holm's method.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from beft.evaluation.drift import DriftTest, compare_features, compare_labels, compare_numbers, holm
from beft.files import read_json, write_json
from beft.serving.reference import DriftReference
from tasks.serving.feedback import told_labels
from tasks.serving.traffic import ANSWERS, FEATURES, read_records

_ROW = ["request_id", "row"]
_COMPARED = ("time", *_ROW, "predicted", "value", "confidence", "tokens", "unknown_tokens")
_PERMUTATIONS_MARGIN = 2
"""Permutations beyond those that the least p-value of a look needs."""


_MIN_FEATURES, _MAX_FEATURES = 20, 300
"""Fewer described rows are not compared; of more, so many are drawn, since the test grows with their square."""


@dataclass(frozen=True)
class MonitorRules:
    """When to look, and when to raise an alarm.

    Attributes:
        false_alarms: How probable one false alarm, or more, is over all of ``looks`` looks.
        looks: Over how many looks: 720 are a month of hours.
        min_rows: Fewer fresh rows than this are left for a later look.
        max_rows: Of more fresh rows so many are drawn.
    """

    false_alarms: float = 0.05
    looks: int = 720
    min_rows: int = 200
    max_rows: int = 1000

    @property
    def alpha(self) -> float:
        """How probable a false alarm is in one look."""
        return self.false_alarms / self.looks


@dataclass(frozen=True)
class Look:
    """What a look at the traffic of a model found.

    Attributes:
        since: The time of the first row that is new.
        until: That of the last.
        rows: How many rows were new.
        tests: Each with whether it raises the alarm; none where there were too few rows.
        alpha: How probable a false alarm is in this look.
        left_out: What is not compared, each with the reason.
    """

    model: str
    version: str
    since: datetime | None
    until: datetime | None
    rows: int
    tests: Sequence[tuple[DriftTest, bool]]
    alpha: float
    left_out: Sequence[str] = ()

    @property
    def alarm(self) -> bool:
        """Whether a test raises it."""
        return any(raised for _, raised in self.tests)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            "version": self.version,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "rows": self.rows,
            "alpha": self.alpha,
            "alarm": self.alarm,
            "tests": [{**asdict(test), "alarm": raised} for test, raised in self.tests],
            "left_out": list(self.left_out),
        }


def look(
    reference: DriftReference,
    traffic: Path,
    *,
    model: str,
    version: str,
    sha256: str,
    labels: Sequence[str],
    since: datetime | None,
    rules: MonitorRules,
    choices: bool = False,
    seed: int = 0,
) -> Look:
    """Compare what came in since the last look with what a version was made for.

    Args:
        traffic: The folder where a server keeps its answers.
        sha256: Of the adapter; a registry that was started anew gave its version's number to another one before.
        labels: The adapter's, in the order of its outputs; none for values and choices.
        since: The time of the last row of the last look; None: there was none.
        choices: Whether the adapter chooses among choices that each row brings.
    """
    fresh = pc.field("name") == model
    if since is not None:
        fresh &= pc.field("time") > since
    wanted = fresh & (pc.field("role") == "answer") & (pc.field("version") == version)
    wanted &= pc.field("sha256") == sha256
    answers = read_records(traffic, ANSWERS, since=since, columns=_COMPARED, filters=wanted).to_pandas()
    if len(answers) < rules.min_rows:
        return Look(model, version, None, None, len(answers), (), rules.alpha)
    first, last = answers["time"].min().to_pydatetime(), answers["time"].max().to_pydatetime()
    # Features are kept without a version, and other versions may have answered some of these requests.
    fresh &= pc.field("request_id").isin(pa.array(answers["request_id"].unique(), pa.string()))
    features = read_records(traffic, FEATURES, since=since, columns=[*_ROW, "features"], filters=fresh).to_pandas()
    features = features.merge(answers[_ROW], on=_ROW)
    vectors = np.array([np.frombuffer(one, dtype="<f2") for one in features["features"]])
    tests = compare_traffic(reference, answers, vectors, labels, rules, choices=choices, seed=seed)
    return Look(model, version, first, last, len(answers), tests, rules.alpha, _left_out(reference, choices))


def compare_traffic(
    reference: DriftReference,
    answers: pd.DataFrame,
    features: np.ndarray,
    labels: Sequence[str],
    rules: MonitorRules,
    *,
    choices: bool = False,
    seed: int = 0,
) -> list[tuple[DriftTest, bool]]:
    """Every test of a look, each with whether it raises the alarm.

    Args:
        answers: Columns predicted (or value), confidence, tokens and unknown_tokens.
        features: Of the base, [rows, hidden]; of some of the rows, or of none.
        labels: The adapter's, in the order of its outputs; none for values and choices.
        choices: Whether the adapter chooses among choices that each row brings; what ``_left_out`` names is then not
            compared.
    """
    generator = np.random.default_rng(seed)
    drawn = answers.iloc[_some(len(answers), rules.max_rows, generator)]
    vectors = features[_some(len(features), _MAX_FEATURES, generator)]
    described = reference.features[_some(len(reference.features), _MAX_FEATURES, generator)]
    sets = reference.answers.ndim == 2
    count = 4 + len(labels) if sets else 5 if labels else 4
    how: dict[str, Any] = {
        "permutations": math.ceil(_PERMUTATIONS_MARGIN * count / rules.alpha),
        "generator": generator,
    }
    if sets:
        given = [set(told_labels(predicted)) for predicted in drawn["predicted"]]
        found = [
            compare_labels(
                f"answers: {label}", reference.answers[:, at], np.array([label in one for one in given], float), **how
            )
            for at, label in enumerate(labels)
        ]
        found.append(compare_numbers("confidence", reference.confidence, drawn["confidence"], **how))
    elif labels:
        number = {label: at for at, label in enumerate(labels)}
        shares = drawn["predicted"].map(number).to_numpy()
        found = [
            compare_labels("answers", reference.answers, shares, **how),
            compare_numbers("confidence", reference.confidence, drawn["confidence"], **how),
        ]
    elif choices:
        found = [compare_numbers("confidence", reference.confidence, drawn["confidence"], **how)]
    else:
        found = [compare_numbers("answers", reference.answers, drawn["value"], **how)]
    if reference.of_rows or not choices:
        unknown = drawn["unknown_tokens"].to_numpy() / np.maximum(drawn["tokens"].to_numpy(), 1)
        found += [
            compare_numbers("tokens of a row", reference.lengths, drawn["tokens"], **how),
            compare_numbers("unknown tokens, share of a row", reference.unknown, unknown, **how),
        ]
        if len(vectors) >= _MIN_FEATURES and len(described):
            found.append(compare_features("features of the base", described, vectors, **how))
    raised = holm([test.p_value for test in found], rules.alpha)
    return list(zip(found, raised, strict=True))


def _left_out(reference: DriftReference, choices: bool) -> list[str]:
    """What is not compared, each with the reason."""
    if not choices:
        return []
    found = ["answers: the number of a choice has a meaning in its own row only"]
    if not reference.of_rows:
        found.append(
            "tokens, unknown tokens and features: this version was registered by an older beft, which kept those of "
            "each choice and not of each row; register it again"
        )
    return found


def _some(rows: int, most: int, generator: np.random.Generator) -> np.ndarray:
    return np.arange(rows) if rows <= most else np.sort(generator.choice(rows, most, replace=False))


class LookState:
    """Until when the traffic of each version was looked at; a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def since(self, model: str, version: str) -> datetime | None:
        """The time of the last row that was looked at."""
        found = self._read().get(f"{model}/{version}")
        return datetime.fromisoformat(found) if found else None

    def note(self, looked: Look) -> None:
        """Remember a look that had rows enough."""
        if looked.until is not None:
            write_json(self.path, {**self._read(), f"{looked.model}/{looked.version}": looked.until.isoformat()})

    def _read(self) -> Mapping[str, str]:
        return read_json(self.path) if self.path.is_file() else {}


def report_of(looked: Look) -> str:
    """A look as Markdown."""
    title = f"## {looked.model} version {looked.version}: {'DRIFT' if looked.alarm else 'no drift'}"
    if not looked.tests:
        return f"{title}\n\n{looked.rows} new rows: too few to look at, they are left for the next look.\n"
    lines = [
        title,
        "",
        f"{looked.rows:,} rows from {looked.since:%Y-%m-%d %H:%M} to {looked.until:%Y-%m-%d %H:%M} UTC. An alarm is "
        f"false with probability {looked.alpha:.1e} or less in one look.",
        "",
        "| compared | distance | p | reference | now | rows | alarm |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {_in_table(test.name)} | {test.statistic:.4f} | {test.p_value:.2g} | {test.reference:.3f} "
            f"| {test.current:.3f} | {test.rows[0]}, {test.rows[1]} | {'yes' if raised else 'no'} |"
            for test, raised in looked.tests
        ),
        *(f"\nNot compared: {said}." for said in looked.left_out),
    ]
    return "\n".join(lines) + "\n"


def _in_table(name: str) -> str:
    """A name as a cell of a Markdown table: a label may hold what ends the cell or the row."""
    return " ".join(name.replace("|", "\\|").split())
