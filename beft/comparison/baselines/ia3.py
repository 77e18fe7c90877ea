"""IA3, as PEFT provides it: factors on keys, values and the inside of the feed-forward (arXiv 2205.05638)."""

from typing import TYPE_CHECKING

from torch import nn

from beft.comparison.baselines.peft_layers import PeftLayers, modules_of, stores_inputs_first

if TYPE_CHECKING:
    from peft import PeftConfig

SCALED_OUTPUTS = ("key", "value")
"""The projections whose outputs are scaled, by the terms of their biases."""
SCALED_INPUTS = ("output",)
"""Those whose inputs are scaled: the activations inside the feed-forward."""


class IA3(PeftLayers):
    """PEFT's IA3: a factor, 1 at the start, for each component of the keys, the values and the activations.

    The modules are the paper's, in every family. PEFT's own list for BERT is wider by one: its pattern
    ``output.dense`` also fits the attention's output projection.
    """

    name, title = "ia3", "IA3"
    learning_rate = 8e-3
    """That of PEFT's example of IA3; not tuned here."""

    def modules(self, model: nn.Module) -> list[str]:
        """Paths of the adapted projections in the model."""
        return modules_of(model, (*SCALED_OUTPUTS, *SCALED_INPUTS), self.title)

    def config(self, model: nn.Module, modules: list[str]) -> "PeftConfig":
        """PEFT's configuration."""
        from peft import IA3Config

        return IA3Config(
            target_modules=modules,
            feedforward_modules=modules_of(model, SCALED_INPUTS, self.title),
            fan_in_fan_out=stores_inputs_first(model, modules),
        )
