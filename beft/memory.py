"""How much memory a training needs, measured before it starts."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from beft.classifier import Classifier
from beft.row_axes import evaluating
from beft.runs import LabelledRows


def bytes_of_pass(classifier: Classifier, train: LabelledRows, rows: int) -> int:
    """The bytes that autograd would keep for one batch of the longest rows.

    Measured by one forward pass without dropout: everything saved for the backward pass is counted once, the base's own
    parameters are not. Dropout's masks add to it.

    Args:
        rows: Rows of the batch.
    """
    longest = np.argsort(-train.encoded.lengths, kind="stable")[:rows]
    batch = train.encoded.batch(longest, classifier.device)
    own = {parameter.untyped_storage().data_ptr() for parameter in classifier.model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    embeddings = classifier.model.get_input_embeddings()
    with evaluating(classifier), torch.enable_grad(), _requires_grad(embeddings):
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            logits = classifier(batch)
        del logits
    return sum(kept.values())


class _requires_grad:
    """The output of a module takes a gradient, so that all that follows is kept for the backward pass."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        hook: Callable[..., Tensor] = lambda module, inputs, output: output.detach().requires_grad_(True)  # noqa: E731
        self.handle = self.module.register_forward_hook(hook)

    def __exit__(self, *exception: object) -> None:
        self.handle.remove()


def available_bytes(device: torch.device) -> int:
    """The free memory of the GPU, or of the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    import psutil

    return int(psutil.virtual_memory().available)


def readable(size: float) -> str:
    """Bytes in MB or GB."""
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
