"""Adapters with other terms, heads, numbers of labels and poolings over one tiny base, and what each gives alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.encoding.examples import LabelledRows
from beft.inference.predictions import sequence_outputs
from beft.inference.questions import Questions
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import BaseReference, resolve_base
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.problem_type import ProblemType
from beft.problems.regression import Regression
from beft.serving.engine import Engine
from tests.conftest import build_tiny
from tests.support.tiny_bases import draw_deltas, draw_head, save_base

COMPUTE = Compute("cpu", "fp32", 1)


@dataclass(frozen=True)
class Kind:
    """What an adapter is like."""

    labels: tuple[str, ...] = ("bad", "good")
    terms: tuple[str, ...] = ("value",)
    pooling: str = "mean"
    train: str = "output"
    problem_type: ProblemType | None = None
    seed: int = 0
    max_length: int = 24


def draw_adapter(base: BaseReference, kind: Kind) -> Adapter:
    """A random adapter."""
    classifier = load_classifier(
        base, kind.labels, compute=COMPUTE, pooling=kind.pooling, problem_type=kind.problem_type, seed=kind.seed
    )
    return Adapter.trained(
        classifier,
        terms=kind.terms,
        deltas=draw_deltas(classifier, kind.terms, seed=kind.seed),
        head=draw_head(classifier, kind.train, seed=kind.seed + 1),
        max_length=kind.max_length,
        head_train=kind.train,
        dataset="tiny",
        provenance={"seed": kind.seed, "data_sha256": "0" * 64},
    )


def alone(base: BaseReference, adapter: Adapter, questions: Questions, *, compute: Compute = COMPUTE) -> list[Tensor]:
    """The outputs of each row of questions under one adapter, by a bank of its own."""
    classifier = load_classifier(
        base, adapter.labels, compute=compute, pooling=adapter.pooling, problem_type=adapter.problem_type
    )
    rows: LabelledRows = classifier.examples(questions, adapter.max_length)
    with adapter.attached(classifier):
        [outputs] = sequence_outputs(classifier, rows.encoded)
    return list(torch.split(outputs, rows.output_sizes.tolist()))


def tiny_base(folder: Path, family: str = "bert") -> BaseReference:
    """A tiny base in a folder."""
    return resolve_base(str(save_base(folder, build_tiny(family))))


def engine_with(base: BaseReference, adapters: Sequence[Adapter], *, compute: Compute = COMPUTE) -> tuple[Engine, list]:  # type: ignore[type-arg]
    """An engine that has loaded adapters."""
    engine = Engine(base, compute)
    return engine, [engine.load(adapter) for adapter in adapters]


REGRESSION = Kind((), problem_type=Regression(), seed=7)
CHOICES = Kind((), problem_type=MultipleChoice(), seed=8)
