"""What an adapter knows of the model that it was trained over."""

from collections.abc import Mapping
from dataclasses import dataclass

from beft.adapters.peft_format import (
    ModuleFacts,
)


@dataclass(frozen=True)
class ModelFacts:
    """What an adapter knows of the model that it was trained on, besides its base.

    Attributes:
        model: The class of the model.
        modules: The modules that the adapter touches.
        sites: Names of all sites that the adapter's terms have in the model; saving without one is refused.
        head: Names of all parameters that the head needs; saving without one is refused.
        tokenizer: What the tokenizer does, see ``beft.encoding.tokenizer_facts``.
    """

    model: str
    modules: Mapping[str, ModuleFacts]
    sites: frozenset[str]
    head: frozenset[str]
    tokenizer: Mapping[str, int | str]
