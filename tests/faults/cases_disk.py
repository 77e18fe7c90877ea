"""No room is left, for the steps or for MLflow: said in a line, nothing half-written, and it goes on when there is."""

from tests.faults.conftest import Seen
from tests.faults.striking import fill, small_disk
from tests.faults.workspace import STEPS, Faulty


def test_the_disk_of_the_steps_is_full(faulty: Faulty, undisturbed: Faulty, seen: Seen) -> None:
    with small_disk(faulty.root / "runs", 64) as filler:
        with faulty.running(stop="train/mine"):
            fill(filler)
            faulty.let_go()
        assert "train/mine: No space left on device" in faulty.message()
        assert faulty.finished() == set(STEPS[:2])
        assert not faulty.half_written()
        seen("message", faulty.message())
        assert faulty.run() == 1  # nor does it start
        assert "No space left on device" in faulty.message()
        assert faulty.finished() == set(STEPS[:2])
        filler.unlink()
        seen("kept", "the steps before; no half-written folder; still full: the next start says so")
        faulty.goes_on_as(undisturbed)
        seen("then", "one MLflow run, one version, the same adapter bytes")


def test_the_disk_of_mlflow_is_full(faulty: Faulty, undisturbed: Faulty, seen: Seen) -> None:
    with small_disk(faulty.root / "mlflow", 64) as filler:
        with faulty.running(stop="report"):
            fill(filler)
            faulty.let_go()
        assert "full" in faulty.message() or "No space left" in faulty.message()
        seen("message", faulty.message())
        filler.unlink()
        assert faulty.registry()["versions"] == []
        seen("kept", "every step that had ended; nothing was registered")
        faulty.goes_on_as(undisturbed)
        seen("then", "one MLflow run, one version, the same adapter bytes")
