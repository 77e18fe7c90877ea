"""Numbers that papers published, as data: one YAML a table or figure, each with its source.

They stand beside what is measured here, in rows of their own, and never fill a cell of it.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, model_validator

from beft.names import known_name
from beft.training_settings import Section

AVERAGE = "average"
"""The dataset of a number that is an average over the datasets of its row."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class PublishedScore:
    """One published number.

    Attributes:
        model: The base, by the name that the paper gives it.
        dataset: The dataset, or ``AVERAGE``.
        method: The method, a bias term perhaps; for a merge, whose biases they are.
        metric: The name of the metric.
        value: As a share of one (a published 85.8 % is 0.858).
        spread: The standard deviation over runs, where it is stated.
        seconds: What the training took, where it is stated.
        share: Trained parameters as a share of all, where it is stated.
        selected: Whether the paper's importance selects this term.
    """

    model: str
    dataset: str
    regime: str
    method: str
    metric: str
    value: float
    spread: float | None = None
    seconds: float | None = None
    share: float | None = None
    selected: bool = False


@dataclass(frozen=True)
class PublishedChoice:
    """Which term an importance method ranks first, by a paper's text."""

    dataset: str
    regime: str
    by: str
    selected: str


@dataclass(frozen=True)
class Published:
    """What was published of one table or figure.

    Attributes:
        source: Paper, table and page.
        device: What it was measured on, where times are stated.
        cosine: Of two merged biases, where it is stated.
    """

    source: str
    scores: tuple[PublishedScore, ...]
    choices: tuple[PublishedChoice, ...] = ()
    device: str | None = None
    cosine: float | None = None


class _Row(Section):
    model: str | None = None
    regime: str
    method: str
    percent: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    average: float | None = None
    seconds: float | None = None
    share: float | None = None


class _Choice(Section):
    dataset: str
    regimes: tuple[str, ...]
    by: str
    selected: str


class _File(Section):
    source: str
    model: str | None = None
    device: str | None = None
    cosine: float | None = None
    metrics: dict[str, str] = Field({})
    datasets: tuple[str, ...]
    selected: str | None = None
    rows: tuple[_Row, ...]
    choices: tuple[_Choice, ...] = ()

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for row in self.rows:
            if row.percent and len(row.percent) != len(self.datasets):
                raise ValueError(f"{row.method}, {row.regime}: {len(row.percent)} numbers for {len(self.datasets)}")
            if row.spread and len(row.spread) != len(row.percent):
                raise ValueError(f"{row.method}, {row.regime}: {len(row.spread)} spreads for {len(row.percent)}")
            if row.model is None and self.model is None:
                raise ValueError(f"{row.method}, {row.regime}: no model is named")
        return self

    def scores(self, row: _Row) -> list[PublishedScore]:
        """The numbers of one row, dataset by dataset, and their average."""
        model = row.model or self.model
        assert model is not None
        spreads = row.spread or (None,) * len(row.percent)
        found = [
            PublishedScore(
                model=model,
                dataset=dataset,
                regime=row.regime,
                method=row.method,
                metric=self.metrics.get(dataset, "accuracy"),
                value=percent / 100,
                spread=None if spread is None else spread / 100,
                seconds=row.seconds,
                share=row.share,
                selected=row.method == self.selected,
            )
            for dataset, percent, spread in zip(self.datasets if row.percent else (), row.percent, spreads, strict=True)
        ]
        if row.average is not None:
            average = row.average / 100
            found.append(
                PublishedScore(model, AVERAGE, row.regime, row.method, AVERAGE, average, None, row.seconds, row.share)
            )
        return found


def published_names() -> list[str]:
    """The tables and figures whose published numbers are here."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


@lru_cache(maxsize=32)
def published(name: str) -> Published:
    """What was published of a table or figure.

    Raises:
        InputError: There is none of that name.
    """
    known_name(name, published_names(), "published table")
    file = _File.model_validate(yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8")))
    choices = [
        PublishedChoice(one.dataset, regime, one.by, one.selected) for one in file.choices for regime in one.regimes
    ]
    scores = [score for row in file.rows for score in file.scores(row)]
    return Published(file.source, tuple(scores), tuple(choices), file.device, file.cosine)
