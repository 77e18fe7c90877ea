"""The engine on a GPU, with the shapes of large models and random weights: `make gpu`.

For each model: one run in bf16 against the published protocol (fp32, padded to 128 tokens, one run at a time), 12 runs
in one pass against one after the other, and the memory; then OPT-6.7B in as little memory as it can, and whether
torch.compile and CUDA graphs pay. Nothing is downloaded. Writes benchmarks/speed/gpu.json and .md.
"""

import argparse
import gc
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beft.files import write_json
from beft.inference.runs import finished
from beft.models.device import Compute
from beft.training.engine.fit import fit
from benchmarks.common import machine, peers
from benchmarks.common.random_models import Shape, random_classifier, random_model, random_rows
from benchmarks.common.timing import Comparison, compare
from benchmarks.common.work import PLAIN, accuracy, first_rows, run_of
from benchmarks.speed import compiled_steps
from benchmarks.speed.gpu_table import RUNS, write_table

HERE = Path(__file__).parent
BERT = {"vocabulary": 30522, "positions": 512}
OPT = {"vocabulary": 50272, "positions": 2048}


@dataclass(frozen=True)
class Model:
    """A model to be measured.

    Attributes:
        value: How the name of its value projection ends.
        recompute: Whether its layers' activations are computed again instead of being kept.
    """

    shape: Shape
    value: str = "value"
    recompute: bool = False


MODELS = {
    "BERT-base": Model(Shape("bert", 12, 768, 12, 3072, **BERT)),
    "BERT-large": Model(Shape("bert", 24, 1024, 16, 4096, **BERT)),
    "RoBERTa-base": Model(Shape("roberta", 12, 768, 12, 3072, vocabulary=50265, positions=512)),
    "OPT-1.3B": Model(Shape("opt", 24, 2048, 32, 8192, **OPT), "v_proj"),
    "OPT-6.7B": Model(Shape("opt", 32, 4096, 32, 16384, **OPT), "v_proj", recompute=True),
}


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        rows: Rows of an epoch of the engine; about 27 tokens each, as in Rotten Tomatoes.
        published_rows: Rows of an epoch of the published protocol.
        large_rows: Rows of the training in little memory.
        large_tokens: Their tokens.
        micro_batch_size: Of these, how many are computed at once.
        compiled_rows: Rows of the training that is compiled, 32 tokens each.
    """

    rows: int = 640
    published_rows: int = 160
    large_rows: int = 1000
    large_tokens: int = 256
    micro_batch_size: int = 8
    compiled_rows: int = 960


TINY = Scale(rows=16, published_rows=8, large_rows=8, large_tokens=12, micro_batch_size=4, compiled_rows=64)

log = logging.getLogger("beft.gpu")


def speeds(model: Model, device: str, scale: Scale, repetitions: int) -> dict[str, Any]:
    """One run against the published protocol, and 12 runs in one pass against one after the other."""
    shape = model.shape
    lengths = np.random.default_rng(0).normal(27, 11, scale.rows).round().clip(4, 64).astype(int).tolist()
    rows = random_rows(lengths, shape.vocabulary)
    few = first_rows(rows, scale.published_rows)
    classifier = random_classifier(shape, device=device, dtype=torch.bfloat16)
    runs = [
        run_of(classifier, f"seed {seed}", ["value"], seed, activation_checkpointing=model.recompute)
        for seed in range(RUNS)
    ]
    published: list[Any] = []
    said: list[str] = []

    def ours(together: int) -> Callable[[], None]:
        def train() -> None:
            fit(classifier, rows, None, runs[:together], metric=accuracy, progress=said.append, at_once=together)
            synchronize(device)

        return train

    def theirs() -> None:
        published[:] = published or [random_model(shape, device=device, dtype=torch.float32)]
        peers.published_protocol(published[0], few, PLAIN, model.value)
        synchronize(device)

    found: dict[str, Any] = {
        "parameters": sum(value.numel() for value in classifier.model.parameters()),
        "recompute": model.recompute,
    }
    against: dict[str, Any] = {"asked": "", "repetitions": repetitions}
    found["published"] = _if_it_fits(
        lambda: compare(
            "one run against the published protocol",
            ours(1),
            theirs,
            examples=len(rows),
            their_examples=len(few),
            **against,
        )
    )
    published.clear()
    with peak_bytes(device) as peak:
        found["together"] = _if_it_fits(
            lambda: compare(
                f"{RUNS} runs in one pass against one after the other",
                ours(RUNS),
                ours(1),
                examples=RUNS * len(rows),
                their_examples=len(rows),
                **against,
            )
        )
    return found | {"peak_bytes": peak, "split": any("do not fit" in line for line in said)}


def little_memory(model: Model, device: str, scale: Scale) -> dict[str, Any]:
    """One epoch of the value biases in as little memory as the engine can: parts of a batch, layers computed again."""
    rows = random_rows([scale.large_tokens] * scale.large_rows, model.shape.vocabulary)
    with peak_bytes(device) as peak:
        classifier = random_classifier(model.shape, device=device, dtype=torch.bfloat16)
        run = run_of(
            classifier,
            "value",
            ["value"],
            micro_batch_size=scale.micro_batch_size,
            activation_checkpointing=True,
            dropout=False,
        )
        [found] = fit(classifier, rows, None, [run], metric=accuracy, at_once=1)
        synchronize(device)
    return {
        "rows": scale.large_rows,
        "tokens": scale.large_tokens,
        "micro_batch_size": scale.micro_batch_size,
        "seconds": finished(found).seconds,
        "peak_bytes": peak,
    }


def compiling(model: Model, device: str, scale: Scale) -> dict[str, Any]:
    """A step of one run as it is, compiled, and compiled with CUDA graphs."""
    classifier = random_classifier(model.shape, device=device, dtype=torch.bfloat16)
    rows = random_rows([32] * scale.compiled_rows, model.shape.vocabulary)
    found = compiled_steps.measure(classifier, rows, run_of(classifier, "value", ["value"], dropout=False), device)
    return {name: asdict(one) for name, one in found.items()}


def synchronize(device: str) -> None:
    """Wait for what the GPU still has to do."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def peak_bytes(device: str) -> Iterator[dict[str, int]]:
    """The GPU's greatest memory within the context: allocated, and reserved by torch; nothing is counted on a CPU."""
    peak: dict[str, int] = {}
    free_memory(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield peak
    if device == "cuda":
        peak |= {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


def free_memory(device: str) -> None:
    """Give back what no tensor uses."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _if_it_fits(measure: Callable[[], Comparison]) -> dict[str, Any] | None:
    try:
        return asdict(measure())
    except torch.OutOfMemoryError:
        log.info("it does not fit into the GPU's memory")
        return None


def tiny(model: Model) -> Model:
    """The same family, as small as can be."""
    shape = replace(model.shape, layers=2, width=32, heads=2, intermediate=64, vocabulary=100, positions=160)
    return replace(model, shape=shape)


def refusal(device: str, small: bool) -> str | None:
    """Why nothing can be measured here."""
    if device == "cpu":
        return None if small else "--device cpu is for --tiny alone: the models are too large for a CPU"
    return None if torch.cuda.is_available() else "make gpu needs a GPU, and torch finds no CUDA device here"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the table; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="run the whole program on tiny shapes, to test it")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the folder to write into; benchmarks/speed, or with --tiny none")
    asked = parser.parse_args(arguments)
    if why := refusal(asked.device, asked.tiny):
        sys.stderr.write(f"{why}\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device, scale = asked.device, TINY if asked.tiny else Scale()
    models = {name: tiny(model) if asked.tiny else model for name, model in MODELS.items()}
    described = machine.describe(Compute(device, "bf16", torch.get_num_threads()))
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    command = f'make gpu ARGS="{given}"' if given else "make gpu"
    result: dict[str, Any] = {"command": command, "machine": described, "scale": asdict(scale), "models": {}}
    out = asked.out or (None if asked.tiny else HERE)

    def keep() -> None:
        """What was measured stays, whatever happens to the rest."""
        free_memory(device)
        if out is not None:
            write_json(out / "gpu.json", result)

    for name in asked.models:
        log.info("%s", name)
        result["models"][name] = speeds(models[name], device, scale, asked.repetitions)
        keep()
    log.info("OPT-6.7B in little memory")
    result["little_memory"] = little_memory(models["OPT-6.7B"], device, scale)
    keep()
    log.info("BERT-base, compiled")
    result["compiling"] = compiling(models["BERT-base"], device, scale)
    keep()
    write_table(result, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
