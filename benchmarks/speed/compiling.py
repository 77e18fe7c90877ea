"""Whether torch.compile pays: a plain loop over the same batches, compiled and not."""

import shutil
import time
from dataclasses import dataclass
from typing import Any

import torch

from beft.encoding.tokenization import training_batches
from beft.inference.runs import LabelledRows
from beft.models.classifier import Classifier
from beft.sites.site import find_sites, site_module


@dataclass(frozen=True)
class Compiled:
    """What compiling costs and brings.

    Attributes:
        ratio: Seconds of an epoch as it is over seconds of an epoch compiled: above 1, compiling is faster.
        setting_up: Seconds that the first compiled epoch takes longer than the later ones.
        pays_after: Examples after which compiling has paid for itself; None where it never does.
    """

    ratio: float
    setting_up: float
    pays_after: int | None


def measure(classifier: Classifier, rows: LabelledRows, batch_size: int = 16, repetitions: int = 3) -> Compiled | None:
    """Compile the base for any shape and time it; None where there is no C++ compiler, which torch.compile needs."""
    if shutil.which("g++") is None:
        return None
    model: Any = classifier.model
    biases: list[Any] = [site_module(model, site).bias for site in find_sites(model, ["value"])]
    batches = training_batches(rows.encoded.lengths, batch_size, seed=0, epoch=1)

    def epoch(compute: Any) -> float:
        began = time.perf_counter()
        for batch in batches:
            labels = torch.from_numpy(rows.labels[batch])
            logits = compute(**rows.encoded.batch(batch, classifier.device)).logits
            torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), biases)
        return time.perf_counter() - began

    compiled = torch.compile(model, dynamic=True)
    try:
        for bias in biases:
            bias.requires_grad_(True)
        first = epoch(compiled)
        pairs = [(epoch(model), epoch(compiled)) for _ in range(repetitions)]
    finally:
        for bias in biases:
            bias.requires_grad_(False)
        torch.compiler.reset()
    plain, fast = (sorted(side)[repetitions // 2] for side in zip(*pairs, strict=True))
    setting_up = first - fast
    gained = (plain - fast) / len(rows)
    return Compiled(plain / fast, setting_up, int(setting_up / gained) if gained > 0 else None)
