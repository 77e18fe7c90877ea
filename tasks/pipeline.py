"""The steps of the pipeline by name, in their order, and the folders that DVC gives them."""

import importlib
from pathlib import Path

from beft.names import known_name
from tasks.engine.declaration import Step, find_declared, step_key
from tasks.settings import PipelineSettings

STEPS = (
    "fetch",
    "validate_raw",
    "prepare",
    "validate",
    "probe",
    "score",
    "train",
    "evaluate",
    "merge",
    "report",
    "register",
)
"""Every step stands in the module of its name; it is imported when it is asked for."""

OVER_ALL = frozenset({"merge", "report", "register"})
"""Steps that are run once, over all datasets; the others once a dataset."""

_DATA = {"fetch": Path("data", "raw"), "prepare": Path("data", "prepared")}


def find_step(name: str) -> Step:
    """The declaration of a step.

    Raises:
        InputError: There is no such step; the message has the nearest name.
    """
    return find_declared(importlib.import_module(f"tasks.steps.{known_name(name, STEPS, 'step')}"), name)


def dvc_folder(key: str) -> Path:
    """Where DVC keeps the output of ``STEP/DATASET`` or ``STEP``, relative to the workspace."""
    step, _, dataset = key.partition("/")
    return _DATA.get(step, Path("artifacts", step)) / dataset


def input_keys(step: Step, settings: PipelineSettings, dataset: str | None) -> dict[str, str]:
    """Name of each input of a step to the key (``STEP/DATASET`` or ``STEP``) of the step that makes it."""
    if step.per_dataset:
        return {name: step_key(name, dataset) for name in step.reads}
    keys: dict[str, str] = {}
    for name in step.reads:
        below = [name] if name in OVER_ALL else [step_key(name, each) for each in settings.datasets]
        keys |= {key: key for key in below}
    return keys
