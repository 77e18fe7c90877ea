"""What a training will take of memory, measured on a few rows before it starts; and how costs are written."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beft.inference.runs import LabelledRows
from beft.models.classifier import Classifier
from beft.sites.batch_axis import evaluating

_MEASURED = 4  # rows


def saved_bytes(classifier: Classifier, train: LabelledRows, rows: int) -> int:
    """The bytes that autograd keeps for the backward pass over a batch of the longest rows; nothing is changed.

    They are counted down to the embeddings, the base's own parameters not among them. Dropout is off, so a training
    with dropout takes more. A few of the longest rows tell what a batch of them keeps, so that this itself takes
    little memory.

    Args:
        rows: Examples of the batch.
    """
    few = min(rows, _MEASURED)
    batch = train.batch(np.argsort(-train.lengths, kind="stable")[:few], classifier.device)
    own = {parameter.untyped_storage().data_ptr() for parameter in classifier.model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        evaluating(classifier),
        torch.enable_grad(),
        _gradients_below(_embeddings(classifier.model)),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        classifier(batch)
    return sum(kept.values()) * rows // few


def _embeddings(model: Any) -> list[nn.Module]:
    """The modules that look tokens up; an encoder and a decoder each have one, with one weight."""
    weight = model.get_input_embeddings().weight
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is weight]


@contextmanager
def _gradients_below(embeddings: Sequence[nn.Module]) -> Iterator[None]:
    """The embeddings take a gradient, so that all that follows is kept, and computed backwards."""

    def require(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_(True).clone()  # some models change it in place, which no leaf allows

    handles = [module.register_forward_hook(require) for module in embeddings]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def readable_bytes(size: float) -> str:
    """Bytes in MB or GB."""
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def readable_seconds(seconds: float) -> str:
    """Seconds, or minutes where there are many."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
