"""kill -9 of a run in each of its steps, each time started again: the last one ends as a run left alone."""

import pytest

from tests.faults.conftest import Seen
from tests.faults.workspace import STEPS, Faulty, small_faulty


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """The workspace in which one run after the other is killed."""
    return small_faulty(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def times() -> dict[str, str]:
    """When each step was finished, as the runs before have left it."""
    return {}


@pytest.mark.parametrize("step", STEPS)
def test_killed_in(step: str, struck: Faulty, times: dict[str, str], seen: Seen) -> None:
    with struck.running(stop=step) as run:
        run.kill()
    assert run.returncode == -9
    before = set(STEPS[: STEPS.index(step)])
    assert struck.finished() == before
    assert not (struck.root / "runs" / "latest").exists()
    now = struck.times()
    assert now.items() >= times.items()  # what was finished is used again, not made again
    times.update(now)
    assert struck.registry()["parents"] == ["RUNNING"]
    seen("message", "Killed (the shell's word)")
    seen("kept", f"{len(before)} of {len(STEPS)} steps finished, none half; one MLflow run")


def test_and_ends_as_one_left_alone(struck: Faulty, undisturbed: Faulty, seen: Seen) -> None:
    struck.goes_on_as(undisturbed)
    assert not struck.half_written()
    seen("message", struck.said[-1].strip().splitlines()[-1][:120])
    seen("then", "the same adapter bytes and registry as a run left alone, after seven kills")
