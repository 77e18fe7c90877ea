"""Where the rows of a batch are in the output of each module, measured.

Most modules keep the rows on the first axis. Some flatten rows and tokens into one, and some compute tables that all
rows share and that have no such axis at all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]

RowAxis = int | None
"""Where the rows are: on the axis of this number; ``FLATTENED``; or nowhere, and rows are computed one at a time."""

FLATTENED = -1
"""On the first axis, one row's tokens after the other's."""


class AnyClassifier(Protocol):
    """Gives logits of shape [rows, labels] for a batch, and has a model."""

    model: Any

    def __call__(self, batch: Batch, /) -> Tensor:
        """The logits."""


def measure_row_axes(
    classifier: AnyClassifier, modules: Mapping[str, nn.Module], batch: Batch
) -> dict[str, list[RowAxis]] | None:
    """Find, for each use of each module, where the rows of a batch are in its output; nothing of the model is changed.

    Shapes alone would mislead (a table of relative positions can be as long as a batch), so it is measured: the tokens
    of the second of two rows are replaced, and only that row's part of the output may change.

    Returns:
        The axes; None when all rows of the batch have the same tokens.
    """
    ids = batch["input_ids"]
    other = next((row for row in range(1, len(ids)) if not torch.equal(ids[row], ids[0])), None)
    if other is None:
        return None
    pair = {name: tensor[[0, other]] for name, tensor in batch.items()}
    changed = {**pair, "input_ids": ids[[0, 0]]}
    with torch.no_grad(), evaluating(classifier):
        first, second = (_outputs(classifier, modules, rows) for rows in (pair, changed))
    return {name: [_row_axis(*uses) for uses in zip(first[name], second[name], strict=False)] for name in modules}


def _row_axis(first: Tensor, second: Tensor) -> RowAxis:
    """The axis of an output with two rows, of which the second differs between ``first`` and ``second``."""
    if first.shape != second.shape:
        return None
    views: list[tuple[int, Tensor, Tensor, int]] = [
        (axis, first, second, axis) for axis in range(first.dim() - 1) if first.shape[axis] == 2
    ]
    if first.dim() == 2 and first.shape[0] % 2 == 0:
        halves = (2, first.shape[0] // 2, first.shape[1])
        views.append((FLATTENED, first.reshape(halves), second.reshape(halves), 0))
    for found, one, two, axis in views:
        same = torch.equal(one.select(axis, 0), two.select(axis, 0))
        if same and not torch.equal(one.select(axis, 1), two.select(axis, 1)):
            return found
    return None


def _outputs(classifier: AnyClassifier, modules: Mapping[str, nn.Module], batch: Batch) -> dict[str, list[Tensor]]:
    """What each module gives out at each of its uses."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str, output: Tensor) -> Tensor:
        outputs[name].append(output.clone())
        return output

    with output_hooks(modules, keep):
        classifier(batch)
    return outputs


def one_axis(uses: Sequence[RowAxis]) -> RowAxis:
    """The axis that all uses of a module have; None where they differ or there are none."""
    return uses[0] if uses and all(use == uses[0] for use in uses) else None


def spread_rows(shift: Tensor, output: Tensor, axis: RowAxis) -> Tensor | None:
    """A shift [rows, width] in a shape that can be added to ``output``; None when the axis is another."""
    rows, width = shift.shape
    if rows == 1:
        return shift[0]
    if axis is None:
        return None
    if axis == FLATTENED:
        tokens, rest = divmod(output.shape[0], rows)
        return shift.repeat_interleave(tokens, dim=0) if output.dim() == 2 and not rest else None
    if axis >= output.dim() - 1 or output.shape[axis] != rows:
        return None
    shape = [1] * output.dim()
    shape[axis], shape[-1] = rows, width
    return shift.view(shape)


def fits_rows(output: Tensor, rows: int, axis: RowAxis) -> bool:
    """Whether the rows can be told apart in an output with this axis."""
    if rows == 1:
        return True
    if axis is None:
        return False
    if axis == FLATTENED:
        return output.dim() == 2 and output.shape[0] % rows == 0
    return axis < output.dim() - 1 and output.shape[axis] == rows


def sum_tokens(output: Tensor, rows: int, axis: RowAxis) -> Tensor:
    """What ``spread_rows`` spreads, summed up again: [rows, width]."""
    width = output.shape[-1]
    if rows == 1:
        return output.reshape(-1, width).sum(0, keepdim=True)
    assert axis is not None
    if axis == FLATTENED:
        return output.view(rows, -1, width).sum(1)
    return output.movedim(axis, 0).reshape(rows, -1, width).sum(1)


@contextmanager
def output_hooks(modules: Mapping[str, nn.Module], change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Pass the output of every module through ``change(name, output)``."""

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda module, inputs, output: change(name, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(classifier: AnyClassifier) -> Iterator[None]:
    """Switch dropout off, and afterwards give every module back the mode that it had."""
    roots = [root for root in (classifier, classifier.model) if isinstance(root, nn.Module)]
    modes = [(module, module.training) for root in roots for module in root.modules()]
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
