"""Methods of PEFT that put layers of their own in the place of some of the base's: what all of them share."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, ClassVar

from torch import nn
from transformers.pytorch_utils import Conv1D

from beft.errors import InputError
from beft.inference.runs import WeightsState
from beft.models.classifier import Batch, Classifier
from beft.process_state import seeded
from beft.sites.layout import submodule
from beft.sites.matching import match_layout
from beft.sites.offloading import input_device
from beft.training.engine.weight_method import TrainedWeights, WeightMethod, wide

if TYPE_CHECKING:
    from peft import PeftConfig


class PeftLayers(WeightMethod):
    """A method whose layers are PEFT's own; which modules they replace follows from the base's layout.

    A module that a family fuses of several projections (GPT-2's ``c_attn``) is adapted whole, as PEFT does.

    Attributes:
        title: What messages call it.
    """

    title: ClassVar[str]

    @abstractmethod
    def modules(self, model: nn.Module) -> list[str]:
        """Paths of the adapted modules in the model.

        Raises:
            InputError: The model's structure is unknown, or it has no such module.
        """

    @abstractmethod
    def config(self, model: nn.Module, modules: list[str]) -> "PeftConfig":
        """PEFT's configuration.

        Args:
            modules: Paths of the adapted modules.
        """

    def start(self, classifier: Classifier, head: Sequence[str], batch: Batch, seed: int) -> WeightsState:
        """PEFT's own initialisation; what it draws is drawn from the seed."""
        with self._injected(classifier.model, seed) as parameters:
            return WeightsState(
                {name: parameter.detach().to(wide(parameter), copy=True) for name, parameter in parameters.items()}
            )

    def attached(self, classifier: Classifier, state: WeightsState) -> AbstractContextManager[list[TrainedWeights]]:
        """Within the context the adapted modules are PEFT's; afterwards the base has its own modules again."""
        return self._attached(classifier, state)

    @contextmanager
    def _attached(self, classifier: Classifier, state: WeightsState) -> Iterator[list[TrainedWeights]]:
        with self._injected(classifier.model, 0) as parameters:
            shapes = {name: parameter.shape for name, parameter in parameters.items()}
            if shapes != {name: value.shape for name, value in state.values.items()}:
                raise InputError(f"{self.title}: the trained weights belong to another base; attach them to their own")
            yield [
                TrainedWeights(name, parameter, state.values[name].to(parameter.device))
                for name, parameter in parameters.items()
            ]

    @contextmanager
    def _injected(self, model: nn.Module, seed: int) -> Iterator[dict[str, nn.Parameter]]:
        """The method's parameters by their names in the model."""
        from peft import get_peft_model

        modules = self.modules(model)
        config = self.config(model, modules)
        own = {path: model.get_submodule(path) for path in modules}
        try:
            with seeded(seed, input_device(model)), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Unsupported layer type")  # LN-tuning of RMS norms
                get_peft_model(model, config)
            yield {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        finally:
            # Not by PEFT's unload, which IA3 refuses on a quantised base.
            for path, module in own.items():
                model.set_submodule(path, module)
            if hasattr(model, "peft_config"):
                del model.peft_config


def modules_of(model: nn.Module, terms: Sequence[str], title: str) -> list[str]:
    """Paths of the modules that hold bias terms, with a bias or without one, in the order of the layers.

    Args:
        title: What messages call the method that adapts them.

    Raises:
        InputError: The model's structure is unknown, or it has no such module.
    """
    match = match_layout(model)
    missing = [term for term in terms if not match.find(term)]
    if missing or not terms:
        raise InputError(f"{title}: {match.layout.name} has no {', '.join(missing) or 'module that is named'}")
    found = sorted((at for term in terms for at in match.find(term)), key=lambda at: at.layer or 0)
    return list(dict.fromkeys(at.module for at in found if submodule(model, at.module) is not None))


def stores_inputs_first(model: nn.Module, modules: Sequence[str]) -> bool:
    """Whether the weights of these modules are stored as [inputs, outputs], as Conv1D does (GPT-2)."""
    return isinstance(model.get_submodule(modules[0]), Conv1D)
