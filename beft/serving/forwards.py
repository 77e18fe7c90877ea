"""What a module computes for a batch whose rows are of many adapters."""

from collections.abc import Callable, Sequence
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from beft.bank.forwards import BankedBias, RowAssignment
from beft.errors import InputError
from beft.serving.served_adapter import ServedAdapter
from beft.serving.vector_table import VectorTable
from beft.sites.batch_axis import RowAxis
from beft.sites.site import BiasSite

OwnForward = Callable[[Tensor], Tensor]


class ServedBatch(RowAssignment):
    """Which adapter each sequence of the running batch is of, and their vectors: gathered once, before the forward.

    Attributes:
        deltas: Of each touched module: the sites, each with the delta of every sequence, [sequences, width].
        groups: The distinct adapters, each with the numbers of its sequences, int64.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self.deltas: dict[str, list[tuple[BiasSite, Tensor]]] = {}
        self.groups: list[tuple[ServedAdapter, Tensor]] = []

    def set(self, adapters: Sequence[ServedAdapter], tables: dict[BiasSite, VectorTable]) -> None:
        """Name the adapter of each sequence."""
        self.clear()
        self.rows = torch.arange(len(adapters))
        for site in dict.fromkeys(site for adapter in adapters for site in adapter.rows):
            rows = tables[site].rows
            chosen = torch.tensor([adapter.rows.get(site, 0) for adapter in adapters], device=rows.device)
            self.deltas.setdefault(site.module, []).append((site, rows[chosen]))
        sequences: dict[ServedAdapter, list[int]] = {}
        for number, adapter in enumerate(adapters):
            sequences.setdefault(adapter, []).append(number)
        self.groups = [(adapter, torch.tensor(numbers)) for adapter, numbers in sequences.items()]

    def clear(self) -> None:
        """Let go of the adapters."""
        self.rows, self.deltas, self.groups = None, {}, []


class ServedBias(BankedBias):
    """The bias of one module for each row: the module's own (widened) plus the row's deltas."""

    def __init__(self, path: str, own: Tensor, batch: ServedBatch) -> None:
        super().__init__([(own, None)])
        self.path, self.own, self.batch = path, own, batch

    def of_rows(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """The bias of each row, [rows, width]."""
        deltas = self.batch.deltas[self.path]
        if len(deltas) == 1 and deltas[0][0].width == len(self.own):
            return (self.own + deltas[0][1]).to(dtype)
        bias = self.own.repeat(len(rows), 1)
        for site, delta in deltas:
            site.put(bias, site.take(bias) + delta)
        return bias.to(dtype)


class ServedForward:
    """A module with bias sites: the bias of each row where the batch has any, else the module's own computation.

    Args:
        with_deltas: What the module computes with a bias a row.
    """

    def __init__(self, path: str, module: nn.Module, with_deltas: OwnForward, batch: ServedBatch) -> None:
        self.path, self.with_deltas, self.batch = path, with_deltas, batch
        self.own_forward: OwnForward = MethodType(type(module).forward, module)

    def __call__(self, input: Tensor) -> Tensor:
        if self.path in self.batch.deltas:
            return self.with_deltas(input)
        return self.own_forward(input)


class ServedHeadForward:
    """A layer of the model's own head, with the parameters of each row's adapter where that has its own."""

    def __init__(self, path: str, module: nn.Module, batch: ServedBatch, axis: RowAxis) -> None:
        if not isinstance(module, nn.Linear | Conv1D | nn.LayerNorm):
            raise InputError(f"the head's {path} is a {type(module).__name__}, which cannot differ between rows")
        if axis != 0:
            raise InputError(f"the head's {path} does not keep the rows of a batch apart")
        self.path, self.module, self.batch = path, module, batch
        self.own_forward: OwnForward = MethodType(type(module).forward, module)

    def __call__(self, input: Tensor) -> Tensor:
        if not any(key.startswith(f"{self.path}.") for adapter, _ in self.batch.groups for key in adapter.inner_head):
            return self.own_forward(input)
        outputs, order = [], []
        for adapter, rows in self.batch.groups:
            outputs.append(self._of_adapter(adapter, input[rows.to(input.device)]))
            order.append(rows)
        return torch.cat(outputs)[torch.cat(order).argsort().to(input.device)]

    def _of_adapter(self, adapter: ServedAdapter, input: Tensor) -> Tensor:
        module, own = self.module, adapter.inner_head
        weight: Tensor = own.get(f"{self.path}.weight", module.weight)
        bias: Tensor | None = own.get(f"{self.path}.bias", module.bias)
        input = input.to(weight.dtype)
        bias = None if bias is None else bias.to(weight.dtype)
        if isinstance(module, nn.LayerNorm):
            return F.layer_norm(input, module.normalized_shape, weight, bias, module.eps)
        return F.linear(input, weight.T if isinstance(module, Conv1D) else weight, bias)


def narrow_input(module: nn.Linear, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook before the model's own output layer: an adapter's layers below it may compute in a wider type than it."""
    return (args[0].to(module.weight.dtype),)
