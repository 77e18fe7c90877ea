"""The peers: which trainings they are in a cell, what these cost, and the program that runs them.

SetFit, PEFT's LoRA and full fine-tuning under transformers' Trainer run in an environment of their own (peers.txt,
which ``make few-labels`` installs into .venv-peers), in peer_program.py.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beft.datasets.prepared import Rows
from beft.errors import BeftError, InputError
from beft.files import read_json, write_json
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.settings import BaseSettings
from beft.training_settings import automatic_epochs
from benchmarks.common.prepared import ROOT
from benchmarks.few_labels.cells import Cell
from benchmarks.few_labels.methods import MAX_LENGTH

PYTHON = ROOT / ".venv-peers" / "bin" / "python"
_PROGRAM = Path(__file__).with_name("peer_program.py")

_METHOD_OF = {"setfit": "setfit", "setfit_tuned": "setfit", "lora": "lora", "full_fine_tuning": "full"}
PEERS = tuple(_METHOD_OF)
"""Every peer, in the order of the table; the program has one training function for SetFit with any settings."""

SEARCH_DRAW = 1000
"""The number of the draw on which settings are searched; the draws that are reported begin at 0."""

BATCH = 16
MAX_PAIRS = 16_000
_SHORT = 150

_FULL_RATES = (3e-5, 1e-4, 3e-4)
_LORA_RATES = (1e-3, 3e-3, 1e-2)
_SETFIT_RATES = (5e-5, 1e-4)


@dataclass(frozen=True)
class Training:
    """One training of a peer; settings as peer_program.py has them."""

    peer: str
    settings: dict[str, Any]


def grid(peer: str, cell: Cell, labels: int) -> list[Training]:
    """What is tried on the draw of the search: of several equally good ones the first is taken. One: no search.

    Trainer's peers train as many epochs as beft does by default.
    """
    if peer in ("setfit", "setfit_tuned"):
        plain = setfit_settings(cell, labels)
        found: list[dict[str, Any]] = [plain]
        if peer == "setfit_tuned":
            found += [{**plain, "body_learning_rate": rate} for rate in _SETFIT_RATES]
            if setfit_pairs(cell, labels, plain) <= _SHORT * BATCH:
                found += [{**plain, "body_learning_rate": rate, "num_epochs": 3} for rate in (2e-5, *_SETFIT_RATES)]
    else:
        epochs = automatic_epochs(cell.rows * labels, BATCH)
        rates = _LORA_RATES if peer == "lora" else _FULL_RATES
        found = [{"learning_rate": rate, "epochs": epochs} for rate in rates]
    return [Training(peer, settings) for settings in found]


def setfit_settings(cell: Cell, labels: int) -> dict[str, Any]:
    """SetFit's defaults, which pair each text with each other; with many rows fewer pairs, as SetFit's users do.

    From 64 rows a label and with many labels: 20 pairs of each kind for a text, as in SetFit's paper (Tunstall et al.,
    2022), and fewer where these would be more than MAX_PAIRS in all.
    """
    rows = cell.rows * labels
    if cell.rows < 64 and setfit_pairs(cell, labels, {}) <= MAX_PAIRS:
        return {}
    return {"num_iterations": max(1, min(20, MAX_PAIRS // (2 * rows)))}


def setfit_pairs(cell: Cell, labels: int, settings: Mapping[str, Any]) -> int:
    """How many pairs of texts an epoch of SetFit has."""
    if "num_iterations" in settings:
        return 2 * int(settings["num_iterations"]) * cell.rows * labels
    positive = labels * cell.rows * (cell.rows + 1) // 2  # a text is paired with itself as well
    negative = labels * (labels - 1) // 2 * cell.rows**2
    return 2 * max(positive, negative)


def estimated_seconds(training: Training, cell: Cell, labels: int, tokens: float) -> float:
    """How long a training and its predictions take, about, on one core that computes bf16 fast while others are busy.

    Args:
        tokens: Of a text, on average.
    """
    if _METHOD_OF[training.peer] == "setfit":
        epochs = float(training.settings.get("num_epochs", 1))
        steps = setfit_pairs(cell, labels, training.settings) / BATCH * epochs
        step = _STEP["full"] + 2 * BATCH * tokens * _TOKEN
    else:
        steps = float(training.settings["epochs"]) * -(-cell.rows * labels // BATCH)
        step = _STEP[_METHOD_OF[training.peer]] + BATCH * tokens * _TOKEN
    return _START + steps * step


_STEP = {"full": 0.25, "lora": 0.08}  # the optimizer's share most of all: full updates 22 million numbers
_TOKEN = 1e-3
_START = 10.0  # loading and prediction


def run_trainings(
    trainings: Mapping[str, Training], drawn: Rows, test: Rows, labels: int, seed: int, compute: Compute
) -> dict[str, dict[str, Any]]:
    """Run trainings by name; of each: accuracy on the test rows, seconds, and how many numbers were trained.

    Raises:
        InputError: The environment of the peers is not there.
        BeftError: The program failed; the message has its last lines.
    """
    if not trainings:
        return {}
    if not PYTHON.is_file():
        raise InputError(
            f"the peers need the environment {PYTHON.parents[1].name}, which `make few-labels` builds; "
            "without them: --methods logistic_regression auto"
        )
    jobs = {
        "base": str(resolve_base(BaseSettings().source).folder),
        "threads": compute.threads,
        # Products in bf16 of weights in fp32 where beft computes in bf16 as well: torch's own switch.
        "products": "medium" if compute.precision == "bf16" else "highest",
        "max_length": MAX_LENGTH,
        "labels": labels,
        "train": {"texts": drawn.texts, "labels": drawn.labels},
        "test": {"texts": test.texts},
        "trainings": [
            {"name": name, "method": _METHOD_OF[one.peer], "settings": one.settings, "seed": seed}
            for name, one in trainings.items()
        ],
    }
    truth = np.array(test.labels)
    return {
        name: {
            "accuracy": float((np.array(answer.pop("predictions")) == truth).mean()),
            **answer,
            "threads": compute.threads,
        }
        for name, answer in _run_program(jobs).items()
    }


def _run_program(jobs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "true"}
    threads = {"OMP_NUM_THREADS": str(jobs["threads"]), "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="beft-peers-") as folder:
        source, target = Path(folder, "jobs.json"), Path(folder, "answers.json")
        write_json(source, jobs)
        done = subprocess.run(
            [str(PYTHON), str(_PROGRAM), str(source), str(target)],
            env={**os.environ, **quiet, **threads},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = "\n".join(done.stderr.splitlines()[-8:])
            raise BeftError(f"{_PROGRAM.name} ended with {done.returncode}: {last}")
        answers: dict[str, dict[str, Any]] = read_json(target)
        return answers


def search(peer: str, cell: Cell, drawn: Rows, others: Rows, labels: int, compute: Compute) -> dict[str, Any]:
    """The settings of a peer in a cell: those of its grid that are the best on rows of train that the draw lacks.

    Args:
        drawn: The draw of SEARCH_DRAW.
        others: What is predicted.

    Returns:
        ``settings``: the best; ``tried``: what each gave.
    """
    tried = grid(peer, cell, labels)
    if len(tried) == 1:
        return {"settings": tried[0].settings, "tried": []}
    named = {json.dumps(one.settings): one for one in tried}
    found = run_trainings(named, drawn, others, labels, SEARCH_DRAW, compute)
    best = max(named, key=lambda name: found[name]["accuracy"])
    return {
        "settings": named[best].settings,
        "tried": [
            {"settings": one.settings, "accuracy": found[name]["accuracy"], "seconds": found[name]["seconds"]}
            for name, one in named.items()
        ],
    }
