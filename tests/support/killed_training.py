"""A training that ends between two steps, as a killed process does, with its checkpoint behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from beft.training.engine.trainer import TrainingPass


class Killed(BaseException):
    """In place of the end of a process; nothing that catches errors goes on after it."""


@contextmanager
def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block a training ends after so many steps of the optimiser; each step leaves a checkpoint.

    The steps that are only measured, before the training, leave none and do not count.
    """
    taken, plain = iter(range(steps + 1)), TrainingPass._step

    def step(training, *arguments):
        if training.checkpoint is not None and next(taken) == steps:
            raise Killed
        return plain(training, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("beft.training.engine.trainer.CHECKPOINT_SECONDS", 0.0)
        patch.setattr(TrainingPass, "_step", step)
        yield
