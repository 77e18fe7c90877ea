"""Outputs of a frozen classifier over many rows: features for the baselines, probabilities for the metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beft.encoding.tokenization import Encoded, token_batches
from beft.inference.batching import tokens_at_once
from beft.inference.generation import Choose
from beft.inference.predictions import sequence_outputs
from beft.models.classifier import Batch, Classifier
from beft.process_state import with_own_threads

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrozenFeatures:
    """What the frozen base gives for every row, fp64: the pooled features, and those that the head sees."""

    pooled: Floats
    head: Floats


def frozen_features(classifier: Classifier, encoded: Encoded, *, batch_tokens: int | None = None) -> FrozenFeatures:
    """Both kinds of features; where the head sees the mean they are the same, and the base runs once."""
    pooled = extract_features(classifier, encoded, "pooled", batch_tokens=batch_tokens).double().numpy()
    if classifier.head_sees_pooled:
        return FrozenFeatures(pooled, pooled)
    return FrozenFeatures(
        pooled, extract_features(classifier, encoded, "head", batch_tokens=batch_tokens).double().numpy()
    )


def extract_features(
    classifier: Classifier, encoded: Encoded, kind: Literal["pooled", "head"], *, batch_tokens: int | None = None
) -> Tensor:
    """Frozen features of every row (of every word, where words are read), fp32, [rows, width].

    Args:
        kind: ``pooled`` is the mean of the last hidden states, ``head`` what the head's output layer sees.
    """
    compute = classifier.pooled if kind == "pooled" else classifier.head_features
    return _over_rows(classifier, encoded, compute, batch_tokens)


def predict_probabilities(classifier: Classifier, encoded: Encoded, *, batch_tokens: int | None = None) -> Tensor:
    """The classes' probabilities of every row, fp32, [rows, labels], in the rows' own order."""
    [outputs] = sequence_outputs(classifier, encoded, batch_tokens=batch_tokens)
    return torch.softmax(outputs, -1).float()


@with_own_threads
@torch.no_grad()
def features_of_runs(classifier: Classifier, encoded: Encoded, runs: Sequence[int], *, choose: Choose) -> Tensor:
    """What the head's output layer sees of every sequence under every run, fp32 or wider, [runs, sequences, width].

    Args:
        runs: Numbers of the vectors of an attached bank.
        choose: The bank's.
    """
    classifier.eval()
    found: Tensor | None = None
    of_rows = torch.tensor(list(runs))
    for batch in token_batches(encoded.lengths, tokens_at_once(classifier, None, len(runs))):
        choose(of_rows.repeat_interleave(len(batch)))
        seen = classifier.head_features(encoded.batch(np.tile(batch, len(runs)), classifier.device)).cpu()
        seen = seen if seen.dtype == torch.float64 else seen.float()
        if found is None:
            found = seen.new_empty(len(runs), encoded.output_count, seen.shape[-1])
        places = encoded.outputs_of(batch)
        found[:, torch.from_numpy(places)] = seen.view(len(runs), len(places), seen.shape[-1])
    assert found is not None  # encode() refuses an empty list of texts
    return found


@with_own_threads
@torch.no_grad()
def _over_rows(
    classifier: Classifier, encoded: Encoded, compute: Callable[[Batch], Tensor], batch_tokens: int | None
) -> Tensor:
    classifier.eval()
    result: Tensor | None = None
    for rows in token_batches(encoded.lengths, tokens_at_once(classifier, batch_tokens)):
        values = compute(encoded.batch(rows, classifier.device)).float().cpu()
        if result is None:
            result = torch.empty(encoded.output_count, values.shape[1])
        result[torch.from_numpy(encoded.outputs_of(rows))] = values
    assert result is not None  # encode() refuses an empty list of texts
    return result
