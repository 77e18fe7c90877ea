"""Importance by empirical Fisher information: the mean over examples of the squared gradient of a bias.

The gradient is that of the log-likelihood of ONE example; squaring the gradient of a batch's mean loss would be
something else. For a bias it is exact and cheap: an example's gradient of a bias is the sum, over its tokens, of the
gradient at the output of the module that adds the bias, in each place where the module is used. One backward pass over
a batch passes by all these gradients, of every example. Those of an example's several sequences (the choices of a
question) are added up before they are squared.

Source: "BEFT: Bias-Efficient Fine-Tuning of Language Models", arXiv 2509.15974, section 2.2; taken before training.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from beft.bank.first_token import first_token_alone, reads_first_token_alone
from beft.bank.gradients import requires_grad_set
from beft.errors import BeftError, InputError
from beft.importance.registry import importance_method
from beft.importance.result import Importance, Vectors, score_by_layer
from beft.problems.classification import Classification
from beft.problems.problem_type import ProblemType
from beft.sites.batch_axis import (
    AnyClassifier,
    Batch,
    RowAxis,
    evaluating,
    fits_rows,
    measure_row_axes,
    output_hooks,
    sum_tokens,
)
from beft.sites.site import BiasSite, site_module


@importance_method("fisher")
def fisher(information: Vectors) -> Importance:
    """Score every term and layer by its Fisher information, averaged over the components of the bias.

    Args:
        information: Fisher information of each component, as ``fisher_information`` gives it.
    """
    return score_by_layer("fisher", lambda vector: float(vector.mean()), information)


def fisher_information(
    classifier: AnyClassifier,
    batches: Iterable[tuple[Batch, Any] | tuple[Batch, Any, Tensor]],
    sites: Sequence[BiasSite],
) -> dict[BiasSite, Tensor]:
    """The mean over examples of the squared gradient of the example's loss, without dropout.

    Nothing of the model is changed: neither its parameters, nor their gradients, nor which modules train.

    Args:
        classifier: From a batch to outputs of shape [sequences, outputs]; its attribute ``model`` holds the modules
            that the sites name. It is called in evaluation mode. The loss is that of its ``problem_type``;
            cross-entropy of logits where it has none.
        batches: A batch (tensors whose first axis is the sequence, ``input_ids`` among them), the targets of its
            examples, and how many sequences each example has; without them each has one.
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
    axes: dict[str, list[RowAxis]] | None = None
    used: set[str] = set()
    examples = 0
    # No parameter takes a gradient: the backward pass ends at the lowest output that is watched.
    floating = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    with evaluating(classifier), requires_grad_set(floating, on=False), torch.enable_grad(), ExitStack() as stack:
        for batch, given, *sizes_given in batches:
            labels = torch.as_tensor(given)
            sizes = sizes_given[0] if sizes_given else torch.ones(len(labels), dtype=torch.int64)
            if not examples:
                on = reads_first_token_alone(classifier, batch)
                stack.enter_context(first_token_alone(model, on=on))
            examples += len(labels)
            if axes is None and len(batch["input_ids"]) > 1:
                axes = measure_row_axes(classifier, modules, batch)
            together = [name for name, uses in (axes or {}).items() if uses and None not in uses]
            squares: dict[str, Tensor] = {}
            if together:
                squares = _squared_gradients(classifier, _some(modules, together), batch, labels, sizes, axes)
                _add(sums, squares)
            alone = [name for name in modules if name not in squares]
            stops = sizes.cumsum(0)
            for row in range(len(labels)) if alone else ():
                of_row = slice(int(stops[row] - sizes[row]), int(stops[row]))
                one = {name: tensor[of_row] for name, tensor in batch.items()}
                example = labels[row : row + 1], sizes[row : row + 1]
                squares_of_one = _squared_gradients(classifier, _some(modules, alone), one, *example)
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
    return {site: site.take(sums[site.module]) / examples for site in sites}


def _squared_gradients(
    classifier: AnyClassifier,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    labels: Tensor,
    sizes: Tensor,
    axes: Mapping[str, Sequence[RowAxis]] | None = None,
) -> dict[str, Tensor]:
    """The squared gradients of each module's bias, summed over the examples of a batch.

    Args:
        sizes: How many sequences each example has.
        axes: Where the sequences are in each use of a module; None for a batch of one example, of which the gradient
            is all that there is.

    Returns:
        An fp64 vector a module; modules that were not used, or whose output has another axis, are left out.
    """
    rows = 1 if axes is None else len(batch["input_ids"])
    gradients: dict[str, Tensor] = {}
    roots: list[Tensor] = []
    uses = dict.fromkeys(modules, 0)
    misfits: set[str] = set()

    def watch(name: str, output: Tensor) -> Tensor:
        use, uses[name] = uses[name], uses[name] + 1
        axis = None if axes is None else axes[name][use] if use < len(axes[name]) else None
        if not fits_rows(output, rows, axis):
            misfits.add(name)
            return output
        if not output.requires_grad:  # nothing below it takes a gradient: here the backward pass ends
            roots.append(output.detach().requires_grad_(True))
            output = roots[-1].view_as(roots[-1])  # some models change it in place, which no leaf allows
        wide = torch.promote_types(output.dtype, torch.float32)
        if name not in gradients:
            gradients[name] = torch.zeros(rows, output.shape[-1], dtype=wide, device=output.device)

        def add(gradient: Tensor) -> None:
            # In a narrow type the sum over tokens is still taken in the wide one.
            gradients[name] += sum_tokens(gradient.to(wide), rows, axis)

        output.register_hook(add)
        return output

    with output_hooks(modules, watch):
        outputs = classifier(batch)
    problem_type: ProblemType = getattr(classifier, "problem_type", Classification())
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    loss = problem_type.losses(outputs, labels.to(outputs.device), sizes).sum()
    if roots and loss.requires_grad:
        torch.autograd.grad(loss, roots, allow_unused=True)
    owners = torch.zeros(1, dtype=torch.int64) if axes is None else torch.arange(len(sizes)).repeat_interleave(sizes)
    return {
        name: _of_examples(gradient, owners, len(sizes)).square().sum(0).cpu()
        for name, gradient in gradients.items()
        if name not in misfits
    }


def _of_examples(gradient: Tensor, owners: Tensor, examples: int) -> Tensor:
    """Gradients [sequences, width], fp64, added up over the sequences of each example."""
    wide = gradient.double()
    return wide.new_zeros(examples, wide.shape[1]).index_add_(0, owners.to(wide.device), wide)


def _some(modules: Mapping[str, nn.Module], names: Iterable[str]) -> dict[str, nn.Module]:
    return {name: modules[name] for name in names}


def _add(sums: Mapping[str, Tensor], squares: Mapping[str, Tensor]) -> None:
    for name, square in squares.items():
        sums[name] += square[: len(sums[name])]
