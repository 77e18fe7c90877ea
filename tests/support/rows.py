"""Random labelled rows and classifiers for the tests of training."""

from typing import Any

import numpy as np
import torch

from beft.encoding.tokenization import Encoded
from beft.inference.runs import LabelledRows
from beft.models.classifier import Classifier
from beft.training_settings import TrainingSettings
from tests.conftest import END, LABELS, PAD, VOCABULARY, build_tiny


def plain_settings(**values: Any) -> TrainingSettings:
    """What a plain loop does: one learning rate for all, no warm-up, the model's own dropout."""
    return TrainingSettings(**{"head_learning_rate": None, "warmup_fraction": 0.0, "dropout": True, **values})


def random_rows(
    rows: int, *, seed: int = 0, longest: int = 12, labels: int = LABELS, ended: bool = False
) -> LabelledRows:
    """Rows of 3 to ``longest`` random tokens whose label follows from their tokens, so that it can be learnt.

    Args:
        ended: Whether the last token of a row is END, as the head of an encoder-decoder needs it.
    """
    random = np.random.default_rng(seed)
    lengths = random.integers(3, longest + 1, rows)
    ids = [random.integers(3, VOCABULARY, length).tolist() for length in lengths]
    if ended:
        ids = [[*row[:-1], END] for row in ids]
    labels_of_rows = np.array([sum(row) % 97 * labels // 97 for row in ids], dtype=np.int64)
    return LabelledRows(Encoded(ids, None, lengths.astype(np.int64), 0, PAD), labels_of_rows)


def tiny_classifier(family: str = "bert", *, dtype: torch.dtype = torch.float64, pooling: str = "model") -> Classifier:
    """A tiny random classifier without a tokenizer."""
    return Classifier(build_tiny(family, dtype=dtype), None, None, ("a", "b", "c"), pooling)
