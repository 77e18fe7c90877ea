"""What a frozen linear layer computes while a bank stands behind it: its own product, then the banked bias."""

from collections.abc import Callable

from torch import Tensor, nn

from beft.bank.forwards import FORWARDS, BankedBias, LinearForward, RowsForward
from beft.errors import InputError
from beft.models.frozen_linear import FrozenLinear, QuantizedLinear, WidenedLinear, frozen_product
from beft.sites.batch_axis import FLATTENED, spread_rows


class FrozenForward(LinearForward):
    """A frozen linear layer with one bias for all rows."""

    def __call__(self, input: Tensor) -> Tensor:
        assert isinstance(self.module, FrozenLinear)
        product = frozen_product(input, self.module)
        return product.add_(self.bias(product.dtype))


class FrozenRowsForward(RowsForward):
    """A frozen linear layer whose rows each have a bias of their own."""

    def __call__(self, input: Tensor) -> Tensor:
        assert isinstance(self.module, FrozenLinear) and self.axis is not None
        product = frozen_product(input, self.module)
        chosen = self.choice.rows
        rows = product.shape[self.axis] if self.axis != FLATTENED else 0 if chosen is None else len(chosen)
        bias = self.bias.of_rows(self.choice.for_rows(rows, self.path), product.dtype)
        spread = spread_rows(bias, product, self.axis)
        if spread is None:
            raise InputError(f"{self.path}: its output of shape {tuple(product.shape)} has no axis of {rows} rows.")
        return product.add_(spread)


ONE_VECTOR: dict[type[nn.Module], Callable[[nn.Module, BankedBias], Callable[[Tensor], Tensor]]] = {
    **FORWARDS,
    WidenedLinear: FrozenForward,
    QuantizedLinear: FrozenForward,
}
"""The classes of modules that a bank can stand behind, and what each computes with one vector."""


def rows_forward(module: nn.Module) -> type[RowsForward]:
    """What a module computes with many vectors."""
    return FrozenRowsForward if isinstance(module, FrozenLinear) else RowsForward
