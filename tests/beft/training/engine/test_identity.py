"""A checkpoint is continued by the training that it belongs to, and by no other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from beft.files import write_text
from beft.inference.runs import LabelledRows, Run, finished
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.settings import Quantization
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from tests.conftest import build_tiny
from tests.support.rows import plain_settings, random_rows
from tests.support.tiny_bases import save_base
from tests.support.weights import quiet

LABELS = ("a", "b", "c")
HEAD = ("classifier.weight", "classifier.bias")


def accuracy(probabilities, labels):
    return float((probabilities.argmax(-1) == labels).mean())


def mistakes(probabilities, labels):
    return -accuracy(probabilities, labels)


def classifier_of(seed=0, dtype=torch.float32, pooling="model", drawn=()):
    return Classifier(build_tiny("bert", seed=seed, dtype=dtype), None, None, LABELS, pooling, drawn)


def other_tokens(rows: LabelledRows) -> LabelledRows:
    """Rows of the same lengths and labels."""
    ids = [[row[0] + 1, *row[1:]] for row in rows.encoded.input_ids]
    return LabelledRows(replace(rows.encoded, input_ids=ids), rows.labels)


def steps_made(folder: Path, **changes) -> int:
    """How many steps a training made that was started in a folder of checkpoints."""
    given = {
        "classifier": classifier_of(),
        "train": random_rows(24),
        "dev": random_rows(16, seed=1),
        "metric": accuracy,
        "head": {},
        **changes,
    }
    classifier = given["classifier"]
    sites, head = find_sites(classifier.model, ["value"]), classifier.head_parameters()
    run = Run("run", sites, head, 3, plain_settings(epochs=1, batch_size=8), initial_head=given["head"])
    [found] = fit(
        classifier, given["train"], given["dev"], [run], metric=given["metric"], checkpoints=folder, progress=quiet
    )
    return finished(found).steps_here


def head_of(seed):
    named = dict(classifier_of(seed).model.named_parameters())
    return {name: named[name].detach() for name in classifier_of().head_parameters()}


def threaded():
    found = classifier_of()
    found.threads = 2
    return found


OTHERS = {
    "another base of the same shape": lambda: {"classifier": classifier_of(seed=1)},
    "another precision": lambda: {"classifier": classifier_of(dtype=torch.float64)},
    "another pooling": lambda: {"classifier": classifier_of(pooling="mean")},
    "another number of threads": lambda: {"classifier": threaded()},
    "other tokens": lambda: {"train": other_tokens(random_rows(24))},
    "other dev rows": lambda: {"dev": other_tokens(random_rows(16, seed=1))},
    "other dev labels": lambda: {"dev": replace(random_rows(16, seed=1), labels=np.zeros(16, dtype=np.int64))},
    "another metric": lambda: {"metric": mistakes},
    "another start of the head": lambda: {"head": head_of(5)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_is_not_continued_with(what: str, tmp_path: Path) -> None:
    assert steps_made(tmp_path) == 3
    assert steps_made(tmp_path) == 0
    assert steps_made(tmp_path, **OTHERS[what]()) == 3
    assert steps_made(tmp_path) == 0, "that of the first is still there"


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantised_base_is_another(quantization: Quantization, tmp_path: Path) -> None:
    """One and the same files, kept in fewer bits."""
    reference = resolve_base(str(save_base(tmp_path / "base", build_tiny("bert"))))
    wide, narrow = (
        load_classifier(reference, LABELS, compute=Compute("cpu", "fp32", 1, kind)) for kind in ("none", quantization)
    )
    head = {name: value.detach() for name, value in dict(wide.model.named_parameters()).items() if name in HEAD}
    kept = tmp_path / "checkpoints"
    assert steps_made(kept, classifier=wide, head=head) == 3
    assert steps_made(kept, classifier=narrow, head=head) == 3
    assert steps_made(kept, classifier=wide, head=head) == 0


@pytest.mark.parametrize("text", ["", "{", "[[0]]", "[[0, 0]]", '{"a": 1}'])
def test_a_damaged_plan_is_made_again(text: str, tmp_path: Path) -> None:
    classifier = classifier_of()
    sites, head = find_sites(classifier.model, ["value"]), classifier.head_parameters()
    settings = plain_settings(epochs=1, batch_size=8)
    runs = [Run(str(seed), sites, head, seed, settings) for seed in range(2)]
    rows = random_rows(16)
    fit(classifier, rows, rows, runs, metric=accuracy, checkpoints=tmp_path, progress=quiet, at_once=2)
    [plan] = tmp_path.glob("plan-*.json")
    write_text(plan, text)
    found = fit(classifier, rows, rows, runs, metric=accuracy, checkpoints=tmp_path, progress=quiet, at_once=2)
    assert [finished(one).steps_here for one in found] == [0, 0]


def test_checkpoints_of_before_are_left_alone(tmp_path: Path) -> None:
    """Files by the names that they once had are no reason to stop."""
    (tmp_path / "run.safetensors").write_bytes(b"old")
    write_text(tmp_path / "plan-0123456789abcdef.json", "[[7]]")
    assert steps_made(tmp_path) == 3
