"""The bank: puts trained vectors behind frozen modules, and takes them off bit for bit.

A module that is touched gets a ``forward`` of its own (an instance attribute) that computes ``W x + (bias + delta)``
in one fused call. No parameter of the base is written or replaced, so that taking the attribute off gives back the
base as it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from beft.errors import BeftError, InputError
from beft.families import submodule
from beft.names import known_name
from beft.sites import BiasSite, read_bias, site_module


class Bank:
    """Trained vectors behind the frozen modules of a model; a context manager that attaches and detaches.

    The bias that a module computes with is its own, widened, plus the delta, summed in the wider of the two types and
    cast to the type of the weight. A parameter of ``head`` takes the place of the model's; a module whose weight is in
    ``head`` computes, and gives its output, in the type of that weight.

    Args:
        model: The model; its parameters should be frozen, and are neither written nor replaced.
        deltas: The change of each bias site: [width], fp32 or wider; it may require a gradient.
        head: Full parameter names of the model to the tensors that stand in for them.

    Raises:
        InputError: A site, a name, a shape or a type does not fit the model, or a module is of a class that the bank
            cannot compute.
    """

    def __init__(
        self, model: nn.Module, deltas: Mapping[BiasSite, Tensor], head: Mapping[str, Tensor] | None = None
    ) -> None:
        self.model = model
        self.deltas = dict(deltas)
        self.head = dict(head or {})
        self._sites: dict[str, list[BiasSite]] = {}
        for site, delta in sorted(self.deltas.items(), key=lambda item: (item[0].module, item[0].start)):
            _check_delta(model, site, delta)
            before = self._sites.setdefault(site.module, [])
            if before and before[-1].stop > site.start:
                raise InputError(f"the bias sites {before[-1].name} and {site.name} overlap.")
            before.append(site)
        self._replaced: dict[str, dict[str, Tensor]] = {}
        known = dict(model.named_parameters(remove_duplicate=False))
        for name, tensor in self.head.items():
            known_name(name, known, "parameter of the head")
            if tensor.shape != known[name].shape:
                raise InputError(
                    f"head {name}: shape {tuple(tensor.shape)}, but the model's {tuple(known[name].shape)}."
                )
            path, _, parameter = name.rpartition(".")
            if path in self._sites:
                raise InputError(f"head {name}: bias sites of the same module are trained by a delta.")
            self._replaced.setdefault(path, {})[parameter] = tensor
        for path in (*self._sites, *self._replaced):
            _check_class(path, submodule(model, path))
        self._attached: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {}

    def attach(self) -> Self:
        """Put the vectors behind their modules.

        Raises:
            InputError: Something is attached to one of the modules already, or a vector is on another device.
        """
        if self._attached:
            raise InputError("the bank is attached already.")
        forwards: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {}
        for path in (*self._sites, *self._replaced):
            module = submodule(self.model, path)
            assert module is not None
            if "forward" in module.__dict__:
                raise InputError(f"{path}: a bank (or another tool's forward) is attached already; detach it first.")
            if path in self._sites:
                forwards[path] = (module, self._with_deltas(path, module))
            else:
                forwards[path] = (module, _with_head(path, module, self._replaced[path]))
        for module, forward in forwards.values():
            module.forward = forward
        self._attached = forwards
        return self

    def detach(self) -> None:
        """Give back the base bit for bit; nothing happens when the bank is not attached."""
        for module, forward in self._attached.values():
            if module.__dict__.get("forward") is forward:
                del module.__dict__["forward"]
        self._attached = {}

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _with_deltas(self, path: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        pieces: list[tuple[Tensor | None, Tensor | None]] = []
        position = 0
        sites = self._sites[path]
        for site in sites:
            _check_device(site.name, self.deltas[site], module)
            if site.start > position:
                pieces.append((_wide_bias(module, site, position, site.start), None))
            base = None if site.added else _wide_bias(module, site, site.start, site.stop)
            pieces.append((base, self.deltas[site]))
            position = site.stop
        outputs = _outputs(module)
        if position < outputs:
            pieces.append((_wide_bias(module, sites[-1], position, outputs), None))
        return _FORWARDS[type(module)](module, _Bias(pieces))


class _Bias:
    """The bias of one module: pieces of the base's own (widened), each with or without a delta."""

    def __init__(self, pieces: list[tuple[Tensor | None, Tensor | None]]) -> None:
        self.pieces = pieces

    def __call__(self, dtype: torch.dtype) -> Tensor:
        if len(self.pieces) == 1:
            return _sum(*self.pieces[0]).to(dtype)
        return torch.cat([_sum(base, delta).to(dtype) for base, delta in self.pieces])


class _LinearForward:
    def __init__(self, module: nn.Module, bias: _Bias) -> None:
        self.module = module
        self.bias = bias

    def __call__(self, input: Tensor) -> Tensor:
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return F.linear(input, weight, self.bias(weight.dtype))


class _Conv1DForward(_LinearForward):
    def __call__(self, x: Tensor) -> Tensor:
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        rows = torch.addmm(self.bias(weight.dtype), x.reshape(-1, x.shape[-1]), weight)
        return rows.view(*x.shape[:-1], weight.shape[1])


class _LayerNormForward(_LinearForward):
    def __call__(self, input: Tensor) -> Tensor:
        module: nn.LayerNorm = self.module  # type: ignore[assignment]
        weight = module.weight
        return F.layer_norm(input, module.normalized_shape, weight, self.bias(weight.dtype), module.eps)


class _HeadForward:
    """A module whose weight, bias or both are replaced; computed in the type of the weight."""

    def __init__(self, module: nn.Module, replaced: Mapping[str, Tensor]) -> None:
        self.module = module
        self.replaced = dict(replaced)

    def __call__(self, input: Tensor) -> Tensor:
        module = self.module
        weight: Tensor = self.replaced.get("weight", module.weight)  # type: ignore[arg-type]
        bias: Tensor | None = self.replaced.get("bias", module.bias)  # type: ignore[arg-type]
        input = input.to(weight.dtype)
        bias = None if bias is None else bias.to(weight.dtype)
        if isinstance(module, nn.LayerNorm):
            return F.layer_norm(input, module.normalized_shape, weight, bias, module.eps)
        return F.linear(input, weight.T if isinstance(module, Conv1D) else weight, bias)


_FORWARDS: dict[type[nn.Module], Callable[[nn.Module, _Bias], Callable[[Tensor], Tensor]]] = {
    nn.Linear: _LinearForward,
    Conv1D: _Conv1DForward,
    nn.LayerNorm: _LayerNormForward,
}


@dataclass(frozen=True)
class FoldReport:
    """What folding wrote, and how far the written values are from the exact sums.

    Args:
        dtype: The type in which each site's bias was written, by site name.
        rounding: The greatest absolute error of each site's bias, by site name.
        added: Paths of the modules that had no bias and now have one.
    """

    dtype: dict[str, str]
    rounding: dict[str, float]
    added: tuple[str, ...]

    @property
    def largest(self) -> float:
        """The greatest absolute error of all."""
        return max(self.rounding.values(), default=0.0)


def fold(model: nn.Module, deltas: Mapping[BiasSite, Tensor], head: Mapping[str, Tensor] | None = None) -> FoldReport:
    """Write the deltas (and the head) into the model's own parameters, for export; the model keeps its types.

    Args:
        model: The model, changed in place. Nothing is changed when an error is raised.
        deltas: The change of each bias site, as for ``Bank``.
        head: Parameters that replace the model's own, as for ``Bank``.

    Raises:
        InputError: As ``Bank``; or a bank is attached, whose deltas would then count twice.
        BeftError: A sum is too large for the type of the model.
    """
    Bank(model, deltas, head).attach().detach()
    sums: dict[BiasSite, Tensor] = {}
    written: dict[BiasSite, Tensor] = {}
    for site, delta in deltas.items():
        module = site_module(model, site)
        target: Tensor = module.weight if site.added else module.bias  # type: ignore[assignment]
        sums[site] = _sum(read_bias(model, site), delta.detach())
        written[site] = sums[site].to(target.dtype)
        if not torch.isfinite(written[site]).all():
            raise BeftError(f"{site.name}: the folded bias is not finite in {target.dtype}; fold into a wider type.")
    added: dict[str, None] = {}
    with torch.no_grad():
        for site, values in written.items():
            module = model.get_submodule(site.module)
            if module.bias is None:
                module.bias = nn.Parameter(values.new_zeros(_outputs(module)), requires_grad=False)
                added[site.module] = None
            module.bias[site.start : site.stop] = values  # type: ignore[operator]
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, tensor in (head or {}).items():
            parameters[name].copy_(tensor.detach())
    return FoldReport(
        dtype={site.name: str(values.dtype).removeprefix("torch.") for site, values in written.items()},
        rounding={
            site.name: float((sums[site] - values.to(sums[site].dtype)).abs().max()) for site, values in written.items()
        },
        added=tuple(added),
    )


def _sum(base: Tensor | None, delta: Tensor | None) -> Tensor:
    if base is None:
        assert delta is not None
        return delta
    return base if delta is None else base + delta


def _wide_bias(module: nn.Module, site: BiasSite, start: int, stop: int) -> Tensor:
    """Components start to stop of the module's own bias, widened; zeros where it has none."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if site.added:
        return torch.zeros(stop - start, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
    bias: Tensor = module.bias  # type: ignore[assignment]
    return bias.detach()[start:stop].to(torch.promote_types(bias.dtype, torch.float32))


def _with_head(path: str, module: nn.Module, replaced: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    for parameter, tensor in replaced.items():
        _check_device(f"{path}.{parameter}", tensor, module)
    return _HeadForward(module, replaced)


def _outputs(module: nn.Module) -> int:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.shape[-1] if type(module) is Conv1D else weight.shape[0]


def _check_delta(model: nn.Module, site: BiasSite, delta: Tensor) -> None:
    site_module(model, site)
    if delta.shape != (site.width,):
        raise InputError(f"delta of {site.name}: shape {tuple(delta.shape)}, but the site's is ({site.width},).")
    if delta.dtype not in (torch.float32, torch.float64):
        raise InputError(f"delta of {site.name}: {delta.dtype} is too narrow; it must be float32 or float64.")


def _check_class(path: str, module: nn.Module | None) -> None:
    # The exact class: a class made from nn.Linear (a quantised one, for example) computes in another way.
    if type(module) not in _FORWARDS:
        known = ", ".join(kind.__name__ for kind in _FORWARDS)
        raise InputError(f"{path} is a {type(module).__name__}; a bank can stand behind {known}.")


def _check_device(name: str, tensor: Tensor, module: nn.Module) -> None:
    weight: Tensor = module.weight  # type: ignore[assignment]
    if tensor.device != weight.device:
        raise InputError(f"{name} is on {tensor.device}, but the model is on {weight.device}.")
