"""The bank: puts trained vectors behind frozen modules, and takes them off bit for bit.

A module that is touched gets a ``forward`` of its own (an instance attribute) that computes ``W x + (bias + delta)``.
No parameter of the base is written or replaced, so that taking the attribute off gives back the base as it was.

A bank may hold many vectors for each site (of many runs, or many adapters). Each row of a batch is then computed with
the one that ``choose`` names for it; the product with the frozen weight is one for all rows.
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
from beft.row_axes import FLAT, RowAxis, spread_rows
from beft.sites import BiasSite, read_bias, site_module


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
            in (``beft.row_axes``).

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
        self._choice = _Choice(self.vectors)
        self._sites: dict[str, list[BiasSite]] = {}
        for site, delta in sorted(self.deltas.items(), key=lambda item: (item[0].module, item[0].start)):
            _check_delta(model, site, delta, self.vectors)
            before = self._sites.setdefault(site.module, [])
            if before and before[-1].stop > site.start:
                raise InputError(f"the bias sites {before[-1].name} and {site.name} overlap.")
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
            if "forward" in module.__dict__:
                raise InputError(f"{path}: a bank (or another tool's forward) is attached already; detach it first.")
            if path in self._sites:
                forwards[path] = (module, self._with_deltas(path, module))
            else:
                for parameter, tensor in self._replaced[path].items():
                    _check_device(f"{path}.{parameter}", tensor, module)
                kind = _HeadForward if self.vectors == 1 else _HeadsForward
                forwards[path] = (module, kind(path, module, self._replaced[path], self._choice))
        for module, forward in forwards.values():
            module.forward = forward
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
        self._choice.of(vectors, next(self.model.parameters()).device)
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
        if self.vectors == 1:
            return _FORWARDS[type(module)](module, _Bias(pieces))
        return _RowsForward(path, module, _Bias(pieces), self._choice, self._axes[path])


class _Choice:
    """Which vector each row of a batch is computed with."""

    def __init__(self, vectors: int) -> None:
        self.vectors = vectors
        self.rows: Tensor | None = None
        self.places: Tensor | None = None
        self.most = 0

    def of(self, rows: Tensor, device: torch.device) -> None:
        """Choose; rows of one vector also get places side by side, for products of one matrix a vector."""
        rows = rows.cpu()  # counted here, so that a GPU is not waited for
        counts = torch.bincount(rows, minlength=self.vectors)
        self.most = int(counts.max()) if len(rows) else 0
        order = torch.argsort(rows, stable=True)
        starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        places = torch.empty_like(rows)
        places[order] = rows[order] * self.most + torch.arange(len(rows)) - starts
        self.rows, self.places = rows.to(device), places.to(device)

    def for_rows(self, rows: int, path: str) -> Tensor:
        """The chosen vector of each row."""
        if self.rows is None or len(self.rows) != rows:
            chosen = "none" if self.rows is None else str(len(self.rows))
            raise InputError(f"{path}: {rows} rows, but a vector was chosen for {chosen}; call choose() first.")
        return self.rows


class _Bias:
    """The bias of one module: pieces of the base's own (widened), each with or without a delta, or many of them."""

    def __init__(self, pieces: list[tuple[Tensor | None, Tensor | None]]) -> None:
        self.pieces = pieces

    def __call__(self, dtype: torch.dtype) -> Tensor:
        """Of shape [width], or [vectors, width] where there are many."""
        if len(self.pieces) == 1:
            return _sum(*self.pieces[0]).to(dtype)
        parts = [_sum(base, delta).to(dtype) for base, delta in self.pieces]
        vectors = max((part.shape[:-1] for part in parts), key=len)
        return torch.cat([part.expand(*vectors, part.shape[-1]) for part in parts], dim=-1)


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


class _RowsForward:
    """A module whose rows each have a bias of their own: one product for all, then the bias of each row."""

    def __init__(self, path: str, module: nn.Module, bias: _Bias, choice: _Choice, axis: RowAxis) -> None:
        self.path = path
        self.module = module
        self.bias = bias
        self.choice = choice
        self.axis = axis

    def __call__(self, input: Tensor) -> Tensor:
        module = self.module
        weight: Tensor = module.weight  # type: ignore[assignment]
        if isinstance(module, nn.LayerNorm):
            output = F.layer_norm(input, module.normalized_shape, weight, None, module.eps)
        else:
            output = F.linear(input, weight.T if isinstance(module, Conv1D) else weight)
        if self.axis == FLAT:
            rows = 0 if self.choice.rows is None else len(self.choice.rows)
        else:
            assert self.axis is not None
            rows = output.shape[self.axis]
        bias = spread_rows(self.bias(weight.dtype)[self.choice.for_rows(rows, self.path)], output, self.axis)
        if bias is None:
            raise InputError(f"{self.path}: its output of shape {tuple(output.shape)} has no axis of {rows} rows.")
        return output.add_(bias)


class _HeadForward:
    """A module whose weight, bias or both are replaced; computed in the type of the weight."""

    def __init__(self, path: str, module: nn.Module, replaced: Mapping[str, Tensor], choice: _Choice) -> None:
        self.path = path
        self.module = module
        self.replaced = dict(replaced)
        self.choice = choice

    def __call__(self, input: Tensor) -> Tensor:
        module = self.module
        weight: Tensor = self.replaced.get("weight", module.weight)  # type: ignore[arg-type]
        bias: Tensor | None = self.replaced.get("bias", module.bias)  # type: ignore[arg-type]
        input = input.to(weight.dtype)
        bias = None if bias is None else bias.to(weight.dtype)
        if isinstance(module, nn.LayerNorm):
            return F.layer_norm(input, module.normalized_shape, weight, bias, module.eps)
        return F.linear(input, weight.T if isinstance(module, Conv1D) else weight, bias)


class _HeadsForward(_HeadForward):
    """The same with many heads: the rows of each head side by side, and one batched product for all heads.

    The rows of a batch are on the first axis of what a head sees.
    """

    def __call__(self, input: Tensor) -> Tensor:
        module, choice = self.module, self.choice
        rows = choice.for_rows(len(input), self.path)
        weight: Tensor = self.replaced.get("weight", module.weight)  # type: ignore[arg-type]
        bias: Tensor | None = self.replaced.get("bias", module.bias)  # type: ignore[arg-type]
        input = input.to(weight.dtype)
        if isinstance(module, nn.LayerNorm):
            output = F.layer_norm(input, module.normalized_shape, None, None, module.eps)
            output = output * self._of_rows("weight", weight, rows, output)
        elif "weight" not in self.replaced:
            output = F.linear(input, weight.T if isinstance(module, Conv1D) else weight)
        else:
            assert choice.places is not None
            beside = input.new_zeros(choice.vectors * choice.most, *input.shape[1:])
            beside = beside.index_copy(0, choice.places, input).view(choice.vectors, -1, input.shape[-1])
            product = torch.bmm(beside, weight if isinstance(module, Conv1D) else weight.transpose(1, 2))
            output = product.view(choice.vectors * choice.most, *input.shape[1:-1], -1)[choice.places]
        return output if bias is None else output + self._of_rows("bias", bias.to(weight.dtype), rows, output)

    def _of_rows(self, parameter: str, tensor: Tensor, rows: Tensor, output: Tensor) -> Tensor:
        if parameter not in self.replaced:
            return tensor
        return tensor[rows].view(len(rows), *[1] * (output.dim() - 2), output.shape[-1])


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


def _outputs(module: nn.Module) -> int:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.shape[-1] if type(module) is Conv1D else weight.shape[0]


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
    if type(module) not in _FORWARDS:
        known = ", ".join(kind.__name__ for kind in _FORWARDS)
        raise InputError(f"{path} is a {type(module).__name__}; a bank can stand behind {known}.")


def _check_device(name: str, tensor: Tensor, module: nn.Module) -> None:
    weight: Tensor = module.weight  # type: ignore[assignment]
    if tensor.device != weight.device:
        raise InputError(f"{name} is on {tensor.device}, but the model is on {weight.device}.")
