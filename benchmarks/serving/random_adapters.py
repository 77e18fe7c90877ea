"""Adapters with independently random values over the default base, of other terms and numbers of labels."""

from collections.abc import Iterator

import torch

from beft.adapters.adapter import Adapter
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import BaseReference
from beft.sites.site import find_sites

TERMS: tuple[tuple[str, ...], ...] = (("value",), ("query",), ("query", "value"), ("attention_output",), ("output",))
LABELS = (2, 3, 4, 5, 6)


def random_adapters(
    base: BaseReference, count: int, *, terms: tuple[tuple[str, ...], ...] = TERMS, labels: tuple[int, ...] = LABELS
) -> Iterator[Adapter]:
    """Adapters that differ in their terms, their labels and all their values.

    Args:
        terms: Taken in turns.
        labels: Numbers of labels, taken in turns.
    """
    classifiers: dict[int, Classifier] = {}
    for number in range(count):
        size = labels[number % len(labels)]
        if size not in classifiers:
            names = [f"label-{at}" for at in range(size)]
            classifiers[size] = load_classifier(base, names, compute=Compute("cpu", "fp32", 1), pooling="mean")
        classifier = classifiers[size]
        of_one = terms[number // len(labels) % len(terms)]
        generator = torch.Generator().manual_seed(number)
        parameters = dict(classifier.model.named_parameters())
        yield Adapter.trained(
            classifier,
            terms=of_one,
            deltas={
                site: torch.randn(site.width, generator=generator) * 0.05
                for site in find_sites(classifier.model, of_one)
            },
            head={
                name: torch.randn(parameters[name].shape, generator=generator) * 0.1
                for name in classifier.head_parameters("output")
            },
            max_length=128,
            head_train="output",
            dataset="random",
            pairs=False,
            provenance={"seed": number, "data_sha256": "0" * 64},
        )
