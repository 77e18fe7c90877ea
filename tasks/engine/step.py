"""A step: one plain function on folders, and what its result depends on.

A finished step is a folder with a ``step.json`` that holds the sha256 of every output. It is used again when its
fingerprint is asked for again and every output is still what it was.
"""

import inspect
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from beft.errors import BeftError
from beft.files import read_json, whole_folder, write_json
from tasks.engine.compute_slots import NOWHERE, Place, place_for
from tasks.engine.fingerprint import contents, contents_sha256, fingerprint_of
from tasks.engine.settings_view import narrowed
from tasks.settings import PipelineSettings

if TYPE_CHECKING:
    import prefect

JSON = Any
"""A JSON value: str, int, float, bool, None, or lists and string-keyed dictionaries of them."""

RECORD = "step.json"

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

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """The declaration of a step.

    Attributes:
        function: ``NAME(settings, inputs, out, *, dataset=None) -> summary``: reads the folders ``inputs``, writes into
            the empty folder ``out``, returns a small JSON object. It sees only the settings declared here. Where it has
            the keyword ``root``, it is given the workspace's folder: the current folder of a Dask worker is any.
        reads: The steps whose folders it reads. ``inputs`` names them so; a step over all datasets gets those of one
            dataset as ``STEP/DATASET``.
        sections: The settings that it may touch, as dotted names (``"train"``, ``"datasets.{dataset}.size"``); ``"*"``
            for all of them.
        per_dataset: Whether it is run once a dataset.
        computes: Whether it computes with the base: device, precision, threads, the base's hash and the versions of the
            libraries are then part of its fingerprint.
        own_process: Whether it runs in a process of its own, as everything that draws random numbers by torch does.
        tags: Prefect's tags, for limits on what runs at once. ``gpu``: it waits for a place to compute, see
            ``tasks.engine.compute_slots``.
        retries: How often it is tried again, each time later; only for what is transient (``tasks.engine.transient``),
            never after an error that the user can mend.
        time_limit: Seconds after which a step in a process of its own is ended.
        source: Files and folders beside its module that its result depends on, relative to the project's folder.
        watches: Further contents that it reads (name to sha256), for example a user's own files; called with the
            settings, the dataset and the workspace's folder.
        still_good: For a step with effects outside its folder: whether they are still there; called with the
            settings, the step's folder, and that of the workspace as ``root``.
    """

    function: Callable[..., dict[str, JSON]]
    reads: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    per_dataset: bool = True
    computes: bool = False
    own_process: bool = False
    tags: tuple[str, ...] = ()
    retries: int = 3
    time_limit: float = 24 * 3600.0
    source: tuple[str, ...] = ()
    watches: Callable[[PipelineSettings, str | None, Path], Mapping[str, str]] | None = None
    still_good: Callable[..., bool] | None = None

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

    @cached_property
    def task(self) -> "prefect.Task[..., Any]":
        """The Prefect task made of it. Prefect is imported when a flow asks, so that the DVC driver never does."""
        from tasks.prefect_task import prefect_task

        return prefect_task(self)


class StepRecord(BaseModel):
    """What is known of a finished step; the content of its ``step.json``.

    Attributes:
        fingerprint: 64 hexadecimal digits over everything that the result depends on.
        seconds: Wall time of the run that made the folder.
        finished: When that was; ISO 8601, UTC.
        summary: What the function returned.
        inputs: Name of an input to the sha256 of its contents.
        outputs: Relative path of an output to its sha256.
        compute: Device, precision and threads of a step that computes, as its own process found them; else empty.
        made_with: What else that process ran with (``tasks.run_metadata.process_facts``); empty also in older records.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    dataset: str | None
    fingerprint: str
    seconds: float
    finished: str
    summary: dict[str, JSON]
    inputs: dict[str, str]
    outputs: dict[str, str]
    compute: dict[str, JSON]
    made_with: dict[str, JSON] = {}

    @property
    def key(self) -> str:
        """``STEP/DATASET``, or ``STEP`` for a step over all datasets."""
        return step_key(self.step, self.dataset)


@dataclass(frozen=True)
class Finished:
    """A finished step: its record, its folder, and whether it was there already."""

    record: StepRecord
    folder: Path
    reused: bool


@dataclass(frozen=True)
class Call:
    """One step to be run: on which settings and folders, and below which folder its result is kept.

    Attributes:
        root: The workspace's folder; the result is kept below ``runs/steps`` in it.
        extra: Further keywords of the function that are no part of the fingerprint.
    """

    step: Step
    settings: PipelineSettings
    inputs: Mapping[str, Path]
    root: Path
    dataset: str | None = None
    extra: Mapping[str, JSON] | None = None

    @property
    def key(self) -> str:
        """``STEP/DATASET``, or ``STEP`` for a step over all datasets."""
        return step_key(self.step.name, self.dataset)

    def fingerprint(self) -> str:
        """Over everything that the result depends on, as it is now.

        Raises:
            InputError: The base or a watched file cannot be found.
        """
        return fingerprint_of(self.step, self.settings, self.inputs, self.dataset, self.root)

    def folder(self, fingerprint: str) -> Path:
        """Where the result with this fingerprint is kept."""
        return self.root / "runs" / "steps" / f"{self.key.replace('/', '-')}-{fingerprint[:16]}"

    def checkpoints(self, fingerprint: str) -> Path:
        """Where the step keeps what it needs to go on after it was killed; deleted when it has finished."""
        return self.root / "runs" / "checkpoints" / self.folder(fingerprint).name

    def finished(self, fingerprint: str) -> Finished | None:
        """The result, when it is there, whole and unchanged."""
        folder = self.folder(fingerprint)
        record = verified(folder, fingerprint)
        if record is None:
            return None
        still_good = self.step.still_good
        if still_good is not None and not still_good(self.settings, folder, root=self.root):
            logger.info("%s: what it left outside its folder is gone; it runs again", self.key)
            return None
        return Finished(record, folder, reused=True)


def step_key(step: str, dataset: str | None) -> str:
    """``STEP/DATASET``, or ``STEP`` for a step over all datasets."""
    return step if dataset is None else f"{step}/{dataset}"


def verified(folder: Path, fingerprint: str) -> StepRecord | None:
    """The record of a finished step, when it has this fingerprint and no output was changed or deleted since."""
    try:
        record = StepRecord.model_validate(read_json(folder / RECORD))
    except (OSError, ValueError, ValidationError):
        return None
    if record.fingerprint != fingerprint:
        return None
    there = contents(folder)
    changed = [path for path, sha256 in record.outputs.items() if there.get(path) != sha256]
    if changed:
        logger.warning("%s: %s changed or deleted since; it runs again", record.key, ", ".join(changed))
        return None
    return record


def run_step(call: Call) -> Finished:
    """Use the step's finished result, or run it: into a temporary folder that takes its name when all is written.

    Raises:
        InputError: The user's input is wrong.
        BeftError: The step failed, the disk is full, or something that it read was changed while it ran.
    """
    fingerprint = call.fingerprint()
    found = call.finished(fingerprint)
    if found is not None:
        shutil.rmtree(call.checkpoints(fingerprint), ignore_errors=True)  # if the run that made it died early
        logger.info("%s: reused (finished %s, %.1f s saved)", call.key, found.record.finished, found.record.seconds)
        return found
    logger.info("%s: running", call.key)
    folder = call.folder(fingerprint)
    with explained_os_errors(call.key), _place(call) as place, whole_folder(folder) as out:
        started = time.monotonic()
        summary = run_function(call, out, call.checkpoints(fingerprint), place)
        seconds = time.monotonic() - started
        if call.fingerprint() != fingerprint:
            raise BeftError(f"{call.key}: its input data changed while it ran; run it again")
        found_there = _process_facts(call, out)
        record = StepRecord(
            step=call.step.name,
            dataset=call.dataset,
            fingerprint=fingerprint,
            seconds=round(seconds, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            summary=summary,
            inputs={name: contents_sha256(path) for name, path in sorted(call.inputs.items())},
            outputs=contents(out),
            compute=found_there.pop("compute", {}),
            made_with=found_there,
        )
        write_json(out / RECORD, record.model_dump(mode="json"))
    shutil.rmtree(call.checkpoints(fingerprint), ignore_errors=True)
    logger.info("%s: finished in %.1f s", call.key, seconds)
    return Finished(record, folder, reused=False)


def _process_facts(call: Call, out: Path) -> dict[str, JSON]:
    """What the process that computed ran with, as a process of its own left it where the record will be."""
    if not call.step.computes:
        return {}
    if (out / RECORD).is_file():
        return dict(read_json(out / RECORD))
    from tasks.run_metadata import process_facts

    return process_facts(call.settings)


def _place(call: Call) -> AbstractContextManager[Place]:
    """A GPU, or a share of the cores, for a step with the tag ``gpu`` that has a process of its own."""
    if "gpu" in call.step.tags and call.step.own_process:
        return place_for(call.key, call.settings.base, call.root)
    return nullcontext(NOWHERE)


def run_function(call: Call, out: Path, checkpoints: Path, place: Place = NOWHERE) -> dict[str, JSON]:
    """Run the plain function into ``out``, in a process of its own where the step asks for one."""
    kept = None
    if call.step.takes_checkpoints:
        checkpoints.mkdir(parents=True, exist_ok=True)
        kept = checkpoints
    if call.step.own_process:
        from tasks.engine.isolated_step import run_apart

        return run_apart(call, out, kept, place)
    return call_function(call.step, call.settings, call.inputs, out, call.dataset, kept, call.extra, root=call.root)


def call_function(
    step: Step,
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    dataset: str | None,
    checkpoints: Path | None = None,
    extra: Mapping[str, JSON] | None = None,
    *,
    root: Path,
) -> dict[str, JSON]:
    """Call the plain function in this process, with the settings that it may touch and no others."""
    further = dict(extra or {})
    if step.takes_root:
        further["root"] = root
    if checkpoints is not None:
        further["checkpoints"] = checkpoints
    visible = narrowed(settings, step.sections, dataset)
    return step.function(visible, inputs, out, dataset=dataset, **further)


@contextmanager
def explained_os_errors(what: str) -> Iterator[None]:
    """Say in one line what the system refused: no space left, no permission, a missing file.

    Raises:
        BeftError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise BeftError(f"{what}: {error.strerror or error}{where}") from error


def find_declared(module: ModuleType, name: str) -> Step:
    """The step ``NAME`` that a module declares as ``NAME_step``.

    Raises:
        BeftError: It declares none.
    """
    step = getattr(module, f"{name}_step", None)
    if not isinstance(step, Step):
        raise BeftError(f"the module {module.__name__} declares no step {name!r}")
    return step
