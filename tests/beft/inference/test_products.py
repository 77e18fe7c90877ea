"""The products alone: as many operations as are counted in a real pass of each family."""

import pytest
import torch
from torch import nn

from beft.errors import InputError
from beft.inference.products import (
    compute_products,
    counted_operations,
    linear_layers,
    median_seconds,
    product_operations,
)
from beft.models.machine import cpu_flags, cpu_multiplies_bf16, cpu_name, large_product_rate
from tests.support.rows import random_rows, tiny_classifier


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("backward", [False, True])
def test_what_is_counted_is_what_is_computed(family, backward):
    classifier = tiny_classifier(family, dtype=torch.float32)
    expected = product_operations(classifier, [24, 40], backward=backward)
    assert counted_operations(lambda: compute_products(classifier, [24, 40], backward=backward)) == expected > 0
    assert product_operations(classifier, [64], backward=backward) == expected


def test_operations_by_hand():
    """The base's own forward pass has the layers' products, those of its pooler and head, and no others."""
    classifier = tiny_classifier("bert", dtype=torch.float32)
    config = classifier.model.config
    hidden, inner = config.hidden_size, config.intermediate_size
    by_hand = 2 * 64 * config.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * inner)
    assert product_operations(classifier, [64]) == by_hand
    rows = random_rows(8, longest=12)
    batch = rows.batch(list(range(8)))
    tokens = batch["input_ids"].numel()
    head = 2 * 8 * (hidden * hidden + hidden * len(classifier.labels))
    with torch.no_grad():
        counted = counted_operations(lambda: classifier(batch))
    assert counted == product_operations(classifier, [tokens]) + head


def test_weights_on_no_device_are_refused():
    classifier = tiny_classifier("bert")
    layer = linear_layers(classifier)[0]
    assert isinstance(layer, nn.Linear)
    layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)
    with pytest.raises(InputError, match=r"base\.device_map: none"):
        compute_products(classifier, [8])


def test_the_median_time_and_no_first_one(monkeypatch):
    taken = iter([9.0, 3.0, 1.0, 2.0])
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += next(taken)

    assert median_seconds(work, 5.5) == 2.0


def test_the_machine_has_a_name_and_a_speed():
    assert cpu_name()
    assert large_product_rate("cpu", torch.float32) > 1e8
    assert cpu_multiplies_bf16() == bool(cpu_flags() & {"amx_bf16", "avx512_bf16"})
