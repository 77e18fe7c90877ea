"""Importance by empirical Fisher information: the mean over examples of the squared gradient of a bias.

The gradient is that of the log-likelihood of ONE example; squaring the gradient of a batch's mean loss would be
something else. For a bias it is exact and cheap: an example's gradient of a bias is the sum, over its tokens, of the
gradient at the output of the module that adds the bias. So every example of a batch gets a zero vector of its own,
added to that output in each place where the module is used, and one backward pass gives the gradients of all of them.

Source: "BEFT: Bias-Efficient Fine-Tuning of Language Models", arXiv 2509.15974, section 2.2; taken before training.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from beft.errors import BeftError, InputError
from beft.importance.registry import importance_method
from beft.importance.result import Importance, Vectors, score_by_layer
from beft.sites import BiasSite, site_module

Batch = Mapping[str, Tensor]

# Where the examples of a batch are in a module's output: the axis of this number; on the first axis, one example's
# tokens after the other's; or nowhere (then examples are taken one at a time).
Layout = int | None
_FLAT = -1


class AnyClassifier(Protocol):
    """What can be scored: it gives logits of shape [rows, labels] for a batch, and has a model."""

    model: Any

    def __call__(self, batch: Batch, /) -> Tensor:
        """The logits."""


@importance_method("fisher")
def fisher(information: Vectors) -> Importance:
    """Score every term and layer by its Fisher information, averaged over the components of the bias.

    Args:
        information: Fisher information of each component, as ``fisher_information`` gives it.
    """
    return score_by_layer("fisher", lambda vector: float(vector.mean()), information)


def fisher_information(
    classifier: AnyClassifier, batches: Iterable[tuple[Batch, Any]], sites: Sequence[BiasSite]
) -> dict[BiasSite, Tensor]:
    """The mean over examples of the squared gradient of the example's cross-entropy loss, without dropout.

    Nothing of the model is changed: neither its parameters, nor their gradients, nor which modules train.

    Args:
        classifier: From a batch to logits of shape [rows, labels]; its attribute ``model`` holds the modules that the
            sites name. It is called in evaluation mode.
        batches: Pairs of a batch (tensors whose first axis is the row, ``input_ids`` among them) and its labels, as
            integers of shape [rows].
        sites: The bias sites, those to be added included.

    Returns:
        An fp64 vector for each site, of the site's width, on the CPU.

    Raises:
        InputError: There are no examples, or fewer than two labels.
        BeftError: A site's module is not used by the model's forward pass.
    """
    model: nn.Module = classifier.model
    by_module: dict[str, list[BiasSite]] = {}
    for site in sites:
        by_module.setdefault(site.module, []).append(site)
    modules = {site.module: site_module(model, site) for site in sites}
    sums = {name: torch.zeros(max(site.stop for site in of), dtype=torch.float64) for name, of in by_module.items()}
    layouts: dict[str, list[Layout]] | None = None
    used: set[str] = set()
    examples = 0
    with _evaluating(classifier), torch.enable_grad():
        for batch, given in batches:
            labels = torch.as_tensor(given)
            examples += len(labels)
            if layouts is None and len(labels) > 1:
                layouts = _measure_layouts(classifier, modules, batch)
            together = [name for name, uses in (layouts or {}).items() if uses and None not in uses]
            squares: dict[str, Tensor] = {}
            if together:
                squares = _squared_gradients(classifier, _some(modules, together), batch, labels, layouts)
                _add(sums, squares)
            alone = [name for name in modules if name not in squares]
            for row in range(len(labels)) if alone else ():
                one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
                squares_of_one = _squared_gradients(classifier, _some(modules, alone), one, labels[row : row + 1])
                _add(sums, squares_of_one)
                used.update(squares_of_one)
            used.update(squares)
    if not examples:
        raise InputError("Fisher information needs at least one labelled example")
    unused = sorted(set(modules) - used)
    if unused:
        raise BeftError(
            f"the model never calls {', '.join(unused)}, so the gradients of the biases there cannot be taken"
        )
    return {site: sums[site.module][site.start : site.stop] / examples for site in sites}


def _squared_gradients(
    classifier: AnyClassifier,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    labels: Tensor,
    layouts: Mapping[str, Sequence[Layout]] | None = None,
) -> dict[str, Tensor]:
    """The squared gradients of each module's shift, summed over the rows of a batch.

    Args:
        layouts: Where the rows are in each use of a module; None for a batch of one row.

    Returns:
        An fp64 vector a module; modules that were not used, or whose output has another layout, are left out.
    """
    rows = len(labels)
    shifts: dict[str, Tensor] = {}
    uses = dict.fromkeys(modules, 0)
    misfits: set[str] = set()

    def shift(name: str, output: Tensor) -> Tensor:
        wide = torch.promote_types(output.dtype, torch.float32)
        if name not in shifts:
            shape = (rows, output.shape[-1])
            shifts[name] = torch.zeros(shape, dtype=wide, device=output.device, requires_grad=True)
        use, uses[name] = uses[name], uses[name] + 1
        layout = None if layouts is None else layouts[name][use] if use < len(layouts[name]) else None
        spread = _spread(shifts[name], output, layout)
        if spread is None:
            misfits.add(name)
            return output
        # Zeros change nothing; in a narrow type the sum over tokens is still taken in the wide one.
        return (output.to(wide) + spread).to(output.dtype)

    with _hooks(modules, shift):
        logits = classifier(batch)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise InputError(f"Fisher information needs logits of two labels or more, not of shape {tuple(logits.shape)}")
    loss = functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), labels.to(logits.device), reduction="sum"
    )
    names = [name for name in shifts if name not in misfits]
    if not loss.requires_grad:  # the loss depends on none of them
        return {name: torch.zeros(shifts[name].shape[1], dtype=torch.float64) for name in names}
    gradients = torch.autograd.grad(loss, [shifts[name] for name in names], allow_unused=True) if names else ()
    return {
        name: torch.zeros(shifts[name].shape[1], dtype=torch.float64)
        if gradient is None
        else gradient.double().square().sum(0).cpu()
        for name, gradient in zip(names, gradients, strict=True)
    }


def _spread(shift: Tensor, output: Tensor, layout: Layout) -> Tensor | None:
    """A shift [rows, width] in a shape that can be added to ``output``; None when the layout is another."""
    rows, width = shift.shape
    if rows == 1:
        return shift[0]
    if layout is None:
        return None
    if layout == _FLAT:
        tokens, rest = divmod(output.shape[0], rows)
        return shift.repeat_interleave(tokens, dim=0) if output.dim() == 2 and not rest else None
    if layout >= output.dim() - 1 or output.shape[layout] != rows:
        return None
    shape = [1] * output.dim()
    shape[layout], shape[-1] = rows, width
    return shift.view(shape)


def _measure_layouts(
    classifier: AnyClassifier, modules: Mapping[str, nn.Module], batch: Batch
) -> dict[str, list[Layout]] | None:
    """Find, for each use of each module, where the rows of a batch are in its output.

    Shapes alone would mislead (a table of relative positions can be as long as a batch), so it is measured: the tokens
    of the second of two rows are replaced, and only that row's part of the output may change.

    Returns:
        The layouts; None when all rows of the batch have the same tokens.
    """
    ids = batch["input_ids"]
    other = next((row for row in range(1, len(ids)) if not torch.equal(ids[row], ids[0])), None)
    if other is None:
        return None
    pair = {name: tensor[[0, other]] for name, tensor in batch.items()}
    changed = {**pair, "input_ids": ids[[0, 0]]}
    with torch.no_grad():
        first, second = (_outputs(classifier, modules, rows) for rows in (pair, changed))
    return {name: [_layout(*uses) for uses in zip(first[name], second[name], strict=False)] for name in modules}


def _layout(first: Tensor, second: Tensor) -> Layout:
    """The layout of an output with two rows, of which the second differs between ``first`` and ``second``."""
    if first.shape != second.shape:
        return None
    views: list[tuple[int, Tensor, Tensor, int]] = [
        (axis, first, second, axis) for axis in range(first.dim() - 1) if first.shape[axis] == 2
    ]
    if first.dim() == 2 and first.shape[0] % 2 == 0:
        halves = (2, first.shape[0] // 2, first.shape[1])
        views.append((_FLAT, first.reshape(halves), second.reshape(halves), 0))
    for layout, one, two, axis in views:
        same = torch.equal(one.select(axis, 0), two.select(axis, 0))
        if same and not torch.equal(one.select(axis, 1), two.select(axis, 1)):
            return layout
    return None


def _outputs(classifier: AnyClassifier, modules: Mapping[str, nn.Module], batch: Batch) -> dict[str, list[Tensor]]:
    """What each module gives out at each of its uses."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str, output: Tensor) -> Tensor:
        outputs[name].append(output.clone())
        return output

    with _hooks(modules, keep):
        classifier(batch)
    return outputs


@contextmanager
def _hooks(modules: Mapping[str, nn.Module], change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
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
def _evaluating(classifier: AnyClassifier) -> Iterator[None]:
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


def _some(modules: Mapping[str, nn.Module], names: Iterable[str]) -> dict[str, nn.Module]:
    return {name: modules[name] for name in names}


def _add(sums: Mapping[str, Tensor], squares: Mapping[str, Tensor]) -> None:
    for name, square in squares.items():
        sums[name] += square[: len(sums[name])]
