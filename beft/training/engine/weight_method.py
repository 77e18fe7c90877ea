"""What a baseline trains in a base: whole parameters, single weights of them, or weights that are put beside them.

The values that the optimiser moves are fp32 or wider ("master weights"), the base computes in its own precision. While
they are attached, the base's parameters point at other storage; afterwards they point at their own again, which was
never written.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from beft.bank.gradients import requires_grad_set
from beft.errors import InputError
from beft.inference.runs import WeightsState
from beft.models.classifier import Batch, Classifier
from beft.sites.matching import match_layout


class TrainedWeights:
    """One parameter while (some of) its weights are trained.

    Args:
        name: Its name in the model.
        parameter: What the model computes with.
        value: Master weights, of the parameter's shape, or [weights].
        index: Which weights of the flattened parameter are trained, int64, [weights]; None: all.

    Attributes:
        value: The tensor that the optimiser moves; the parameter itself where that has the same type and shape.
    """

    def __init__(self, name: str, parameter: nn.Parameter, value: Tensor, index: Tensor | None = None) -> None:
        self.name, self.parameter, self.index = name, parameter, index
        self._hook = None
        parameter.requires_grad_(True)
        if index is None and value.dtype == parameter.dtype:
            parameter.data = value
            self.value: Tensor = parameter
        else:
            parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
            self.value = value
            # Taken as soon as it is there: no gradient of the whole model is ever kept beside the master's.
            self._hook = parameter.register_post_accumulate_grad_hook(self._take_gradient)
            self.write()

    @torch.no_grad()
    def write(self) -> None:
        """Let the model compute with the values as they are now."""
        if self.value is self.parameter:
            return
        if self.index is None:
            self.parameter.copy_(self.value)
        else:
            self.parameter.view(-1)[self.index] = self.value.to(self.parameter.dtype)

    def release(self) -> None:
        """Freeze the parameter again."""
        if self._hook is not None:
            self._hook.remove()
        self.parameter.requires_grad_(False)
        self.parameter.grad = None

    def _take_gradient(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if self.index is not None:
            gradient = gradient.flatten()[self.index]
        gradient = gradient.to(self.value.dtype)
        self.value.grad = gradient if self.value.grad is None else self.value.grad.add_(gradient)
        parameter.grad = None


class WeightMethod(ABC):
    """A way to train weights.

    Attributes:
        name: What users call it.
        learning_rate: A usual one, for who names none.
        recomputable: Whether a layer may be computed a second time for the backward pass (activation checkpointing).
    """

    name: ClassVar[str]
    learning_rate: ClassVar[float]
    recomputable: ClassVar[bool] = True

    @abstractmethod
    def start(self, classifier: Classifier, head: Sequence[str], batch: Batch, seed: int) -> WeightsState:
        """Where the training starts; the model is left as it is.

        Args:
            head: Names of the head's parameters, which are trained beside and are none of the method's.
            batch: Some tokens, to see which parameters the logits depend on.
            seed: Of what the method draws.

        Raises:
            InputError: The method does not fit the base.
        """

    def attached(self, classifier: Classifier, state: WeightsState) -> AbstractContextManager[list[TrainedWeights]]:
        """Within the context the model computes with the state's values, and their gradients are kept.

        Afterwards the model is bit for bit as it was. The values may be changed in place.
        """
        return trained_parameters(classifier.model, state)


@contextmanager
def trained_parameters(
    model: nn.Module, state: WeightsState, *, keep_base: bool = True
) -> Iterator[list[TrainedWeights]]:
    """Let a model compute with other values of some of its own parameters.

    Args:
        keep_base: False gives the model's own values up, to save their memory; it keeps the trained ones.

    Raises:
        InputError: The model has no such parameter, or one of another shape.
    """
    named = dict(model.named_parameters())
    own: dict[str, Tensor] = {}
    trained: list[TrainedWeights] = []
    try:
        for name, value in state.values.items():
            parameter, index = named.get(name), state.indices.get(name)
            if parameter is None or (index is None and parameter.shape != value.shape):
                raise InputError(f"{name}: the trained weights belong to another base; attach them to their own")
            if keep_base:
                own[name] = parameter.data
            index = None if index is None else index.to(parameter.device)
            trained.append(TrainedWeights(name, parameter, value.to(parameter.device), index))
        yield trained
    finally:
        for one in trained:
            one.release()
        for name, data in own.items():
            named[name].data = data


def wide(parameter: Tensor) -> torch.dtype:
    """The type of master weights: fp32, or wider where the base is."""
    return torch.promote_types(parameter.dtype, torch.float32)


def used_parameters(classifier: Classifier, batch: Batch) -> dict[str, nn.Parameter]:
    """The model's parameters that the logits depend on, in the model's order; a pooler may be unused, for example.

    Raises:
        InputError: The base's weights are kept in a form that takes no gradient.
    """
    named = dict(classifier.model.named_parameters())
    trainable = {name: parameter for name, parameter in named.items() if parameter.is_floating_point()}
    with torch.enable_grad(), requires_grad_set(trainable.values(), on=True):
        gradients = torch.autograd.grad(classifier(batch).sum(), list(trainable.values()), allow_unused=True)
    used = {name: named[name] for name, gradient in zip(trainable, gradients, strict=True) if gradient is not None}
    match = match_layout(classifier.model)
    for found in (found for term in match.terms for found in match.find(term)):
        name = f"{found.module}.weight"
        if name not in used:
            raise InputError(
                f"{name} takes no gradient, so it cannot be trained: the base is quantised, or its weights are "
                "narrower than it computes; load it in fp32 or bf16, or train LoRA or bias terms"
            )
    return used


def of_base(classifier: Classifier, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those of the parameters that are the pre-trained base's, not the head's on top of it."""
    inside = {id(parameter) for parameter in classifier.model.base_model.parameters()}
    return {name: parameter for name, parameter in parameters.items() if id(parameter) in inside}
