"""What is said to be kept against what a batch really keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from beft.inference.runs import LabelledRows
from beft.training.engine.cost import readable_bytes, readable_seconds, saved_bytes
from tests.support.rows import random_rows, tiny_classifier


def equal_rows(rows: int) -> LabelledRows:
    """Rows of one length."""
    found = random_rows(4 * rows, longest=12)
    lengths = np.full(len(found), 3, dtype=np.int64)
    encoded = replace(found.encoded, input_ids=[ids[:3] for ids in found.encoded.input_ids], lengths=lengths)
    return LabelledRows(encoded, found.labels)


def test_twice_the_rows_keep_twice_the_bytes():
    classifier, rows = tiny_classifier(), equal_rows(16)
    assert saved_bytes(classifier, rows, 32) == pytest.approx(2 * saved_bytes(classifier, rows, 16), rel=0.05)


def test_what_is_kept_is_at_least_the_inputs_of_every_layer():
    classifier, rows = tiny_classifier(dtype=torch.float32), equal_rows(16)
    config = classifier.model.config
    layer_inputs = config.num_hidden_layers * 16 * 3 * config.hidden_size * 4
    assert 5 * layer_inputs < saved_bytes(classifier, rows, 16) < 100 * layer_inputs


def test_nothing_is_changed():
    classifier, rows = tiny_classifier(), random_rows(16)
    classifier.train()
    before = {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}
    saved_bytes(classifier, rows, 8)
    assert classifier.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in classifier.model.parameters())
    assert not classifier.model.get_input_embeddings()._forward_hooks


def test_numbers_are_readable():
    assert readable_bytes(1.5e6) == "2 MB"
    assert readable_bytes(2.34e9) == "2.3 GB"
    assert readable_seconds(42) == "42 s"
    assert readable_seconds(600) == "10 min"
