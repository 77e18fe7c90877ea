"""What is measured without HTTP: equality with an adapter alone, memory, and PEFT's two ways to mix adapters."""

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from beft.encoding.tokenization import encode, token_batches
from beft.inference.predictions import sequence_outputs
from beft.inference.questions import Questions
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import BaseReference
from beft.serving.engine import Engine
from beft.serving.served_adapter import EncodedRow
from beft.sites.batch_axis import Batch
from benchmarks.serving.random_adapters import random_adapters

BASE_IN_BATCHES, BASE_BY_ROWS = "the base alone, in the same batches", "the base alone, a row at a time"
PEFT_BEFT, PEFT_LORA = "PEFT BEFT, set_adapter a row", "PEFT LoRA, mixed batch"


def largest_difference(base: BaseReference, compute: Compute, texts: Sequence[str], adapters: int) -> dict[str, Any]:
    """The largest difference of an output in mixed batches to the adapter alone on its base."""
    engine = Engine(base, compute)
    made = list(random_adapters(base, adapters))
    served = [engine.load(adapter) for adapter in made]
    rows = [engine.encode(served[at % adapters], [text])[0] for at, text in enumerate(texts)]
    mixed: dict[int, Any] = {}
    forwards, batches = engine.forwards, 0
    for batch in batches_of(engine, rows):
        mixed |= dict(zip(batch, engine.outputs([rows[at] for at in batch]), strict=True))
        batches += 1
    assert engine.forwards - forwards == batches  # one forward pass a batch, however many adapters
    largest = 0.0
    for number, adapter in enumerate(made):
        classifier = load_classifier(base, adapter.labels, compute=compute, pooling=adapter.pooling)
        own = [at for at in range(len(texts)) if at % adapters == number]
        encoded = classifier.examples(Questions([texts[at] for at in own]), adapter.max_length).encoded
        with adapter.attached(classifier):
            [outputs] = sequence_outputs(classifier, encoded)
        for at, alone in zip(own, outputs, strict=True):
            largest = max(largest, float((mixed[at][0] - alone).abs().max()))
    return {"adapters": adapters, "rows": len(texts), "largest": largest}


def batches_of(engine: Engine, rows: Sequence[EncodedRow]) -> list[list[int]]:
    """The numbers of the rows of each batch, by length, up to the engine's tokens."""
    import numpy as np

    lengths = np.array([row.length for row in rows])
    return [batch.tolist() for batch in token_batches(lengths, engine.batch_tokens)]


def memory(base: BaseReference, compute: Compute, adapters: int) -> dict[str, Any]:
    """What value adapters with two labels take above the base."""
    engine = Engine(base, compute)
    few = list(random_adapters(base, 50, terms=(("value",),), labels=(2,)))
    served = [engine.load(adapter) for adapter in few]  # what every engine has, whatever it serves
    engine.outputs(engine.encode(served[0], ["a film"]))
    gc.collect()
    before, tables = resident(), engine.table_bytes
    engine.reserve([few[at % len(few)] for at in range(adapters)])
    for _ in range(adapters // len(few)):
        served += [engine.load(adapter) for adapter in few]
    gc.collect()
    return {
        "adapters": adapters,
        "resident": resident() - before,
        "tables": engine.table_bytes - tables,
        "each": served[0].bytes,
    }


def resident() -> int:
    """Memory of this process, bytes."""
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def against_peft(
    base: BaseReference, compute: Compute, texts: Sequence[str], *, adapters: int, repetitions: int
) -> dict[str, Any]:
    """Rows a second: beft's mixed batches; PEFT's BEFT, the active adapter set for each row; PEFT's mixed LoRA batch.

    PEFT has no mixed batch for BEFT, so its LoRA of the usual rank, 8 on query and value, stands for mixed batches. All
    three get the same rows, tokenized before, and one batch of all rows of like length where they can mix. The base
    without any adapter is timed in both ways as well: it bounds every ratio.
    """
    engine = Engine(base, compute)
    made = list(random_adapters(base, adapters, terms=(("value",),), labels=(2,)))
    served = [engine.load(adapter) for adapter in made]
    rows = [engine.encode(served[at % adapters], [text])[0] for at, text in enumerate(texts)]
    batches = batches_of(engine, rows)

    def beft() -> None:
        for batch in batches:
            engine.outputs([rows[at] for at in batch])

    tuned, mixed = _peft_beft(base, made), _peft_lora(base, adapters)
    encoded = encode(engine.classifier.tokenizer, list(texts), max_length=128)
    inputs = [encoded.batch([at]) for at in range(len(texts))]
    together = [encoded.batch(batch) for batch in batches]

    @torch.inference_mode()
    def switching() -> None:
        for at, of_row in enumerate(inputs):
            tuned.set_adapter(f"a{at % adapters}")
            tuned(**of_row)

    @torch.inference_mode()
    def lora() -> None:
        for batch, of_batch in zip(batches, together, strict=True):
            mixed(**of_batch, adapter_names=[f"a{at % adapters}" for at in batch])

    plain = _plain(base)

    @torch.inference_mode()
    def alone(batches_of_tokens: Sequence[Batch]) -> None:
        for of_batch in batches_of_tokens:
            plain(**of_batch)

    ways: dict[str, Callable[[], None]] = {
        "beft": beft,
        BASE_IN_BATCHES: partial(alone, together),
        BASE_BY_ROWS: partial(alone, inputs),
        PEFT_BEFT: switching,
        PEFT_LORA: lora,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            if repetition:
                seconds[name].append(time.perf_counter() - began)
    rates = {name: len(texts) / median(of_one) for name, of_one in seconds.items()}
    ratios = {
        name: sorted(theirs / ours for ours, theirs in zip(seconds["beft"], of_one, strict=True))
        for name, of_one in seconds.items()
    }
    return {"adapters": adapters, "rows": len(texts), "rates": rates, "ratios": ratios}


def _plain(base: BaseReference) -> Any:
    """The base with a head, and no adapter."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(base.folder, num_labels=2).eval()


def _peft_beft(base: BaseReference, made: Sequence[Any]) -> Any:
    """A model of PEFT with an adapter of BEFT a name."""
    from peft import BeftConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base.folder, num_labels=2).eval()
    config = BeftConfig(task_type=TaskType.SEQ_CLS, target_modules=["value"], modules_to_save=["classifier"])
    tuned = get_peft_model(model, config, adapter_name="a0")
    for number in range(1, len(made)):
        tuned.add_adapter(f"a{number}", config)
    return tuned.eval()


def _peft_lora(base: BaseReference, adapters: int) -> Any:
    """A model of PEFT with a LoRA a name; the head is one for all, since PEFT does not mix heads."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base.folder, num_labels=2).eval()
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
    tuned = get_peft_model(model, config, adapter_name="a0")
    for number in range(1, adapters):
        tuned.add_adapter(f"a{number}", config)
    return tuned.eval()
