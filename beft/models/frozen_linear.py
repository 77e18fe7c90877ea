"""Frozen linear layers whose weight is kept in another form than they compute with: quantised, or narrower.

The weight is widened for each product and let go of after it, in the backward pass once more. So neither a wide copy
nor an input is kept between the two passes, and a row of a batch is computed without regard to the others.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenLinear(nn.Linear, ABC):
    """A linear layer that gives its weight in the type of its input, and takes no gradient of it."""

    @abstractmethod
    def weight_as(self, dtype: torch.dtype) -> Tensor:
        """The weight in a type, [outputs, inputs]; made anew at each call."""

    def forward(self, input: Tensor) -> Tensor:
        """The product with the weight, and the layer's own bias, in the type of the input."""
        product = frozen_product(input, self)
        return product if self.bias is None else product.add_(self.bias.to(product.dtype))


class WidenedLinear(FrozenLinear):
    """A linear layer whose weight stays in its own, narrower type."""

    def weight_as(self, dtype: torch.dtype) -> Tensor:
        """The weight, widened."""
        return self.weight.detach().to(dtype)


class QuantizedLinear(FrozenLinear):
    """A linear layer whose weight bitsandbytes has quantised to 8 or 4 bits.

    bitsandbytes' own layers differ: in 8 bits they round each input to 8 bits as well, choose the columns that they
    leave alone by all rows of the batch together, keep every input for the backward pass, and on the CPU compute
    otherwise in training mode than in evaluation mode.
    """

    scale: Tensor | None
    """In 8 bits, what 127 stands for in each row of the weight: [outputs], fp32; None in 4 bits."""

    def weight_as(self, dtype: torch.dtype) -> Tensor:
        """The weight that the quantised one stands for."""
        # A torch function mode that widens types (that of inertness) would reach into the library's kernels.
        with torch._C.DisableTorchFunction():
            if self.scale is not None:
                return self.weight.detach().to(dtype).mul_((self.scale / 127).unsqueeze(1))
            from bitsandbytes.functional import dequantize_4bit

            state = self.weight.quant_state  # type: ignore[attr-defined]
            weight: Tensor = dequantize_4bit(self.weight.detach().as_subclass(Tensor), state)
            return weight.to(dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(input, layer.weight_as(input.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        [gradient] = gradients
        return gradient @ ctx.layer.weight_as(gradient.dtype), None


def frozen_product(input: Tensor, layer: FrozenLinear) -> Tensor:
    """The product of an input [..., inputs] with a layer's weight, [..., outputs], in the type of the input."""
    product: Tensor = _Product.apply(input, layer)  # type: ignore[no-untyped-call]
    return product


def become(layer: nn.Module, kind: type[FrozenLinear]) -> None:
    """Make a frozen linear layer of one that is there; its parameters, and what is hooked to it, stay as they are."""
    layer.__class__ = kind
    if "_old_forward" in layer.__dict__:  # accelerate's hooks call what the layer's forward was
        layer._old_forward = kind.forward.__get__(layer)
