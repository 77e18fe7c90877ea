"""LN-tuning, as PEFT provides it: the base's norms, their weights and biases (arXiv 2312.11420)."""

from typing import TYPE_CHECKING

from torch import nn

from beft.comparison.baselines.peft_layers import PeftLayers, modules_of
from beft.sites.matching import match_layout

if TYPE_CHECKING:
    from peft import PeftConfig


class LNTuning(PeftLayers):
    """PEFT's LN-tuning: a trained copy of each norm that holds a bias term, with a bias or without one (RMS norms).

    Further norms of a family (those behind the sub-layers of Gemma 2, those of Qwen3's queries and keys) stay frozen,
    as PEFT's own lists leave them.
    """

    name, title = "ln_tuning", "LN-tuning"
    learning_rate = 3e-3
    """The best on dev of 3e-4, 1e-3 and 3e-3 on 800 rows of Rotten Tomatoes (all-MiniLM-L6-v2, 3 epochs)."""

    def modules(self, model: nn.Module) -> list[str]:
        """Paths of the trained norms in the model."""
        stacks = match_layout(model).layout.stacks.values()
        terms = dict.fromkeys(term for stack in stacks for term in (*stack.terms, *stack.outside))
        return modules_of(model, [term for term in terms if term.endswith("_norm")], self.title)

    def config(self, model: nn.Module, modules: list[str]) -> "PeftConfig":
        """PEFT's configuration."""
        from peft import LNTuningConfig

        return LNTuningConfig(target_modules=modules)
