"""The methods by name: what kind each one is, and the weights that it trains where it trains weights."""

from dataclasses import dataclass
from enum import Enum

from torch import nn

from beft.comparison.baselines.full import FullFineTuning
from beft.comparison.baselines.ia3 import IA3
from beft.comparison.baselines.ln_tuning import LNTuning
from beft.comparison.baselines.lora import Lora
from beft.comparison.baselines.low_rank_value import LowRankValue
from beft.comparison.baselines.prefix import Prefix
from beft.comparison.baselines.rand_uniform import RandUniform
from beft.comparison.baselines.vera import Vera
from beft.errors import InputError
from beft.names import known_name
from beft.settings import ALL_BIASES, TERMS
from beft.sites.site import find_sites
from beft.training.engine.weight_method import WeightMethod


class Kind(Enum):
    """How a method is run."""

    UNTRAINED = "nothing is trained"
    FEATURES = "fitted on the frozen base's features"
    BIASES = "bias vectors and the head are trained, many runs in one pass"
    WEIGHTS = "weights and the head are trained, one run at a time"


METHODS: dict[str, Kind] = {
    "untouched": Kind.UNTRAINED,
    "in_context": Kind.UNTRAINED,
    "head_only": Kind.FEATURES,
    "logistic_regression": Kind.FEATURES,
    **dict.fromkeys(TERMS, Kind.BIASES),
    ALL_BIASES: Kind.BIASES,
    "rand_uniform": Kind.WEIGHTS,
    "ln_tuning": Kind.WEIGHTS,
    "ia3": Kind.WEIGHTS,
    "vera": Kind.WEIGHTS,
    "lora": Kind.WEIGHTS,
    "prefix": Kind.WEIGHTS,
    "low_rank_value": Kind.WEIGHTS,
    "full": Kind.WEIGHTS,
}
"""Every method, in the order in which tables show them."""


@dataclass(frozen=True)
class MethodOptions:
    """What can be said of single methods beside the settings.

    Attributes:
        learning_rate: Of methods that train weights, the only one; None: one that is usual for the method.
        weights: rand_uniform: how many weights; None: as many as ``weights_of`` has numbers.
        weights_of: A bias term, or ``all_biases``.
        rank: lora and low_rank_value: rank of the matrices.
        alpha: lora: their product is scaled by alpha / rank.
        prefix_tokens: prefix: its length.
        demonstrations: in_context: how many are shown at most.
        vera_rank: vera: rank of the random matrices.
        search_rates: Whether the learning rate of what is trained is searched on dev where none is named, three rates
            for every method; else it is the usual one.
    """

    learning_rate: float | None = None
    weights: int | None = None
    weights_of: str = "value"
    rank: int = 8
    alpha: int = 16
    prefix_tokens: int = 5
    demonstrations: int = 32
    vera_rank: int = 256
    search_rates: bool = False

    def __post_init__(self) -> None:
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise InputError(f"a learning rate of {self.learning_rate}: it must be above 0 and at most 1")
        known_name(self.weights_of, (*TERMS, ALL_BIASES), "bias term")


def known_method(name: str) -> Kind:
    """The kind of a method.

    Raises:
        InputError: There is none of that name; the message names the nearest.
    """
    return METHODS[known_name(name, METHODS, "method")]


def weight_method(name: str, model: nn.Module, options: MethodOptions, *, add_biases: bool) -> WeightMethod:
    """The weights that a method of kind WEIGHTS trains.

    Args:
        add_biases: Whether projections without a bias count as having one.

    Raises:
        InputError: An option that cannot be.
    """
    if name == "full":
        return FullFineTuning()
    if name == "lora":
        return Lora(options.rank, options.alpha)
    if name == "prefix":
        return Prefix(options.prefix_tokens)
    if name == "low_rank_value":
        return LowRankValue(options.rank, add=add_biases)
    if name == "ln_tuning":
        return LNTuning()
    if name == "ia3":
        return IA3()
    if name == "vera":
        return Vera(options.vera_rank)
    if options.weights is not None:
        return RandUniform(options.weights)
    terms = None if options.weights_of == ALL_BIASES else [options.weights_of]
    return RandUniform(sum(site.width for site in find_sites(model, terms, add=add_biases)))
