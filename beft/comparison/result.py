"""What is asked of a method, and what it gave."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from beft.comparison.registry import MethodOptions
from beft.encoding.examples import Predictions
from beft.evaluation.records import MetricScore
from beft.inference.runs import WeightsState
from beft.sites.site import BiasSite
from beft.training_settings import TrainingSettings


@dataclass(frozen=True)
class MethodRun:
    """One method from one seed.

    Attributes:
        seed: Of the head where it is drawn, the order of the rows, dropout, and what the method draws.
        training: Instead of the settings' own section (``probe`` for all_biases, ``train`` for all others).
    """

    method: str
    seed: int
    training: TrainingSettings | None = None
    options: MethodOptions = field(default_factory=MethodOptions)


@dataclass(frozen=True)
class NotAvailable:
    """Why a run could not be measured on this base and dataset.

    Attributes:
        failed: Whether it began and failed (its loss became NaN, memory was used up); else it is not to be had here.
    """

    run: MethodRun
    reason: str
    failed: bool = False


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What one run gave, and what it took.

    Attributes:
        predictions: Split -> what was predicted, as the metrics take it: probabilities [rows, labels], values
            [rows], or texts.
        scores: Split -> metric -> its value, with an interval over the rows.
        dev: The dev metric at the chosen epoch; None without a dev split.
        trained_parameters: Trained numbers beside the head's.
        head_parameters: Trained numbers of the head.
        model_parameters: Parameters of the base, its head included, without what a method put beside them.
        seconds: Wall time of the training, a search included; of a pass of many runs, the run's share by steps.
        peak_memory_bytes: The most memory that the training took above what was taken before; None: not measured. Of a
            pass of many runs it is that of the pass.
        runs_in_pass: How many trainings shared the pass, this one included; with others, neither time nor memory is
            that of the run alone.
        best_epoch: The epoch that was chosen; None where there are none.
        history: A record an epoch.
        training: With what it was trained, the chosen learning rate among it; None: nothing is trained by epochs.
        trials: Where the learning rate was chosen on dev: what each one gave.
        deltas: Trained minus original bias, [width] a site; zero where it was left frozen. Empty where no biases are
            trained.
        head: The head's trained parameters by their names in the model.
        weights: Trained weights; None where none are.
        inert: Whether every trained site of a bias term is inert, and was left frozen; None: not measured.
        details: More that is worth telling, as JSON: how a search went, or what the numbers are.
    """

    run: MethodRun
    predictions: Mapping[str, Predictions]
    scores: Mapping[str, Mapping[str, MetricScore]]
    dev: float | None
    trained_parameters: int
    head_parameters: int
    model_parameters: int
    seconds: float
    peak_memory_bytes: int | None
    runs_in_pass: int = 1
    best_epoch: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    training: TrainingSettings | None = None
    trials: tuple[dict[str, Any], ...] = ()
    deltas: Mapping[BiasSite, Tensor] = field(default_factory=dict)
    head: Mapping[str, Tensor] = field(default_factory=dict)
    weights: WeightsState | None = None
    inert: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def trainable_parameters(self) -> int:
        """Trained numbers, head included."""
        return self.trained_parameters + self.head_parameters

    @property
    def percent(self) -> float:
        """Trained numbers, head included, in percent of the model's parameters."""
        return 100 * self.trainable_parameters / self.model_parameters

    def to_json(self) -> dict[str, Any]:
        """All but the predictions and the tensors."""
        return {
            "method": self.run.method,
            "seed": self.run.seed,
            "trained_parameters": self.trained_parameters,
            "head_parameters": self.head_parameters,
            "trainable_parameters": self.trainable_parameters,
            "model_parameters": self.model_parameters,
            "percent": self.percent,
            "seconds": round(self.seconds, 3),
            "peak_memory_bytes": self.peak_memory_bytes,
            "together": self.runs_in_pass,
            "dev": self.dev,
            "scores": {
                split: {metric: score.model_dump(mode="json") for metric, score in of_split.items()}
                for split, of_split in self.scores.items()
            },
            "best_epoch": self.best_epoch,
            "training": None if self.training is None else self.training.model_dump(mode="json"),
            "learning_rates_tried": list(self.trials),
            "inert": self.inert,
            "history": self.history,
            "details": self.details,
        }
