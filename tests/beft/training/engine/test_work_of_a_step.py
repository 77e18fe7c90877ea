"""What a training step computes and keeps: counted, so that a step that became slower is seen on any machine."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from beft.encoding.tokenization import Encoded
from beft.inference.runs import LabelledRows, Run, finished
from beft.models.attention import use_batched_products
from beft.models.classifier import Classifier
from beft.models.machine import cpu_flags
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from tests.conftest import HEADS, HIDDEN, INTERMEDIATE, LABELS, LAYERS, PAD, VOCABULARY
from tests.support.rows import plain_settings, tiny_classifier

ROWS, TOKENS = 16, 12


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """In bf16, whose attention is products that can be counted."""
    found = tiny_classifier("bert", dtype=torch.bfloat16, pooling="mean")
    use_batched_products(found.model)
    return found


@pytest.fixture(scope="module")
def rows() -> LabelledRows:
    """One batch of an epoch, its texts of one length, so that no padding is computed."""
    draw = np.random.default_rng(0)
    ids = draw.integers(3, VOCABULARY, (ROWS, TOKENS)).tolist()
    return LabelledRows(Encoded(ids, None, np.full(ROWS, TOKENS), 0, PAD), draw.integers(0, LABELS, ROWS))


def run(classifier: Classifier, rows: LabelledRows, terms: list[str], runs: int = 1, epochs: int = 1) -> None:
    """Train, with as many seeds as runs are wanted; a step an epoch."""
    settings = plain_settings(epochs=epochs, learning_rate=1e-2, batch_size=ROWS, dropout=False)
    sites, head = find_sites(classifier.model, terms), classifier.head_parameters("output")
    several = [Run(f"run {seed}", sites, head, seed, settings, "last") for seed in range(runs)]
    finished(fit(classifier, rows, None, several, metric=lambda predicted, truth: 0.0, at_once=runs))


def of_a_step(measure) -> float:
    """The difference that one more step makes."""
    return measure(2) - measure(1)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("terms", [["value"], ["query"], ["output"]])
def test_nothing_is_multiplied_that_a_step_does_not_need(
    classifier: Classifier, rows: LabelledRows, terms: list[str], runs: int
) -> None:
    def operations(epochs: int) -> float:
        with FlopCounterMode(display=False) as counter:
            run(classifier, rows, terms, runs, epochs)
        return counter.get_total_flops()

    texts = runs * ROWS
    square = 2 * texts * TOKENS * HIDDEN * HIDDEN  # one linear layer of equal inputs and outputs
    wide = 2 * texts * TOKENS * HIDDEN * INTERMEDIATE
    attention = 2 * texts * TOKENS * TOKENS * HIDDEN  # scores, or what is made of the values
    head = 2 * texts * HIDDEN * LABELS
    pooler = 2 * texts * HIDDEN * HIDDEN  # transformers computes it of one token a text, though the mean is read
    forward = LAYERS * (4 * square + 2 * wide + 2 * attention) + pooler + head
    whole = 4 * square + 2 * wide + 4 * attention  # a layer that all of its inputs' gradients are computed of
    # In the lowest layer nothing is differentiated that stands below the trained biases.
    lowest = {
        "value": square + 2 * wide + attention,
        "query": square + 2 * wide + 2 * attention,
        "output": 0,
    }[terms[0]]
    backward = (LAYERS - 1) * whole + lowest + 2 * head  # of the head: its weight and its inputs
    assert of_a_step(operations) == forward + backward


@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        (torch.float32, 1080),  # 1,015 when it was written
        pytest.param(
            torch.bfloat16,
            1200,  # 1,129 when it was written
            marks=pytest.mark.skipif("avx512f" not in cpu_flags(), reason="a product in bf16 is many kernels here"),
        ),
    ],
)
def test_no_more_kernels_are_called(dtype: torch.dtype, most: int, rows: LabelledRows) -> None:
    classifier = tiny_classifier("bert", dtype=dtype, pooling="mean")
    use_batched_products(classifier.model)

    def calls(epochs: int) -> float:
        with profile(activities=[ProfilerActivity.CPU]) as found:
            run(classifier, rows, ["value"], epochs=epochs)
        return sum(one.count for one in found.key_averages() if one.key.startswith("aten::"))

    calls(1)  # what is set up once
    assert of_a_step(calls) < most


def test_no_more_is_kept_for_the_backward_pass(classifier: Classifier, rows: LabelledRows) -> None:
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in classifier.model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        run(classifier, rows, ["value"])
    queries_keys_values, norms = 3 * HIDDEN, 2 * HIDDEN
    probabilities = HEADS * TOKENS * 3  # in fp32 and in bf16, counted in numbers of bf16
    upper = queries_keys_values + norms + INTERMEDIATE + probabilities
    lowest = norms + INTERMEDIATE + probabilities // 3
    statistics = 2 * 2 * 4 * LAYERS  # mean and deviation of two layer norms, fp32
    needed = ROWS * TOKENS * (2 * ((LAYERS - 1) * upper + lowest) + statistics)
    assert sum(kept.values()) < 1.03 * needed
