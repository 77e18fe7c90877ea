"""A saved adapter in a process of its own: the same logits, the same predictions, the same bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.bank.bank import Bank
from beft.encoding.tokenization import encode
from beft.files import sha256_file
from tests.conftest import BIAS_FREE
from tests.support.tiny_bases import LABELS, TEXTS, draw_deltas, draw_head, load, save_base

ROOT = Path(__file__).parents[3]


# family, pooling, precision, head.train, terms: among them heads that the base's files do not hold (RoBERTa's inner
# layer, DistilBERT's), added biases (Llama, T5), slices of a Conv1D (GPT-2) and interleaved ones (GPT-NeoX), layer
# norms, shared layers (ALBERT), an encoder with a decoder.
CASES = (
    ("bert", "model", "fp32", "output", ("value",)),
    ("bert", "mean", "bf16", "output", ("query", "embedding_norm", "output_norm")),
    ("bert", "cls", "fp64", "output", ("intermediate",)),
    ("bert", "model", "fp32", "paper", ("value",)),
    ("roberta", "model", "fp32", "output", ("value",)),
    ("roberta", "model", "bf16", "full", ("value",)),
    ("mpnet", "model", "bf16", "output", ("value", "key")),
    ("distilbert", "model", "fp32", "output", ("attention_output",)),
    ("opt", "model", "fp32", "output", ("value", "final_norm")),
    ("gpt2", "model", "fp32", "output", ("value", "query")),
    ("qwen2", "model", "fp32", "output", ("value",)),
    ("llama", "model", "fp32", "output", ("value", "output")),
    ("deberta-v2", "model", "fp32", "output", ("value", "key")),
    ("albert", "model", "bf16", "full", ("value", "embedding_norm")),
    ("gpt_neox", "model", "fp32", "output", ("value", "query")),
    ("bart", "model", "fp32", "output", ("value", "attention_norm", "embedding_norm")),
    ("t5", "mean", "fp32", "output", ("value", "intermediate")),
)


# Runs without anything of this test: only the saved folders, and none of the packages of training.
FRESH = """
import sys
for name in ("peft", "sklearn", "scipy", "pandas", "evaluate", "datasets", "mlflow", "prefect", "dvc", "accelerate",
             "great_expectations", "matplotlib", "sentence_transformers", "tests"):
    sys.modules[name] = None
import json
from pathlib import Path
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
from beft.adapters.adapter import Adapter
from beft.models.base import load_classifier
from beft.models.reference import resolve_base
from beft.models.device import Compute
from beft.encoding.tokenization import encode
from beft.inference.predictor import Predictor

root = Path(sys.argv[1])
logits, predictions = {}, {}
for case in json.loads((root / "cases.json").read_text()):
    adapter = Adapter.load(root / case["adapter"])
    compute = Compute("cpu", case["precision"], 1)
    reference = resolve_base(str(root / case["base"]))
    classifier = load_classifier(reference, adapter.labels, compute=compute, pooling=adapter.pooling, seed=777)
    encoded = encode(classifier.tokenizer, case["texts"], max_length=adapter.max_length)
    with torch.no_grad(), adapter.attached(classifier):
        logits[case["adapter"]] = classifier(encoded.batch(range(len(encoded))))
    adapter.save(root / "again" / case["adapter"])
    predictor = Predictor(root / case["adapter"], base=root / case["base"], device="cpu", precision=case["precision"])
    predictions[case["adapter"]] = predictor.predict(case["texts"])
save_file(logits, root / "logits.safetensors")
(root / "predictions.json").write_text(json.dumps(predictions))
"""


@pytest.fixture(scope="module")
def fresh(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """Every case trained and saved here, and opened by one fresh process; its results are files in the folder."""
    root = tmp_path_factory.mktemp("fresh")
    cases, logits = [], {}
    for number, (family, pooling, precision, train, terms) in enumerate(CASES):
        name, base = f"adapter-{number}", f"base-{family}"
        if not (root / base).exists():
            save_base(root / base, tiny(family))
        classifier = load(root / base, pooling=pooling, precision=precision)
        deltas = draw_deltas(classifier, terms, add=family in BIAS_FREE, seed=number)
        head = draw_head(classifier, train)
        if precision == "fp64":  # training over an fp64 base is fp64 throughout
            deltas = {site: delta.double() / 3 for site, delta in deltas.items()}
            head = {key: value.double() / 3 for key, value in head.items()}
        encoded = encode(classifier.tokenizer, TEXTS, max_length=24)
        with torch.no_grad(), Bank(classifier.model, deltas, head):
            logits[name] = classifier(encoded.batch(range(len(TEXTS))))
        Adapter.trained(
            classifier,
            terms=terms,
            deltas=deltas,
            head=head,
            max_length=24,
            head_train=train,
            dataset="tiny",
            provenance={"b": 1, "a": [0.1]},
        ).save(root / name)
        cases.append({"adapter": name, "base": base, "precision": precision, "texts": TEXTS})
    (root / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", FRESH, str(root)], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return root, logits


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case[:4])) for case in CASES])
def test_a_fresh_process_gives_bit_identical_logits(fresh: tuple[Path, dict[str, Tensor]], number: int) -> None:
    root, logits = fresh
    name = f"adapter-{number}"
    found = load_file(root / "logits.safetensors")[name]
    assert found.dtype == logits[name].dtype
    assert torch.equal(found, logits[name])


def test_a_fresh_process_predicts_the_same(fresh: tuple[Path, dict[str, Tensor]]) -> None:
    root, logits = fresh
    predictions = json.loads((root / "predictions.json").read_text())
    for number, case in enumerate(CASES):
        name = f"adapter-{number}"
        expected = torch.softmax(logits[name].float(), -1)
        found = torch.tensor([[row["probabilities"][label] for label in LABELS] for row in predictions[name]])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-2 if case[2] == "bf16" else 1e-5)


def test_the_same_adapter_has_the_same_bytes_in_another_process(fresh: tuple[Path, dict[str, Tensor]]) -> None:
    root, _ = fresh
    for number in range(len(CASES)):
        first, again = root / f"adapter-{number}", root / "again" / f"adapter-{number}"
        assert {path.name: sha256_file(path) for path in first.iterdir()} == {
            path.name: sha256_file(path) for path in again.iterdir()
        }
