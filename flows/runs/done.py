"""A step of a run that is finished."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.engine.store import StepRecord

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture


@dataclass(frozen=True)
class Done:
    """A finished step: its record, its folder, its future (None: it has none), and whether it was there already."""

    record: StepRecord
    folder: Path
    future: "PrefectFuture[Any] | None"
    reused: bool
