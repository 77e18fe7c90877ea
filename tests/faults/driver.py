"""``beft run`` that stops at one step and waits, so that a fault can strike there: python -m tests.faults.driver STEP.

At a step named as in ``run.json`` (``train/mine``), or nowhere, when its outputs are written and its folder has not
taken its name yet. The rest is the command that a user types.
"""

import sys
import time
from pathlib import Path
from typing import Any

import tasks.engine.execution
import tasks.tracking.connection
from flows.cli import main
from tasks.engine.store import StepRun

PAUSED, GO = Path("paused"), Path("go")
SHORT = 3.0  # seconds that a server is waited for which has answered before, in place of minutes


def stop_at(key: str) -> None:
    """Have the step wait when its function has ended, until a file tells it to go on."""
    plain = tasks.engine.execution.run_function

    def run_function(call: StepRun, *arguments: Any) -> dict[str, Any]:
        summary = plain(call, *arguments)
        if call.key == key:
            PAUSED.touch()
            while not GO.exists():
                time.sleep(0.02)
        return summary

    tasks.engine.execution.run_function = run_function


if __name__ == "__main__":
    tasks.tracking.connection.PATIENCE_SECONDS = SHORT
    stop_at(sys.argv[1])
    main(["run", *sys.argv[2:]])
