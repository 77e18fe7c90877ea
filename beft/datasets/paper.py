"""How the paper (BEFT, arXiv 2509.15974) trained on a dataset."""

from typing import Annotated, Literal

from pydantic import Field

from beft.training_settings import Section


class PaperDecoder(Section):
    """The experiments with OPT: one sample, one number of epochs, whatever the regime.

    Attributes:
        objective: candidates: cross-entropy over the length-normalised log-likelihoods of the answers; language_model:
            the loss of the right answer's tokens.
    """

    learning_rate: float = Field(gt=0)
    objective: Literal["candidates", "language_model"] = "candidates"
    epochs: int = Field(5, ge=1)
    batch_size: int = Field(8, ge=1)
    train_rows: int = Field(1000, ge=1)
    evaluation_rows: int = Field(1000, ge=1)


class Paper(Section):
    """The settings of the published experiments; what is missing was not published.

    Attributes:
        learning_rate: Of the runs that train biases.
        full_learning_rate: Of full fine-tuning.
        epochs: By the encoder: bert-base, bert-large, roberta-base.
        rows: Rows of the regimes low, medium and high, dev included.
        decoder: The experiments with decoders.
    """

    learning_rate: float | None = Field(None, gt=0)
    full_learning_rate: float | None = Field(None, gt=0)
    epochs: dict[str, Annotated[int, Field(ge=1)]] = Field({})
    rows: dict[Literal["low", "medium", "high"], Annotated[int, Field(ge=2)]] = Field({})
    decoder: PaperDecoder | None = None
