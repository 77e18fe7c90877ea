"""The results of steps, kept by their fingerprints.

A finished step is a folder with a ``step.json`` that holds the sha256 of every output. It is used again when its
fingerprint is asked for again and every output is still what it was.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from beft.files import read_json
from tasks.engine.declaration import JSON, Step, step_key
from tasks.engine.fingerprint import contents, fingerprint_of
from tasks.settings import PipelineSettings

RECORD = "step.json"

logger = logging.getLogger(__name__)


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
        made_with: What else that process ran with (``process_facts``); empty also in older records.
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
class StepRun:
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
        effects_still_valid = self.step.effects_still_valid
        if effects_still_valid is not None and not effects_still_valid(self.settings, folder, root=self.root):
            logger.info("%s: its external results are missing; it runs again", self.key)
            return None
        return Finished(record, folder, reused=True)


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
