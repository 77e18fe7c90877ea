"""Losses that join all rows of a run's batch, exact for every way in which the batch is divided to be computed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from beft.inference.generation import Choose
from beft.inference.runs import LabelledRows, Run
from beft.models.classifier import Classifier
from beft.sites.batch_axis import Batch
from beft.training.objectives.contrastive import contrastive_losses


def joint_losses(
    classifier: Classifier,
    train: LabelledRows,
    runs: Sequence[Run],
    rows: np.ndarray,
    run_of: Tensor,
    shares: Tensor,
    parts: Sequence[np.ndarray],
    choose: Choose,
) -> dict[int, Tensor]:
    """The loss of each run's batch, its graph kept: one backward pass through their sum is the whole step's.

    The graphs of all parts are kept until then. Where ``micro_batch_size`` bounds the parts, their activations are not:
    each part is computed again in the backward pass, as in Gao et al., "Scaling deep contrastive learning batch size
    under memory limited setup" (2021).

    Args:
        rows: Numbers of the train rows of the step, one sequence each.
        run_of: The number of the run of each of them.
        shares: How much each one's own loss counts in that of its run's batch; the contrastive loss, whose batches are
            balanced already, is a mean.
        parts: Positions in ``rows`` of what is computed at once.
        choose: The bank's.
    """

    def compute(part: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        choose(part)
        return classifier.outputs_and_features(batch)

    found = []
    for part in parts:
        batch = train.batch(rows[part], classifier.device)
        if runs[0].settings.micro_batch_size is None:
            found.append(compute(run_of[part], batch))
        else:
            found.append(checkpoint(compute, run_of[part], batch, use_reentrant=False))
    position = torch.from_numpy(np.argsort(np.concatenate(parts)))
    outputs, features = (torch.cat(tensors)[position.to(tensors[0].device)] for tensors in zip(*found, strict=True))
    targets = train.targets(rows)
    return {
        run: _run_loss(classifier, train, runs[run], outputs[own], features[own], targets[own], shares[own])
        for run in run_of.unique().tolist()
        for own in [torch.nonzero(run_of == run)[:, 0]]
    }


def _run_loss(
    classifier: Classifier,
    train: LabelledRows,
    run: Run,
    outputs: Tensor,
    features: Tensor,
    targets: Tensor,
    shares: Tensor,
) -> Tensor:
    """The loss of one run's batch."""
    problem_type, settings = classifier.problem_type, run.settings
    loss = outputs.new_zeros(())
    if settings.loss != "contrastive":
        sizes = torch.ones(len(targets), dtype=torch.int64)
        each = problem_type.losses(outputs, targets.to(outputs.device), sizes)
        loss = loss + (each * shares.to(each)).sum()
    if settings.contrastive:
        own = train.labels if run.rows is None else train.labels[list(run.rows)]
        wide = features if features.dtype == torch.float64 else features.float()
        pair_weights = problem_type.pair_weights(targets, own).to(wide)
        loss = loss + contrastive_losses(wide, pair_weights, settings.temperature).mean().to(loss)
    return loss
