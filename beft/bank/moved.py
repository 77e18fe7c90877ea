"""What a bank gives to a module on another device than the trained vectors."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from beft.bank.forwards import BankedBias, Piece, RowAssignment


class MovedBias(BankedBias):
    """The bias of a module on another device than the deltas."""

    def __init__(self, pieces: list[Piece], order: Tensor | None, device: torch.device) -> None:
        super().__init__(pieces, order)
        self.device = device

    def __call__(self, dtype: torch.dtype) -> Tensor:
        # The deltas change at each step: they are moved when they are used.
        here = [(base, None if delta is None else delta.to(self.device)) for base, delta in self.pieces]
        return BankedBias(here, self.order)(dtype)


class MovedChoice(RowAssignment):
    """A choice as a module on another device sees it."""

    def __init__(self, choice: RowAssignment, device: torch.device) -> None:
        self.choice = choice
        self.device = device

    def __getattr__(self, name: str) -> object:
        value = getattr(self.__dict__["choice"], name)
        return value.to(self.__dict__["device"]) if isinstance(value, Tensor) else value


class MovedHead:
    """A module whose parameters are replaced by tensors on another device.

    Args:
        make: From the tensors, moved, to the module's forward.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, Tensor]], Callable[[Tensor], Tensor]],
        replaced: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        self.make = make
        self.replaced = dict(replaced)
        self.device = device

    def __call__(self, input: Tensor) -> Tensor:
        return self.make({name: tensor.to(self.device) for name, tensor in self.replaced.items()})(input)
