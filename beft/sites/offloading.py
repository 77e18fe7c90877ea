"""Where the parts of a model are when accelerate has spread it over several devices, and how its hooks are got past.

accelerate gives a module a ``forward`` of its own, an instance attribute, which moves the inputs to the module's
device (and loads weights that are kept in memory or on disk), and then calls ``_old_forward``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[..., Any]


def attached_forward(module: nn.Module) -> Forward | None:
    """The forward that was put in the place of a module's own, other than by accelerate; None without one."""
    forward: Forward | None = module.__dict__.get(_slot(module))
    own = forward is not None and getattr(forward, "__self__", None) is module
    return None if own else forward


def attach_forward(module: nn.Module, forward: Forward) -> None:
    """Put a forward in the place of a module's own, inside of accelerate's hooks."""
    setattr(module, _slot(module), forward)


def detach_forward(module: nn.Module) -> None:
    """Give a module its own forward back."""
    if _slot(module) == "forward":
        del module.__dict__["forward"]
    else:
        module.__dict__["_old_forward"] = type(module).forward.__get__(module)


def _slot(module: nn.Module) -> str:
    return "_old_forward" if "_old_forward" in module.__dict__ else "forward"


def is_spread(model: nn.Module) -> bool:
    """Whether the parts of a model may be on several devices."""
    return getattr(model, "hf_device_map", None) is not None


def input_device(model: Any) -> torch.device:
    """Where a model takes its inputs, and gives its logits: where its embeddings compute."""
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if embeddings is not None and any(True for _ in embeddings.parameters()):
        return module_device(embeddings)
    device: torch.device = next(model.parameters()).device
    return device


def module_device(module: nn.Module) -> torch.device:
    """Where a module computes, also while its weights are kept elsewhere."""
    for hook in _hooks(module):
        if getattr(hook, "execution_device", None) is not None:
            device = hook.execution_device
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return next(module.parameters()).device


def parameter_value(module: nn.Module, name: str) -> Tensor:
    """A module's parameter where the module computes, loaded where it is kept elsewhere."""
    parameter: Tensor = getattr(module, name)
    if parameter.device.type != "meta":
        return parameter.detach()
    for hook in _hooks(module):
        if getattr(hook, "weights_map", None) is not None:
            value: Tensor = hook.weights_map[name]
            return value.to(module_device(module), parameter.dtype)
    return parameter.detach()


def shared_by_hooks(model: nn.Module) -> list[Any]:
    """What the hooks of a model refer to and a copy of the model may share: the weights that are kept elsewhere."""
    found = [
        getattr(hook, name, None)
        for module in model.modules()
        for hook in _hooks(module)
        for name in ("weights_map", "tied_params_map")
    ]
    return [one for one in found if one is not None]


def load_outside_of_modes(model: nn.Module) -> None:
    """Keep torch function modes, such as that of inertness, out of the reading of weights that are kept elsewhere."""
    for module in model.modules():
        for hook in _hooks(module):
            if getattr(hook, "weights_map", None) is not None:
                hook.weights_map = _OutsideOfModes(hook.weights_map)


class _OutsideOfModes(Mapping[str, Tensor]):
    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    def __getitem__(self, name: str) -> Tensor:
        with torch._C.DisableTorchFunction():
            return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def _hooks(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))
