"""The clock goes backwards between a run and the next; data changes while a run reads them."""

from pathlib import Path

from beft.files import write_bytes
from tests.faults.conftest import Seen
from tests.faults.striking import shifted_clock
from tests.faults.workspace import Faulty

DAY = 24 * 3600


def test_the_clock_goes_backwards(faulty: Faulty, undisturbed: Faulty, tmp_path: Path, seen: Seen) -> None:
    with faulty.running(stop="train/mine") as run:
        run.kill()
    times = faulty.times()
    faulty.environment |= shifted_clock(tmp_path, -2 * DAY)
    assert faulty.run() == 0, faulty.said[-1]
    assert "Traceback" not in faulty.said[-1]
    now = faulty.times()
    assert now.items() >= times.items()
    assert now["register"] < times["probe/mine"], "its clock was two days behind"
    assert faulty.adapter() == undisturbed.adapter()
    assert faulty.registry() == undisturbed.registry()
    seen("message", "none")
    seen("kept", "what was finished under the later clock is reused")
    seen("then", "one MLflow run, one version, the same adapter bytes")


def test_data_changes_under_a_running_flow(faulty: Faulty, undisturbed: Faulty, seen: Seen) -> None:
    with faulty.running(stop="train/mine"):
        [rows] = (faulty.root / "runs" / "steps").glob("prepare-mine-*/train.parquet")
        write_bytes(rows, rows.read_bytes()[:-1] + b"x")
        faulty.let_go()
    assert "train/mine: its input data changed while it ran; run it again" in faulty.message()
    assert "train/mine" not in faulty.finished()
    seen("message", faulty.message())
    seen("kept", "no adapter of the changed rows")
    assert faulty.run() == 0, faulty.said[-1]
    assert "prepare/mine: train.parquet changed or deleted since; it runs again" in faulty.said[-1]
    assert faulty.adapter() == undisturbed.adapter()
    assert faulty.registry() == undisturbed.registry()
    seen("then", "the damaged file is found by its hash and made again; the same adapter bytes")
