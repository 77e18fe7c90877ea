"""VeRA, as PEFT provides it: LoRA with frozen random matrices that all layers share, and trained vectors that scale
them (arXiv 2310.11454).
"""

from typing import TYPE_CHECKING

from torch import nn

from beft.comparison.baselines.lora import ADAPTED
from beft.comparison.baselines.peft_layers import PeftLayers, modules_of, stores_inputs_first
from beft.errors import InputError

if TYPE_CHECKING:
    from peft import PeftConfig


class Vera(PeftLayers):
    """PEFT's VeRA without dropout, beside the query and value projections.

    The random matrices are those of PEFT's own key (0), the same for every seed. They are as large as the largest
    projection needs; a smaller one uses the upper left part, as PEFT does (grouped queries).

    Args:
        rank: Of the random matrices; also how many numbers a projection trains besides one for each output.

    Raises:
        InputError: A rank below 1.
    """

    name, title = "vera", "VeRA"
    learning_rate = 1e-2
    """In the midst of PEFT's example on GLUE, 4e-3 to 2e-2; not tuned here."""

    def __init__(self, rank: int = 256) -> None:
        if rank < 1:
            raise InputError(f"VeRA: rank {rank}; it must be 1 or more")
        self.rank = rank

    def modules(self, model: nn.Module) -> list[str]:
        """Paths of the adapted projections in the model."""
        return modules_of(model, ADAPTED, self.title)

    def config(self, model: nn.Module, modules: list[str]) -> "PeftConfig":
        """PEFT's configuration."""
        from peft import VeraConfig

        return VeraConfig(
            r=self.rank,
            target_modules=modules,
            fan_in_fan_out=stores_inputs_first(model, modules),
        )
