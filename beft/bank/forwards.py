"""What a module computes while a bank stands behind it: the same product with its frozen weight, another bias.

The bias is the module's own, widened, plus a delta: one for all rows, or one of many for each row.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from beft.errors import InputError
from beft.sites.batch_axis import FLATTENED, RowAxis, spread_rows
from beft.sites.offloading import module_device, parameter_value
from beft.sites.site import BiasSite

Piece = tuple[Tensor | None, Tensor | None]
"""Some components of a module's own bias (widened), and their delta; either may be missing, not both."""


class RowAssignment:
    """Which vector each row of a batch is computed with."""

    def __init__(self, vectors: int) -> None:
        self.vectors = vectors
        self.rows: Tensor | None = None
        self.places: Tensor | None = None
        self.max_rows = 0

    def of(self, rows: Tensor, device: torch.device) -> None:
        """Choose; rows of one vector also get places side by side, for products of one matrix a vector."""
        rows = rows.cpu()  # counted here, so that a GPU is not waited for
        counts = torch.bincount(rows, minlength=self.vectors)
        self.max_rows = int(counts.max()) if len(rows) else 0
        order = torch.argsort(rows, stable=True)
        starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        places = torch.empty_like(rows)
        places[order] = rows[order] * self.max_rows + torch.arange(len(rows)) - starts
        self.rows, self.places = rows.to(device), places.to(device)

    def for_rows(self, rows: int, path: str) -> Tensor:
        """The chosen vector of each row."""
        if self.rows is None or len(self.rows) != rows:
            chosen = "none" if self.rows is None else str(len(self.rows))
            raise InputError(f"{path}: {rows} rows, but a vector was chosen for {chosen}; call choose() first.")
        return self.rows


class BankedBias:
    """The bias of one module: pieces of the base's own (widened), each with or without a delta, or many of them.

    Args:
        pieces: What is joined.
        order: Where each component of the bias is in the joined pieces; None: in their order.
    """

    def __init__(self, pieces: list[Piece], order: Tensor | None = None) -> None:
        self.pieces = pieces
        self.order = order

    def __call__(self, dtype: torch.dtype) -> Tensor:
        """Of shape [width], or [vectors, width] where there are many."""
        if len(self.pieces) == 1:
            return upcast_sum(*self.pieces[0]).to(dtype)
        parts = [upcast_sum(base, delta).to(dtype) for base, delta in self.pieces]
        vectors = max((part.shape[:-1] for part in parts), key=len)
        joined = torch.cat([part.expand(*vectors, part.shape[-1]) for part in parts], dim=-1)
        return joined if self.order is None else joined.index_select(-1, self.order)

    def of_rows(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """The bias of each row, [rows, width], where there are many vectors.

        Args:
            rows: The number of each row's vector.
        """
        return self(dtype)[rows]


def pieces_of(
    sites: Sequence[BiasSite], deltas: Mapping[BiasSite, Tensor], own: Tensor
) -> tuple[list[Piece], Tensor | None]:
    """What the bias of a module is made of.

    Args:
        sites: The module's sites that have a delta, by their start; they do not overlap.
        deltas: [width] or [vectors, width] a site.
        own: The module's own bias, widened, [outputs]; zeros where it has none.

    Returns:
        The pieces and their order, as ``BankedBias`` takes them.
    """
    places = torch.arange(len(own))
    with_gaps = any(site.stride for site in sites)
    pieces: list[Piece] = []
    position = 0
    for site in sites:
        if site.start > position and not with_gaps:
            pieces.append((own[position : site.start], None))
        pieces.append((None if site.added else site.take(own), deltas[site]))
        position = site.stop
    if not with_gaps:
        if position < len(own):
            pieces.append((own[position:], None))
        return pieces, None
    of_sites = torch.cat([site.take(places) for site in sites])
    rest = places[~torch.isin(places, of_sites)]
    if len(rest):
        pieces.append((own[rest.to(own.device)], None))
    return pieces, torch.cat([of_sites, rest]).argsort().to(own.device)


class LinearForward:
    """A linear layer with one bias for all rows, in one fused call."""

    def __init__(self, module: nn.Module, bias: BankedBias) -> None:
        self.module = module
        self.bias = bias

    def __call__(self, input: Tensor) -> Tensor:
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return F.linear(input, weight, self.bias(weight.dtype))


class Conv1DForward(LinearForward):
    """GPT-2's linear layer, whose weight is [inputs, outputs]."""

    def __call__(self, x: Tensor) -> Tensor:
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        rows = torch.addmm(self.bias(weight.dtype), x.reshape(-1, x.shape[-1]), weight)
        return rows.view(*x.shape[:-1], weight.shape[1])


class LayerNormForward(LinearForward):
    """A layer norm with one bias for all rows."""

    def __call__(self, input: Tensor) -> Tensor:
        module: nn.LayerNorm = self.module  # type: ignore[assignment]
        weight = module.weight
        return F.layer_norm(input, module.normalized_shape, weight, self.bias(weight.dtype), module.eps)


class RowsForward:
    """A module whose rows each have a bias of their own: one product for all, then the bias of each row."""

    def __init__(self, path: str, module: nn.Module, bias: BankedBias, choice: RowAssignment, axis: RowAxis) -> None:
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
        if self.axis == FLATTENED:
            rows = 0 if self.choice.rows is None else len(self.choice.rows)
        else:
            assert self.axis is not None
            rows = output.shape[self.axis]
        bias = spread_rows(self.bias.of_rows(self.choice.for_rows(rows, self.path), weight.dtype), output, self.axis)
        if bias is None:
            raise InputError(f"{self.path}: its output of shape {tuple(output.shape)} has no axis of {rows} rows.")
        return output.add_(bias)


class HeadForward:
    """A module whose weight, bias or both are replaced; computed in the type of the weight."""

    def __init__(self, path: str, module: nn.Module, replaced: Mapping[str, Tensor], choice: RowAssignment) -> None:
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


class HeadsForward(HeadForward):
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
            padded = input.new_zeros(choice.vectors * choice.max_rows, *input.shape[1:])
            padded = padded.index_copy(0, choice.places, input).view(choice.vectors, -1, input.shape[-1])
            product = torch.bmm(padded, weight if isinstance(module, Conv1D) else weight.transpose(1, 2))
            output = product.view(choice.vectors * choice.max_rows, *input.shape[1:-1], -1)[choice.places]
        return output if bias is None else output + self._of_rows("bias", bias.to(weight.dtype), rows, output)

    def _of_rows(self, parameter: str, tensor: Tensor, rows: Tensor, output: Tensor) -> Tensor:
        if parameter not in self.replaced:
            return tensor
        return tensor[rows].view(len(rows), *[1] * (output.dim() - 2), output.shape[-1])


FORWARDS: dict[type[nn.Module], Callable[[nn.Module, BankedBias], Callable[[Tensor], Tensor]]] = {
    nn.Linear: LinearForward,
    Conv1D: Conv1DForward,
    nn.LayerNorm: LayerNormForward,
}
"""The classes of modules that a bank can stand behind, and what each computes with one vector."""


def upcast_sum(base: Tensor | None, delta: Tensor | None) -> Tensor:
    """A widened bias plus its delta, either of which may be missing, not both."""
    if base is None:
        assert delta is not None
        return delta
    return base if delta is None else base + delta


def upcast_bias(module: nn.Module) -> Tensor:
    """A module's own bias, widened, [outputs]; zeros where it has none."""
    if module.bias is None:
        weight: Tensor = module.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        return torch.zeros(outputs_of(module), dtype=wide, device=module_device(module))
    bias = parameter_value(module, "bias")
    return bias.to(torch.promote_types(bias.dtype, torch.float32))


def outputs_of(module: nn.Module) -> int:
    """How many outputs a module with a weight has."""
    if isinstance(module, nn.Linear):
        return module.out_features  # a quantised weight has another shape
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.shape[-1] if type(module) is Conv1D else weight.shape[0]
