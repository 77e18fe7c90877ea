"""What the analysis of selections starts from: one record a bias term, seed and cell of an experiment."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from beft.errors import InputError

REGIMES = ("low", "medium", "high", "all")
"""The regimes, from few rows to all of them."""
CANDIDATES = ("query", "key", "value")
"""The terms among which the paper chooses."""


class TermRecord(BaseModel):
    """How important one bias term was found in one run of the probe, and how well it did when it was trained alone.

    A record may have no importance (a row such as ``all_biases``, which stands beside the terms and is never chosen)
    or no value (a term that was scored, but not trained).

    Attributes:
        base: The base model, by its portable id or a short name.
        dataset: The dataset.
        regime: low, medium, high, all, or a number of rows.
        seed: The seed of probe and training; records of one seed are paired.
        term: The bias term.
        importance: Importance method -> mean score over the layers; None where the method has no direction.
        inert: Whether shifting the term changes no logit; such terms are never chosen.
        metric: Name of the metric.
        value: The metric on the rows that report (test), as it is (an accuracy lies in 0 to 1).
        dev_value: The same on the rows that choose (dev).
        learning_rate: Learning rate of probe and training where it is varied; None where each run has its own.
        epochs: Epochs of probe and training where they are varied.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = ""
    dataset: str = Field(min_length=1)
    regime: str = Field("low", min_length=1)
    seed: int = 0
    term: str = Field(min_length=1)
    importance: Mapping[str, FiniteFloat | None] = {}
    inert: bool = False
    metric: str = "accuracy"
    value: FiniteFloat | None = None
    dev_value: FiniteFloat | None = None
    learning_rate: FiniteFloat | None = Field(None, gt=0)
    epochs: int | None = Field(None, ge=1)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave.

        Raises:
            InputError: A field is unknown, missing or wrong.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise InputError(f"a record of a bias term is wrong: {problems}") from None


def check_records(records: Iterable[TermRecord]) -> list[TermRecord]:
    """The records as a list.

    Raises:
        InputError: There are none, or two of them are of the same cell, seed and term.
    """
    listed = list(records)
    if not listed:
        raise InputError("there are no records of bias terms to analyse")
    seen = set()
    for record in listed:
        key = (record.base, record.dataset, record.regime, record.learning_rate, record.epochs)
        if (*key, record.seed, record.term) in seen:
            raise InputError(
                f"two records are of the term {record.term!r} and seed {record.seed} of {record.dataset} "
                f"{record.regime}; where runs differ in learning rate, epochs or base, the records must say so"
            )
        seen.add((*key, record.seed, record.term))
    return listed
