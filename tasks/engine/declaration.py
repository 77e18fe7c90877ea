"""The declaration of a step: one plain function on folders, and what its result depends on."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from beft.errors import BeftError
from tasks.settings import PipelineSettings

JSON = Any
"""A JSON value: str, int, float, bool, None, or lists and string-keyed dictionaries of them."""

CLASSIFIER_SECTIONS = (
    "seed",
    "protocol",
    "base",
    "head",
    "train.objective",
    "evaluate.max_new_tokens",
    "datasets.{dataset}.max_length",
)
"""The settings that open a classifier and encode its rows."""


@dataclass(frozen=True)
class Step:
    """The declaration of a step.

    Attributes:
        function: ``NAME(settings, inputs, out, *, dataset=None) -> summary``: reads the folders ``inputs``, writes into
            the empty folder ``out``, returns a small JSON object. It sees only the settings declared here. Where it has
            the keyword ``root``, it is given the workspace's folder: the current folder of a Dask worker is any.
        reads: The steps whose folders it reads. ``inputs`` names them so; a step over all datasets gets those of one
            dataset as ``STEP/DATASET``.
        settings: The settings that it may touch, as dotted names (``"train"``, ``"datasets.{dataset}.size"``); ``"*"``
            for all of them.
        per_dataset: Whether it is run once a dataset.
        computes: Whether it computes with the base: device, precision, threads, the base's hash and the versions of the
            libraries are then part of its fingerprint.
        isolated: Whether it runs in a process of its own, as everything that draws random numbers by torch does.
        tags: Prefect's tags, for limits on what runs at once. ``gpu``: it waits for a place to compute, see
            ``tasks.engine.compute_slots``.
        retries: How often it is tried again, each time later; only for what is transient (``tasks.engine.transient``),
            never after an error that the user can mend.
        time_limit: Seconds after which a step in a process of its own is ended.
        source: Files and folders beside its module that its result depends on, relative to the project's folder.
        extra_inputs: Further contents that it reads (name to sha256), for example a user's own files; called with the
            settings, the dataset and the workspace's folder.
        effects_still_valid: For a step with effects outside its folder: whether they are still there; called with the
            settings, the step's folder, and that of the workspace as ``root``.
    """

    function: Callable[..., dict[str, JSON]]
    reads: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    per_dataset: bool = True
    computes: bool = False
    isolated: bool = False
    tags: tuple[str, ...] = ()
    retries: int = 3
    time_limit: float = 24 * 3600.0
    source: tuple[str, ...] = ()
    extra_inputs: Callable[[PipelineSettings, str | None, Path], Mapping[str, str]] | None = None
    effects_still_valid: Callable[..., bool] | None = None

    @property
    def name(self) -> str:
        """The name of its function, which is also that of its module and of its Prefect task."""
        return self.function.__name__

    @property
    def takes_checkpoints(self) -> bool:
        """Whether its function has the keyword ``checkpoints``: a folder that survives until it has finished."""
        return "checkpoints" in inspect.signature(self.function).parameters

    @property
    def takes_root(self) -> bool:
        """Whether its function has the keyword ``root``: the workspace's folder."""
        return "root" in inspect.signature(self.function).parameters


def step_key(step: str, dataset: str | None) -> str:
    """``STEP/DATASET``, or ``STEP`` for a step over all datasets."""
    return step if dataset is None else f"{step}/{dataset}"


def find_declared(module: ModuleType, name: str) -> Step:
    """The step ``NAME`` that a module declares as ``NAME_step``.

    Raises:
        BeftError: It declares none.
    """
    step = getattr(module, f"{name}_step", None)
    if not isinstance(step, Step):
        raise BeftError(f"the module {module.__name__} declares no step {name!r}")
    return step
