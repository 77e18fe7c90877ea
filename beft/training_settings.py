"""The typed settings of a training: the sections probe and train."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

log = logging.getLogger("beft.settings")


class Section(BaseModel):
    """A part of the settings: unknown names are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


EPOCHS, MAX_EPOCHS, MIN_STEPS = 8, 30, 400
"""Defaults of a training when ``epochs`` is None: its epochs, the most epochs for few rows, and for how many steps."""

CONTRASTIVE_EPOCHS, CONTRASTIVE_STEPS = 6, 100
"""The same of a contrastive loss, which sees each row beside a batch of others and needs fewer steps; more of them
move the features away from what the base knows (benchmarks/few_labels)."""

FEW_ROWS_A_LABEL = 100
"""Below so many train rows a label, on average, ``train.loss: auto`` is contrastive (benchmarks/few_labels)."""

MIN_CONTRASTIVE_BATCH = 4
"""Rows of the smallest batch that a contrastive loss learns from: two labels with two rows each."""

Loss = Literal["cross_entropy", "contrastive", "both"]
ClassWeights = Literal["none", "balanced"]


class TrainingSettings(Section):
    """One fine-tuning: optimiser, schedule, length.

    benchmarks/quality/recipes.md compares the defaults with others.
    """

    epochs: int = Field(EPOCHS, ge=1, le=1000)
    learning_rate: float = Field(1e-2, gt=0, le=1, description="of the biases")
    learning_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (), description="tried as runs of one pass, the best on dev counts; empty: learning_rate alone"
    )
    head_learning_rate: float | None = Field(5e-4, gt=0, le=1, description="None: the same as learning_rate")
    loss: Loss = Field("cross_entropy", description="what is made small")
    temperature: float = Field(0.1, gt=0, le=10, description="of the contrastive loss")
    schedule: Literal["linear", "constant"] = "linear"
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises from zero")
    batch_size: int = Field(16, ge=1, le=4096)
    clip_norm: float = Field(1.0, gt=0)
    adam_epsilon: float = Field(1e-6, gt=0)
    dropout: bool = Field(False, description="whether the base's own dropout is on while training")
    patience: int | None = Field(
        None, ge=1, description="epochs without a better dev metric before stopping; None: all"
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="larger batches are computed in parts whose gradients add up; None: at once"
    )
    activation_checkpointing: bool = Field(
        False, description="compute the layers' activations again instead of keeping them: less memory, more time"
    )
    class_weights: ClassWeights = Field(
        "none",
        description="of the training loss, or of a contrastive loss's head, and of the cheap baselines; balanced: "
        "rows / (classes * rows of the class), as in scikit-learn, for classes of unequal size; dev is never weighted",
    )

    @property
    def contrastive(self) -> bool:
        """Whether the loss joins the rows of a batch, and the head is fitted at last on what was trained."""
        return self.loss in ("contrastive", "both")

    def with_loss(self, loss: Loss) -> Self:
        """The same settings for a loss."""
        return self.model_copy(update={"loss": loss})

    def select(self, *, dev: bool) -> str:
        """Which epoch counts, as ``Run.select`` names it; contrastively the last, for each other would need a head."""
        return "best" if dev and not self.contrastive else "last"

    @model_validator(mode="before")
    @classmethod
    def _read_old_name(cls, values: Any) -> Any:
        """``micro_batch_size`` was called ``rows_at_once``: settings that were written then are read for ever."""
        if not isinstance(values, Mapping) or "rows_at_once" not in values:
            return values
        log.warning("the setting rows_at_once is now called micro_batch_size")
        renamed = dict(values)
        return {"micro_batch_size": renamed.pop("rows_at_once"), **renamed}


class ProbeSettings(TrainingSettings):
    """The fine-tuning of all bias terms.

    Unless they are named, its length follows from the number of rows, and its learning rate from the base.
    """

    usual_learning_rate: ClassVar[float] = 5e-3  # all bias terms move the features more than one term does

    learning_rate: float | None = Field(  # type: ignore[assignment]  # a training's own settings always name it
        None,
        gt=0,
        le=1,
        description="of the biases; None: 0.005 in probe and 0.01 in train, or 0.3, 0.1 or 0.03 of it on a base that "
        "such steps move too far (benchmarks/quality/learning_rates.md)",
    )
    epochs: int | None = Field(  # type: ignore[assignment]  # a training's own settings always name it
        None,
        ge=1,
        le=1000,
        description=f"None: {EPOCHS}, and up to {MAX_EPOCHS} where the rows are so few that {EPOCHS} take fewer "
        f"than {MIN_STEPS} steps; of a contrastive loss {CONTRASTIVE_EPOCHS} and {CONTRASTIVE_STEPS}",
    )
    loss: Loss | None = Field(  # type: ignore[assignment]  # likewise
        None, description="None: that of train, and its temperature"
    )

    def resolved(self, rows: int, rate_share: float = 1.0) -> TrainingSettings:
        """The settings of a training: its length and its learning rate are named.

        Args:
            rows: Those that are learnt from.
            rate_share: How much of the usual learning rate suits the base, as ``beft.training.rate_share`` measures it.
        """
        epochs = self.epochs or automatic_epochs(rows, self.batch_size, contrastive=self.contrastive)
        rate = self.learning_rate or float(f"{self.usual_learning_rate * rate_share:.6g}")
        return self.model_copy(update={"epochs": epochs, "learning_rate": rate})


def automatic_epochs(rows: int, batch_size: int, *, contrastive: bool = False) -> int:
    """How many epochs a training takes when ``epochs`` is None.

    With a few hundred rows, a fixed small number of epochs ends long before the biases have learnt
    (benchmarks/paper/README.md).
    """
    steps = -(-rows // batch_size)
    fewest, needed = (CONTRASTIVE_EPOCHS, CONTRASTIVE_STEPS) if contrastive else (EPOCHS, MIN_STEPS)
    return min(MAX_EPOCHS, max(fewest, -(-needed // steps)))


class TargetSettings(ProbeSettings):
    """The fine-tuning of the target term, and what it is trained for; the probe is trained for the same."""

    usual_learning_rate: ClassVar[float] = 1e-2

    method: Literal["fixed", "auto"] = Field(
        "fixed",
        description="fixed: as this section says; auto: loss, learning rate and bias terms, or no bias at all, are "
        "chosen by cross-validation on train and dev together, then all of these rows are trained on",
    )
    search_minutes: float = Field(
        1.0,
        gt=0,
        le=10_000,
        description="of auto: how long two CPU cores compare, about; it decides how much is compared",
    )

    learn_from_dev: bool | None = Field(
        None,
        description="true: the rows of dev are trained on as well, and the last epoch counts; a merge then has no rows "
        "that choose its scales; false: never; null: where dev would choose nothing (a contrastive loss at one rate)",
    )

    objective: Literal["auto", "candidates", "language_model"] = Field(
        "auto",
        description="without a head: candidates: classification over the candidate answers; language_model: the right "
        "answer's own loss; auto: candidates where there are some",
    )
    loss: Literal["auto", Loss] = Field(  # type: ignore[assignment]  # a training's own settings always name one
        "auto",
        description="cross_entropy: that of the head's outputs (of values the squared error); contrastive: rows with "
        "like targets get like features (Khosla et al. 2020), then the head is fitted on them; both: their sum; auto: "
        f"contrastive for a classification of fewer than {FEW_ROWS_A_LABEL} train rows a label, except with "
        "head.pooling: mask, else cross_entropy",
    )
