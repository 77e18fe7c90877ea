"""Memory that is used up on a CPU, for real: a process that may have no more of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from beft.files import read_json
from beft.models.memory import is_out_of_memory

CHILD = """
import json, resource, sys
from pathlib import Path
import psutil, torch
torch.set_num_threads(1)
from beft.errors import BeftError
from beft.inference.runs import finished
from beft.training.engine.fit import fit
from tests.beft.training.engine.test_fit import accuracy, run_of
from tests.support.rows import plain_settings, random_rows, tiny_classifier

classifier = tiny_classifier(dtype=torch.float32)
rows = random_rows(128, longest=60)
settings = plain_settings(epochs=2, learning_rate=1e-2, batch_size=64, dropout=False)
runs = [run_of(classifier, ["value"], settings, seed=seed, name=str(seed)) for seed in range(8)]
said = []

def train(runs, checkpoints=None):
    results = fit(
        classifier, rows, rows, runs, metric=accuracy, at_once=8, checkpoints=checkpoints, progress=said.append
    )
    return [[of["train_loss"] for of in finished(result).history] for result in results]

def limited(megabytes, runs, checkpoints=None):
    most = psutil.Process().memory_info().vms + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        return train(runs, checkpoints)
    except BeftError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

whole = train(runs)  # which also sets up what is needed once
refused = limited(2, runs[:1])
halved = limited(20, runs, Path(sys.argv[1]))
told = [line for line in said if "going on with" in line]
print(json.dumps({"refused": refused, "halved": halved, "told": told, "whole": whole}))
"""


def test_a_pass_that_does_not_fit_is_halved_and_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        # What was freed goes back to the system, so that the limit is one of what is in use.
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["told"][0] == "8 runs do not fit into memory together; going on with 4 and 4"
    [plan] = tmp_path.glob("plan-*.json")
    assert len(read_json(plan)) > 1  # started again, it does not try all eight
    assert found["halved"] == [pytest.approx(losses, rel=1e-5) for losses in found["whole"]]
    assert found["refused"].startswith("0: out of memory (")
    assert "set train.micro_batch_size to less than train.batch_size" in found["refused"]
    assert "\n" not in found["refused"]


def test_other_errors_are_none_of_it() -> None:
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2) + torch.ones(3)
    assert not is_out_of_memory(shapes.value)
    with pytest.raises(RuntimeError) as huge:
        torch.empty(2**50)
    assert is_out_of_memory(huge.value)
