"""LoRA, as PEFT provides it: low-rank matrices beside the query and value projections (arXiv 2106.09685)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import nn
from transformers.pytorch_utils import Conv1D

from beft.errors import InputError
from beft.inference.runs import WeightsState
from beft.models.classifier import Batch, Classifier
from beft.names import known_name
from beft.process_state import seeded
from beft.settings import TERMS
from beft.sites.matching import match_layout
from beft.sites.offloading import input_device
from beft.training.engine.weight_method import TrainedWeights, WeightMethod

ADAPTED = ("query", "value")
"""The projections that are adapted, by the terms of their biases."""


class Lora(WeightMethod):
    """PEFT's LoRA without dropout.

    A projection that a family fuses with others (GPT-2's ``c_attn``) is adapted whole, as PEFT does.

    Args:
        rank: Of the matrices.
        alpha: Their product is scaled by alpha / rank.
        terms: The projections that are adapted.

    Raises:
        InputError: A rank or alpha below 1, or an unknown term.
    """

    name = "lora"
    learning_rate = 5e-4
    """A usual one, not tuned here."""

    def __init__(self, rank: int = 8, alpha: int = 16, terms: Sequence[str] = ADAPTED) -> None:
        if rank < 1 or alpha < 1:
            raise InputError(f"LoRA: rank {rank} and alpha {alpha}; each must be 1 or more")
        self.rank, self.alpha = rank, alpha
        self.terms = tuple(known_name(term, TERMS, "term") for term in terms)

    def modules(self, model: nn.Module) -> list[str]:
        """Paths of the adapted projections in the model.

        Raises:
            InputError: The model's structure is unknown, or it has no such projection.
        """
        match = match_layout(model)
        missing = [term for term in self.terms if term not in match.terms]
        if missing or not self.terms:
            raise InputError(f"LoRA: {match.layout.name} has no projection {', '.join(missing) or 'that is named'}")
        found = sorted((at for term in self.terms for at in match.find(term)), key=lambda at: at.layer or 0)
        return list(dict.fromkeys(at.module for at in found))

    def start(self, classifier: Classifier, head: Sequence[str], batch: Batch, seed: int) -> WeightsState:
        """PEFT's own initialisation, drawn from the seed: A at random, B zero."""
        with self._injected(classifier.model, seed) as parameters:
            return WeightsState({name: parameter.detach().clone() for name, parameter in parameters.items()})

    def attached(self, classifier: Classifier, state: WeightsState) -> AbstractContextManager[list[TrainedWeights]]:
        """Within the context the projections are PEFT's; afterwards the base has its own modules again."""
        return self._attached(classifier, state)

    @contextmanager
    def _attached(self, classifier: Classifier, state: WeightsState) -> Iterator[list[TrainedWeights]]:
        with self._injected(classifier.model, 0) as parameters:
            if set(parameters) != set(state.values):
                raise InputError("LoRA: the trained matrices belong to another base; attach them to their own")
            trained = [
                TrainedWeights(name, parameter, state.values[name].to(parameter.device))
                for name, parameter in parameters.items()
            ]
            yield trained

    @contextmanager
    def _injected(self, model: nn.Module, seed: int) -> Iterator[dict[str, nn.Parameter]]:
        """LoRA's parameters by their names in the model."""
        from peft import LoraConfig, get_peft_model

        targets = self.modules(model)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            target_modules=targets,
            fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
        )
        with seeded(seed, input_device(model)):
            wrapped = get_peft_model(model, config)
        try:
            yield {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        finally:
            wrapped.unload()
