"""A plain PyTorch loop for bias-only fine-tuning: what the engine has to agree with.

It shares neither bank, stack, optimiser nor order of batches with the engine: the model's own biases and head are
trained as they stand, one run at a time, by ``torch.optim.AdamW``.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from beft.inference.runs import LabelledRows
from beft.models.classifier import Classifier
from beft.training_settings import TrainingSettings


def train_plainly(
    classifier: Classifier,
    rows: LabelledRows,
    settings: TrainingSettings,
    *,
    biases: str,
    head: Mapping[str, Tensor],
    seed: int,
) -> Classifier:
    """Train one run to its last epoch; the classifier that is given stays as it was.

    Args:
        biases: How the names of the trained biases end, such as ``.value.bias``.
        head: Names of the head's trained parameters, and where they start.
        seed: Decides the order of the rows, and dropout.

    Returns:
        The trained copy.
    """
    trained = classifier.with_model(copy.deepcopy(classifier.model))
    named = dict(trained.model.named_parameters())
    with torch.no_grad():
        for name, start in head.items():
            named[name].copy_(start)
    of_biases = [value.requires_grad_(True) for name, value in named.items() if name.endswith(biases)]
    of_head = [named[name].requires_grad_(True) for name in head]
    optimizer = torch.optim.AdamW(
        [
            {"params": of_biases, "lr": settings.learning_rate},
            {"params": of_head, "lr": settings.head_learning_rate or settings.learning_rate},
        ],
        eps=settings.adam_epsilon,
        weight_decay=0.0,
    )
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    warmup = int(settings.warmup_fraction * steps)

    def rate(step: int) -> float:
        fall = (steps - step) / max(1, steps - warmup) if settings.schedule == "linear" else 1.0
        return min((step + 1) / (warmup + 1), fall, 1.0)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    trained.train(settings.dropout)
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(rows), generator=generator).split(settings.batch_size):
            chosen = batch.numpy()
            logits = trained(rows.encoded.batch(chosen, trained.device))
            loss = functional.cross_entropy(logits, torch.from_numpy(rows.labels[chosen]).to(logits.device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*of_biases, *of_head], settings.clip_norm)
            optimizer.step()
            schedule.step()
    return trained.eval()
