"""The bank: puts trained vectors behind frozen modules, and takes them off bit for bit.

A module that is touched gets a ``forward`` of its own (an instance attribute) that computes ``W x + (bias + delta)``,
inside of accelerate's hooks where the model is spread over several devices.
No parameter of the base is written or replaced, so that taking the attribute off gives back the base as it was.

A bank may hold many vectors for each site (of many runs, or many adapters). Each row of a batch is then computed with
the one that ``choose`` names for it; the product with the frozen weight is one for all rows.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from beft.bank.forwards import BankedBias, HeadForward, HeadsForward, RowAssignment, pieces_of, upcast_bias
from beft.bank.frozen_forwards import ONE_VECTOR, rows_forward
from beft.bank.moved import MovedBias, MovedChoice, MovedHead
from beft.errors import InputError
from beft.models.frozen_linear import FrozenLinear
from beft.names import known_name
from beft.sites.batch_axis import RowAxis
from beft.sites.layout import submodule
from beft.sites.offloading import attach_forward, attached_forward, detach_forward, input_device, module_device
from beft.sites.site import BiasSite, site_module


class Bank:
    """Trained vectors behind the frozen modules of a model; a context manager that attaches and detaches.

    The bias that a module computes with is its own, widened, plus the delta, summed in the wider of the two types and
    cast to the type of the weight. A parameter of ``head`` takes the place of the model's; a module whose weight is in
    ``head`` computes, and gives its output, in the type of that weight.

    Args:
        model: The model; its parameters should be frozen, and are neither written nor replaced.
        deltas: The change of each bias site: [width], or [vectors, width]; fp32 or wider; it may require a gradient.
        head: Full parameter names of the model to the tensors that stand in for them, each of the parameter's shape,
            or with an axis for the vectors before it.
        axes: With more than one vector: where the rows of a batch are in the output of each module that a site is
            in (``beft.sites.batch_axis``).

    Raises:
        InputError: A site, a name, a shape or a type does not fit the model, a module is of a class that the bank
            cannot compute, or one with many vectors does not keep the rows of a batch apart.
    """

    def __init__(
        self,
        model: nn.Module,
        deltas: Mapping[BiasSite, Tensor],
        head: Mapping[str, Tensor] | None = None,
        *,
        axes: Mapping[str, RowAxis] | None = None,
    ) -> None:
        self.model = model
        known = dict(model.named_parameters(remove_duplicate=False))
        self.vectors = _count_vectors(deltas, head or {}, known)
        self.deltas = {site: _lone(delta, 1, self.vectors) for site, delta in deltas.items()}
        self.head = {
            name: _lone(tensor, known[name].dim(), self.vectors) if name in known else tensor
            for name, tensor in (head or {}).items()
        }
        self._choice = RowAssignment(self.vectors)
        self._sites: dict[str, list[BiasSite]] = {}
        for site, delta in sorted(self.deltas.items(), key=lambda item: (item[0].module, item[0].start)):
            _check_delta(model, site, delta, self.vectors)
            before = self._sites.setdefault(site.module, [])
            if clash := next((other for other in before if other.overlaps(site)), None):
                raise InputError(f"the bias sites {clash.name} and {site.name} overlap.")
            before.append(site)
        self._replaced: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.head.items():
            known_name(name, known, "parameter of the head")
            shape = tuple(known[name].shape)
            if tuple(tensor.shape) != _stacked(shape, self.vectors):
                raise InputError(f"head {name}: shape {tuple(tensor.shape)}, but the model's {shape}.")
            path, _, parameter = name.rpartition(".")
            if path in self._sites:
                raise InputError(f"head {name}: bias sites of the same module are trained by a delta.")
            self._replaced.setdefault(path, {})[parameter] = tensor
        for path in (*self._sites, *self._replaced):
            _check_class(path, submodule(model, path))
        for path in self._replaced:
            if isinstance(submodule(model, path), FrozenLinear):
                raise InputError(
                    f"head {path}: it is quantised, and what is trained of a head must not be; use head.train: output, "
                    "or a base that is quantised without its head and pooler (base.quantization does so)"
                )
        self._axes = dict(axes or {})
        apart = [path for path in self._sites if self.vectors > 1 and self._axes.get(path) is None]
        if apart:
            raise InputError(f"{apart[0]} does not keep the rows of a batch apart: it can hold one vector at a time.")
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
            if attached_forward(module) is not None:
                raise InputError(f"{path}: a bank (or another tool's forward) is attached already; detach it first.")
            if path in self._sites:
                forwards[path] = (module, self._with_deltas(path, module))
            else:
                forwards[path] = (module, self._with_head(path, module))
        for module, forward in forwards.values():
            attach_forward(module, forward)
        self._attached = forwards
        return self

    def choose(self, vectors: Tensor) -> Self:
        """Say which vector each row of the batches to come is computed with.

        Args:
            vectors: Numbers of vectors, int64, [rows]; in any order and any mix.

        Raises:
            InputError: There is no such vector.
        """
        if len(vectors) and not 0 <= int(vectors.min()) <= int(vectors.max()) < self.vectors:
            raise InputError(f"the bank holds {self.vectors} vectors; they are numbered from 0.")
        self._choice.of(vectors, input_device(self.model))
        return self

    def detach(self) -> None:
        """Give back the base bit for bit; nothing happens when the bank is not attached."""
        for module, forward in self._attached.values():
            if attached_forward(module) is forward:
                detach_forward(module)
        self._attached = {}

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _with_deltas(self, path: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        sites = self._sites[path]
        for site in sites:
            _check_device(site.name, self.deltas[site], module)
        own = upcast_bias(module)
        pieces, order = pieces_of(sites, self.deltas, own)
        device = module_device(module)
        elsewhere = any(self.deltas[site].device != device for site in sites)
        bias = MovedBias(pieces, order, device) if elsewhere else BankedBias(pieces, order)
        if self.vectors == 1:
            return ONE_VECTOR[type(module)](module, bias)
        return rows_forward(module)(path, module, bias, self._choice_on(device), self._axes[path])

    def _with_head(self, path: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        replaced, device = self._replaced[path], module_device(module)
        for parameter, tensor in replaced.items():
            _check_device(f"{path}.{parameter}", tensor, module)
        kind: type[HeadForward] = HeadForward if self.vectors == 1 else HeadsForward
        choice = self._choice_on(device)
        if any(tensor.device != device for tensor in replaced.values()):
            return MovedHead(lambda moved: kind(path, module, moved, choice), replaced, device)
        return kind(path, module, replaced, choice)

    def _choice_on(self, device: torch.device) -> RowAssignment:
        return self._choice if device == input_device(self.model) else MovedChoice(self._choice, device)


def _count_vectors(deltas: Mapping[BiasSite, Tensor], head: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> int:
    """How many vectors there are for each site; all tensors must agree."""
    counts = {len(delta) if delta.dim() == 2 else 1 for delta in deltas.values()}
    counts |= {len(tensor) if tensor.dim() > known[name].dim() else 1 for name, tensor in head.items() if name in known}
    if len(counts) > 1 or 0 in counts:
        raise InputError(f"a bank holds as many vectors for one site as for another, not {sorted(counts)}.")
    return counts.pop() if counts else 1


def _stacked(shape: tuple[int, ...], vectors: int) -> tuple[int, ...]:
    return shape if vectors == 1 else (vectors, *shape)


def _lone(tensor: Tensor, dimensions: int, vectors: int) -> Tensor:
    """A tensor without the axis for the vectors when there is but one."""
    return tensor.squeeze(0) if vectors == 1 and tensor.dim() == dimensions + 1 else tensor


def _check_delta(model: nn.Module, site: BiasSite, delta: Tensor, vectors: int) -> None:
    site_module(model, site)
    if tuple(delta.shape) != _stacked((site.width,), vectors):
        raise InputError(f"delta of {site.name}: shape {tuple(delta.shape)}, but the site's is ({site.width},).")
    if delta.dtype not in (torch.float32, torch.float64):
        raise InputError(f"delta of {site.name}: {delta.dtype} is too narrow; it must be float32 or float64.")


def _check_class(path: str, module: nn.Module | None) -> None:
    # The exact class: a class made from nn.Linear (a quantised one, for example) computes in another way.
    if type(module) not in ONE_VECTOR:
        known = ", ".join(kind.__name__ for kind in ONE_VECTOR)
        raise InputError(f"{path} is a {type(module).__name__}; a bank can stand behind {known}.")


def _check_device(name: str, tensor: Tensor, module: nn.Module) -> None:
    device = module_device(module)
    # A module with a hook of accelerate is one of a model on several devices: the vectors are moved to it.
    if tensor.device != device and not hasattr(module, "_hf_hook"):
        raise InputError(f"{name} is on {tensor.device}, but the model is on {device}.")
