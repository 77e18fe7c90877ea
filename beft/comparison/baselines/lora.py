"""LoRA, as PEFT provides it: low-rank matrices beside the query and value projections (arXiv 2106.09685)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from beft.comparison.baselines.peft_layers import PeftLayers, modules_of, stores_inputs_first
from beft.errors import InputError
from beft.names import known_name
from beft.settings import TERMS

if TYPE_CHECKING:
    from peft import PeftConfig

ADAPTED = ("query", "value")
"""The projections that are adapted, by the terms of their biases."""


class Lora(PeftLayers):
    """PEFT's LoRA without dropout; A starts at random, B at zero.

    Args:
        rank: Of the matrices.
        alpha: Their product is scaled by alpha / rank.
        terms: The projections that are adapted.

    Raises:
        InputError: A rank or alpha below 1, or an unknown term.
    """

    name, title = "lora", "LoRA"
    learning_rate = 5e-4
    """A usual one, not tuned here."""

    def __init__(self, rank: int = 8, alpha: int = 16, terms: Sequence[str] = ADAPTED) -> None:
        if rank < 1 or alpha < 1:
            raise InputError(f"LoRA: rank {rank} and alpha {alpha}; each must be 1 or more")
        self.rank, self.alpha = rank, alpha
        self.terms = tuple(known_name(term, TERMS, "term") for term in terms)

    def modules(self, model: nn.Module) -> list[str]:
        """Paths of the adapted projections in the model."""
        return modules_of(model, self.terms, self.title)

    def config(self, model: nn.Module, modules: list[str]) -> "PeftConfig":
        """PEFT's configuration."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            target_modules=modules,
            fan_in_fan_out=stores_inputs_first(model, modules),
        )
