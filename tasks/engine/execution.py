"""Run a step, or use its finished result."""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from beft.errors import BeftError
from beft.files import atomic_directory, read_json, write_json
from tasks.engine.compute_slots import NO_SLOT, ComputeSlot, acquire_slot
from tasks.engine.declaration import JSON, Step
from tasks.engine.fingerprint import contents, contents_sha256
from tasks.engine.isolated_step import run_in_subprocess
from tasks.engine.provenance import process_facts
from tasks.engine.settings_view import restrict_settings
from tasks.engine.store import RECORD, Finished, StepRecord, StepRun
from tasks.settings import PipelineSettings

logger = logging.getLogger(__name__)


def run_step(call: StepRun) -> Finished:
    """Use the step's finished result, or run it: into a temporary folder that takes its name when all is written.

    Raises:
        InputError: The user's input is wrong.
        BeftError: The step failed, the disk is full, or something that it read was changed while it ran.
    """
    fingerprint = call.fingerprint()
    found = reuse_step(call, fingerprint)
    if found is not None:
        return found
    logger.info("%s: running", call.key)
    folder = call.folder(fingerprint)
    with translate_os_errors(call.key), _place(call) as place, atomic_directory(folder) as out:
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


def reuse_step(call: StepRun, fingerprint: str) -> Finished | None:
    """The step's finished result; None where it has to be made."""
    found = call.finished(fingerprint)
    if found is not None:
        shutil.rmtree(call.checkpoints(fingerprint), ignore_errors=True)  # if the run that made it died early
        logger.info("%s: reused (finished %s, %.1f s saved)", call.key, found.record.finished, found.record.seconds)
    return found


def _process_facts(call: StepRun, out: Path) -> dict[str, JSON]:
    """What the process that computed ran with, as a process of its own left it where the record will be."""
    if not call.step.computes:
        return {}
    if (out / RECORD).is_file():
        return dict(read_json(out / RECORD))
    return process_facts(call.settings)


def _place(call: StepRun) -> AbstractContextManager[ComputeSlot]:
    """A GPU, or a share of the cores, for a step with the tag ``gpu`` that has a process of its own."""
    if "gpu" in call.step.tags and call.step.isolated:
        return acquire_slot(call.key, call.settings.base, call.root)
    return nullcontext(NO_SLOT)


def run_function(call: StepRun, out: Path, checkpoints: Path, place: ComputeSlot = NO_SLOT) -> dict[str, JSON]:
    """Run the plain function into ``out``, in a process of its own where the step asks for one."""
    kept = None
    if call.step.takes_checkpoints:
        checkpoints.mkdir(parents=True, exist_ok=True)
        kept = checkpoints
    if call.step.isolated:
        return run_in_subprocess(call, out, kept, place)
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
    visible = restrict_settings(settings, step.settings, dataset)
    return step.function(visible, inputs, out, dataset=dataset, **further)


@contextmanager
def translate_os_errors(what: str) -> Iterator[None]:
    """Say in one line what the system refused: no space left, no permission, a missing file.

    Raises:
        BeftError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise BeftError(f"{what}: {error.strerror or error}{where}") from error
