"""What a measurement found, as it is kept on disk and read by reports and MLflow: a record for each trained run."""

import shutil
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, FiniteFloat

from beft.errors import BeftError
from beft.files import atomic_directory, copy_file, read_json, write_json

RECORDS = "records.json"
COST = "cost.json"


class Cost(BaseModel):
    """What a run took; it varies between runs.

    Attributes:
        seconds: Wall time of the training; of a pass of many runs, the run's share by steps. None: it was interrupted,
            and how long all of it took is not known.
        shared_with: How many other runs shared its pass; with any, the time is not that of the run alone.
        peak_memory_bytes: What the training took above what was taken before; None: not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: FiniteFloat | None
    shared_with: int = 0
    peak_memory_bytes: int | None = None


def run_key(method: str, seed: int, learning_rate: float | None, epochs: int | None) -> str:
    """What tells the runs of one measurement apart."""
    rate = "" if learning_rate is None else f"-{learning_rate:g}"
    return f"{method}-{seed}{rate}" + ("" if epochs is None else f"-{epochs}")


class Measured(BaseModel):
    """One method trained from one seed on one sample of a dataset, and how good it is on the test rows.

    Attributes:
        base: The base by its portable id.
        regime: The size that was asked for, as text.
        rows: Rows of train, dev and test.
        draw: Which draw of the sample.
        learning_rate: Of the biases (or weights); None: the method has none.
        epochs: Length of the training; None: the method has none.
        trials: What each learning rate gave on dev where it was chosen there; else empty.
        metric: The headline metric.
        scores: Metric -> its value on test.
        dev: The headline metric on dev at the chosen epoch; None without dev.
        trained_parameters: Trained numbers beside the head's.
        head_parameters: Trained numbers of the head.
        model_parameters: Parameters of the model, head included.
        importance: Method -> score of this term, averaged over layers (None: no direction); of bias terms whose run
            has a probe beside it.
        selected: Whether the selection of the settings chose this term; None: nothing was scored.
        inert: Whether the term is inert; None: not measured.
        history: A record an epoch.
        cost: None as long as it has not been read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    dataset: str
    regime: str
    rows: dict[str, int]
    protocol: str
    method: str
    seed: int
    draw: int
    learning_rate: FiniteFloat | None
    epochs: int | None
    trials: tuple[dict[str, Any], ...] = ()
    metric: str
    scores: dict[str, FiniteFloat]
    dev: FiniteFloat | None
    trained_parameters: int
    head_parameters: int
    model_parameters: int
    best_epoch: int | None
    importance: dict[str, FiniteFloat | None] | None = None
    selected: bool | None = None
    inert: bool | None = None
    history: list[dict[str, Any]] = []
    cost: Cost | None = None

    @property
    def key(self) -> str:
        """What tells the runs of one measurement apart."""
        return run_key(self.method, self.seed, self.learning_rate, self.epochs)

    @property
    def share(self) -> float:
        """Trained numbers, without those of the head, for each parameter of the model."""
        return self.trained_parameters / self.model_parameters


class Scored(BaseModel):
    """The importance of every bias term, trained alone or not, by one probe.

    Attributes:
        seed: Of the probe; its learning rate and length beside it.
        importance: Term -> method -> score, averaged over layers (None: no direction).
        inert: Term -> whether it is inert.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    learning_rate: FiniteFloat
    epochs: int
    importance: dict[str, dict[str, FiniteFloat | None]]
    inert: dict[str, bool]


class Failed(BaseModel):
    """A run that began and has no result, for example because its loss became NaN.

    Attributes:
        learning_rate: Where learning rates are compared; else None. Likewise the epochs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    seed: int
    learning_rate: FiniteFloat | None = None
    epochs: int | None = None
    reason: str

    @property
    def key(self) -> str:
        """What tells the runs of one measurement apart."""
        return run_key(self.method, self.seed, self.learning_rate, self.epochs)


class Measurement(BaseModel):
    """What the folder of one ``measure`` step holds.

    Attributes:
        records: A record for each run.
        unavailable: Method -> why it could not be measured.
        scored: What each probe says of every term.
        failed: The runs that failed, each with its reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: tuple[Measured, ...]
    unavailable: dict[str, str] = {}
    scored: tuple[Scored, ...] = ()
    failed: tuple[Failed, ...] = ()

    def save(self, folder: Path) -> None:
        """Write the records; what they took is in a file of its own, since it varies between runs."""
        without = [record.model_copy(update={"cost": None}) for record in self.records]
        write_json(folder / RECORDS, self.model_copy(update={"records": tuple(without)}).model_dump(mode="json"))
        costs = {record.key: record.cost for record in self.records}
        write_json(folder / COST, {key: cost and cost.model_dump(mode="json") for key, cost in costs.items()})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote."""
        found, costs = cls.model_validate(read_json(folder / RECORDS)), read_json(folder / COST)
        records = [
            record.model_copy(update={"cost": Cost.model_validate(costs[record.key]) if costs[record.key] else None})
            for record in found.records
        ]
        return found.model_copy(update={"records": tuple(records)})


def as_trained(folder: Path, method: str, seed: int, out: Path) -> None:
    """Lay out one run of a measurement as the steps train and evaluate leave theirs, for the step ``merge``.

    Raises:
        BeftError: The measurement has no adapter of that method and seed.
    """
    found = [one.key for one in Measurement.load(folder).records if (one.method, one.seed) == (method, seed)]
    if not found or not (folder / "adapters" / found[0]).is_dir():
        raise BeftError(f"{folder} holds no adapter of {method} from seed {seed}")
    with atomic_directory(out) as there:
        shutil.copytree(folder / "adapters" / found[0], there / "adapter")
        copy_file(folder / "predictions.parquet", there / "predictions.parquet")
        write_json(there / "evaluation.json", {"target": found[0]})
