"""What a training will cost, measured on one batch before it starts."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beft.inference.runs import LabelledRows
from beft.models.classifier import Batch, Classifier
from beft.sites.batch_axis import evaluating

_MEASURED = 4  # rows


@dataclass(frozen=True)
class CostEstimate:
    """The cost of one forward and backward pass over a batch.

    Attributes:
        saved_bytes: What autograd keeps for the backward pass over the longest rows, the base's own parameters not
            counted.
        seconds: Wall time of a pass over rows of middle length.
        tokens: Tokens of these rows, padding included.
    """

    saved_bytes: int
    seconds: float
    tokens: int

    def seconds_of(self, rows: LabelledRows, epochs: int) -> float:
        """About how long some epochs over the rows take."""
        return self.seconds / self.tokens * int(rows.encoded.lengths.sum()) * epochs


def estimate(classifier: Classifier, train: LabelledRows, rows: int) -> CostEstimate:
    """Measure a batch of the longest rows and one of middle length, down to the embeddings; nothing is changed.

    Dropout is off, so a training with dropout takes more of both. A few of the longest rows tell what a batch of them
    keeps, so that the estimate itself takes little memory.

    Args:
        rows: Examples of the batch.
    """
    order = np.argsort(-train.lengths, kind="stable")
    middle = max(0, (len(order) - rows) // 2)
    few = min(rows, _MEASURED)
    longest = train.batch(order[:few], classifier.device)
    usual = train.batch(order[middle : middle + rows], classifier.device)
    own = {parameter.untyped_storage().data_ptr() for parameter in classifier.model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def measure(batch: Batch) -> float:
        kept.clear()
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            logits = classifier(batch)
        logits.sum().backward()
        return time.perf_counter() - began

    with evaluating(classifier), torch.enable_grad(), _gradients_below(_embeddings(classifier.model)):
        measure(longest)  # which also pays for what is set up once
        saved_bytes = sum(kept.values()) * rows // few
        seconds = measure(usual)
    return CostEstimate(saved_bytes, seconds, int(usual["input_ids"].numel()))


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
