"""What a training depends on beside its runs' settings, as hashes: whose checkpoint may be continued."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beft.files import sha256_json
from beft.inference.runs import LabelledRows, Metric, Run
from beft.models.classifier import Classifier

_FORMAT = 2
"""Changed with whatever makes a checkpoint of before mean something else."""

_WHERE_THERE = ("positions",)
"""What was added later is named only where it is, so that the checkpoints of before are found."""


def training_identity(classifier: Classifier, train: LabelledRows, dev: LabelledRows | None, metric: Metric) -> str:
    """The sha256 over the base and how it is computed, the tokens and targets of train and dev, and the metric's name.

    A base that came from files is known by their hash, any other by its tensors.
    """
    named = dict(classifier.model.named_parameters())
    reference = classifier.reference
    stored = classifier.model.state_dict()
    newly_initialized = [(name, named[name]) for name in classifier.newly_initialized]
    config = classifier.model.config.to_dict() if hasattr(classifier.model, "config") else {}
    return sha256_json(
        {
            "format": _FORMAT,
            "base": _tensors_sha256(stored.items()) if reference is None else reference.sha256,
            "computed": [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in stored.items()],
            "quantization": repr(config.get("quantization_config")),
            "device": classifier.device.type,
            "threads": classifier.threads or torch.get_num_threads(),
            "drawn": _tensors_sha256(newly_initialized),
            "pooling": classifier.pooling,
            "labels": list(classifier.labels),
            "shape": classifier.problem_type.to_json(),
            "train": _rows_sha256(train),
            "dev": None if dev is None else _rows_sha256(dev),
            "metric": _metric_name(metric),
        }
    )


def run_identity(run: Run, classifier: Classifier) -> dict[str, Any]:
    """What a run is asked to do, and where its head starts, as JSON."""
    named = dict(classifier.model.named_parameters())
    start = [(name, run.initial_head.get(name, named[name])) for name in run.head]
    return {
        "name": run.name,
        "sites": [site.name for site in run.sites],
        "head": _tensors_sha256(start),
        "seed": run.seed,
        "settings": run.settings.model_dump(mode="json"),
        "select": run.select,
        "rows": run.rows,
    }


def _metric_name(metric: Metric) -> str:
    plain = f"{getattr(metric, '__module__', '')}.{getattr(metric, '__qualname__', type(metric).__qualname__)}"
    return str(getattr(metric, "name", plain))


def _tensors_sha256(named: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _rows_sha256(rows: LabelledRows) -> str:
    """Over the tokens, the targets, and whatever else of the rows a metric may look at."""
    truth = rows.truth if rows.source is not None else None
    choices = None if rows.source is None else rows.source.choices
    digest = hashlib.sha256()
    for encoded in (rows.encoded, rows.prompts):
        if encoded is None:
            continue
        for field in fields(encoded):
            value = getattr(encoded, field.name)
            if field.name in _WHERE_THERE and value is None:
                continue
            parts = value if isinstance(value, list) else [] if value is None else [value]
            digest.update(f"{field.name} {len(parts)}\n".encode())
            for part in parts:
                digest.update(np.asarray(part, dtype=np.int64).tobytes())
    for array in (rows.labels, rows.sizes):
        digest.update(b"\n" if array is None else array.tobytes())
    texts = {
        "answers": truth and truth.answers and [list(answers) for answers in truth.answers],
        "groups": truth and truth.groups and list(truth.groups),
        "choices": choices and [list(of_row) for of_row in choices],
        **({} if truth is None or truth.spans is None else {"spans": [list(map(list, of)) for of in truth.spans]}),
    }
    digest.update(sha256_json(texts).encode())
    return digest.hexdigest()
