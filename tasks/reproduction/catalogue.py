"""What can be reproduced: the tables and figures of BEFT, its extension analysis, and BitFit's comparison.

And what is asked for: a request names one of them, and may narrow or widen it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from beft.errors import SettingsError
from beft.names import known_name
from beft.settings_problems import problems
from beft.training_settings import Section

Name = Literal["table1", "table2", "table3", "table4", "table5", "figure1", "figure4", "extension", "bitfit"]
Regime = Literal["low", "medium", "high", "all"]

TERMS = ("value", "query", "key")
"""The terms that the paper compares, in the order of its tables."""
_COMPARED = ("all_biases", *TERMS)
_GLUE = ("sst2", "rte", "qqp", "qnli", "mnli", "mnli_mismatched", "cola", "mrpc", "stsb")
_DECODERS = ("sst2", "rte", "cb", "boolq", "wsc", "wic", "multirc", "copa", "record", "squad", "drop")


@dataclass(frozen=True)
class Reproduction:
    """One table, figure or analysis, as the paper has it.

    Attributes:
        methods: Bias terms and other methods. With ``all_biases``, which is the probe, every term is scored as well.
        alone: Whether each method is trained in a measurement of its own, because their times are compared.
        compared_learning_rates: Of the biases, where the analysis varies them.
        compared_epochs: Lengths of the training, where the analysis varies them.
        random_weights_of: As many single weights as this term's biases have are trained by rand_uniform.
        decoders: Whether the published models are decoders, which were trained otherwise than encoders.
        merged: Whether the target term's adapters of the datasets are merged, seed by seed.
    """

    title: str
    datasets: tuple[str, ...]
    regimes: tuple[str, ...]
    methods: tuple[str, ...]
    alone: bool = False
    compared_learning_rates: tuple[float, ...] = ()
    compared_epochs: tuple[int, ...] = ()
    random_weights_of: str = "value"
    decoders: bool = False
    merged: bool = False


REPRODUCTIONS: dict[str, Reproduction] = {
    "table1": Reproduction("Bias terms on GLUE (BEFT, Table 1)", _GLUE, ("low", "medium", "high"), _COMPARED),
    "table2": Reproduction(
        "Runtime, parameters and accuracy (BEFT, Table 2)",
        ("rte",),
        ("low",),
        ("value", "rand_uniform", "all_biases", "full"),
        alone=True,
    ),
    "table3": Reproduction(
        "Merging value biases by their mean (BEFT, Table 3)", ("sst2", "rte"), ("low",), ("value",), merged=True
    ),
    "table4": Reproduction(
        "Bias terms on other datasets and models (BEFT, Table 4)", ("sst2", "rte", "cb", "wic"), ("low",), _COMPARED
    ),
    "table5": Reproduction(
        "Fine-tuning techniques on decoders (BEFT, Table 5)",
        _DECODERS,
        ("low",),
        (*TERMS, "lora", "prefix", "in_context", "untouched"),
        decoders=True,
    ),
    "figure1": Reproduction(
        "Importance ranking against accuracy on SST-2 (BEFT, Figure 1)", ("sst2",), ("low",), _COMPARED
    ),
    "figure4": Reproduction(
        "Importance ranking against the metric by regime (BEFT, Figure 4)",
        ("sst2", "cola", "stsb"),
        ("low", "medium", "high", "all"),
        _COMPARED,
    ),
    "extension": Reproduction(
        "Learning rates, lengths and carried selections (BEFT, section 3.4)",
        ("cb", "wic"),
        ("low",),
        _COMPARED,
        compared_learning_rates=(1e-4, 1e-3),
    ),
    "bitfit": Reproduction(
        "All biases against full fine-tuning and a random subset (BitFit)",
        _GLUE,
        ("all",),
        ("full", "all_biases", "rand_uniform"),
        random_weights_of="all_biases",
    ),
}


class ReproductionRequest(Section):
    """What is to be reproduced; what is left out is as the paper has it."""

    name: Name = Field(description="the table, figure or analysis")
    models: tuple[str, ...] = Field((), description="bases, as base.source names one; empty: that of the settings")
    datasets: tuple[str, ...] = Field((), description="empty: those of the paper, as far as they can be reached")
    regimes: tuple[Annotated[int, Field(ge=2)] | Regime, ...] = Field(
        (), description="low, medium, high, all, or numbers of rows; empty: those of the paper"
    )
    methods: tuple[str, ...] = Field((), description="bias terms and other methods; empty: those of the paper")
    seeds: int = Field(5, ge=1, le=1000, description="seeds 0, 1, 2 …; under protocol beft each has its own draw")
    protocol: Literal["beft", "paper"] = Field(
        "beft", description="paper: one sample, the published learning rates and lengths, last epoch, no selection"
    )
    compared_learning_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (), description="every bias term is measured with each; empty: those of the analysis"
    )
    compared_epochs: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (), description="every bias term is measured at each length; empty: those of the analysis"
    )
    changes: dict[str, Any] = Field({}, description="settings by dotted name that replace those of the protocol")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Check a request.

        Raises:
            InputError: There is no table, figure or analysis of the name.
            SettingsError: Every other problem at once.
        """
        find_reproduction(str(values.get("name", "")))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError(list(problems(cls, error))) from None


def find_reproduction(name: str) -> Reproduction:
    """One table, figure or analysis.

    Raises:
        InputError: There is none of that name; the message has the nearest.
    """
    return REPRODUCTIONS[known_name(name, REPRODUCTIONS, "table, figure or analysis")]
