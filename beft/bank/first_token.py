"""Where a head reads the first token alone, the last layer computes nothing but it after its attention.

From the attention norm of a post-norm layer on, every token is computed by itself. So once the last layer's attention
is done, the tokens that no head reads can be left out: two thirds of the last layer, forward and backward. The logits
and all gradients stay what they were.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from beft.errors import InputError
from beft.sites.batch_axis import AnyClassifier, Batch, evaluating
from beft.sites.matching import match_layout

_ROWS = 2  # two rows tell as much as a whole batch


def reads_first_token_alone(classifier: AnyClassifier, batch: Batch) -> bool:
    """Whether the head needs no other token of the last layer: found out on two rows, not taken from a name.

    What the head's output layer sees is compared, where the classifier can tell it: a head that is still zero would
    give the same logits whatever it reads.
    """
    if getattr(classifier, "pooling", "model") not in ("model", "cls"):  # another reads at the positions of its mask
        return False
    if "word_positions" in batch or batch["input_ids"].shape[1] < 2 or _last_norm(classifier.model) is None:
        return False
    batch = {name: tensor[:_ROWS] for name, tensor in batch.items()}
    with torch.no_grad(), evaluating(classifier):
        seen = getattr(classifier, "head_features", classifier)
        expected: Tensor = seen(batch)
        with first_token_alone(classifier.model):
            found: Tensor = seen(batch)
    # What is left out moves some of these numbers by far more than rounding does.
    tolerance = 1e-2 if _precision(classifier.model) == torch.bfloat16 else 1e-4
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


@contextmanager
def first_token_alone(model: nn.Module, *, on: bool = True) -> Iterator[None]:
    """Within the context, the last layer gives out the first token alone.

    Args:
        model: A post-norm encoder whose head reads no other token.
        on: Nothing happens when it is off.
    """
    norm = _last_norm(model) if on else None
    if norm is None:
        yield
        return
    handle = norm.register_forward_pre_hook(_first)
    try:
        yield
    finally:
        handle.remove()


def _first(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden: Tensor = inputs[0]
    return (hidden[:, :1], *inputs[1:])


def _last_norm(model: nn.Module) -> nn.Module | None:
    """The attention norm of the last layer; None where it does not stand behind the attention."""
    try:
        match = match_layout(model)
    except InputError:  # a structure that is not known computes everything
        return None
    if not match.layout.post_norm:
        return None
    return model.get_submodule(match.find("attention_norm")[-1].module)


def _precision(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype
