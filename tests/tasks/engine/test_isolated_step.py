"""A step in a process of its own: its lines, its errors, and its end with that of its parent."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from beft.errors import BeftError, InputError
from beft.files import write_text
from tasks.engine.commands import run_command
from tasks.engine.execution import run_step
from tasks.engine.isolated_step import LISTENER, Event
from tasks.engine.store import StepRun
from tasks.engine.supervisor import stopping_commands
from tasks.engine.transient import is_transient
from tasks.engine.workspace import process_start
from tasks.environment import SECRETS
from tasks.settings import PipelineSettings
from tests.support.small_steps import double_step, fail_step, linger_step, look_around_step, refuse_step
from tests.support.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_text(tmp_path / "raw" / "words.txt", "21\n")
    return tmp_path / "raw"


def test_it_runs_elsewhere_and_gives_its_summary_back(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        done = run_step(StepRun(double_step, PipelineSettings(), {"count": raw}, tmp_path))
    assert done.record.summary["doubled"] == 42
    child = done.record.summary["pid"]
    assert child != os.getpid()
    assert (done.folder / "doubled.txt").read_text() == "42\n"
    lines = [record.message for record in caplog.records]
    assert f"doubling in process {child}" in lines
    assert "a library's own line" in lines


def test_its_events_reach_the_listener_and_no_log(raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    listening = LISTENER.set(events.append)
    try:
        with caplog.at_level(logging.DEBUG):
            run_step(StepRun(double_step, PipelineSettings(), {"count": raw}, tmp_path))
    finally:
        LISTENER.reset(listening)
    assert events == [{"started": True}, {"pass": "double", "done": 1, "all": 2}]
    assert not [record for record in caplog.records if "half of it" in record.message or '"all"' in record.message]


def test_it_gets_no_password_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "PREFECT_API_KEY", "PGPASSWORD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HF_TOKEN", "of the hub, where the base may be")
    variables = run_step(StepRun(look_around_step, PipelineSettings(), {}, tmp_path)).record.summary["variables"]
    assert {"PATH", "HF_TOKEN"} <= set(variables)
    assert not SECRETS & set(variables)
    listed = run_command(["-c", "import os; print(*os.environ, sep='\\n')"], tmp_path, source=PROJECT).lines
    assert {"PATH", "HF_TOKEN"} <= set(listed)
    assert not SECRETS & set(listed)


def test_wrong_input_keeps_its_message_and_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        run_step(StepRun(refuse_step, PipelineSettings(), {}, tmp_path))
    assert str(error.value) == "column 'text' is missing; the file has: label"
    assert not list((tmp_path / "runs" / "steps").iterdir())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("beft", r"^no candidate moved$"),
        ("value", r"^fail failed: ValueError: of a programmer$"),
        ("killed", r"^fail: its process was ended by SIGKILL \(out of memory\?\)$"),
        ("exit", r"^fail: its process ended with status 3"),
        ("disk", r"^fail: No space left on device: .*weights$"),
    ],
)
def test_any_other_end_is_an_error_in_one_line(how: str, message: str, tmp_path: Path) -> None:
    write_text(tmp_path / "raw" / "text.txt", how)
    with pytest.raises(BeftError, match=message) as error:
        run_step(StepRun(fail_step, PipelineSettings(), {"raw": tmp_path / "raw"}, tmp_path))
    assert not isinstance(error.value, InputError)
    assert "\n" not in str(error.value)


def test_a_source_that_was_changed_meanwhile_is_refused(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.engine.isolated_step.source_sha256", lambda _step: "what the parent has loaded")
    with pytest.raises(BeftError, match="changed since this run began"):
        run_step(StepRun(double_step, PipelineSettings(), {"count": raw}, tmp_path))


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    step = replace(linger_step, time_limit=0.01)
    with pytest.raises(BeftError, match=r"linger: timed out after .* hours; run it again"):
        run_step(StepRun(step, PipelineSettings(), {"raw": tmp_path / "raw"}, tmp_path))


def test_a_network_that_failed_there_is_known_here(tmp_path: Path) -> None:
    for how, transient in (("network", True), ("disk", False)):
        write_text(tmp_path / "raw" / "text.txt", how)
        with pytest.raises(BeftError) as error:
            run_step(StepRun(fail_step, PipelineSettings(), {"raw": tmp_path / "raw"}, tmp_path))
        assert is_transient(error.value) is transient


@pytest.mark.parametrize("signal_of_the_parent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_dies_with_its_parent(signal_of_the_parent: signal.Signals, raw: Path, tmp_path: Path) -> None:
    # A shell that starts the tests in the background has its children ignore Ctrl-C.
    program = f"""
        import signal
        from pathlib import Path
        from tasks.settings import PipelineSettings
        from tasks.engine.execution import run_step
        from tasks.engine.store import StepRun
        from tests.support.small_steps import linger_step
        signal.signal(signal.SIGINT, signal.default_int_handler)
        root = Path({str(tmp_path)!r})
        run_step(StepRun(linger_step, PipelineSettings(), {{"raw": root / "raw"}}, root))
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: (raw / "pid").is_file())
        child = int((raw / "pid").read_text())
        assert process_start(child) is not None
        parent.send_signal(signal_of_the_parent)
        parent.wait(60)
        wait_until(lambda: process_start(child) is None)
    finally:
        parent.kill()
        parent.wait()


def test_a_run_that_is_stopped_ends_its_steps_and_starts_no_other(raw: Path, tmp_path: Path) -> None:
    """They are waited for in threads, where nothing tells that the run is stopped."""
    call = StepRun(linger_step, PipelineSettings(), {"raw": raw}, tmp_path)
    with ThreadPoolExecutor() as threads:
        with pytest.raises(KeyboardInterrupt), stopping_commands():
            running = threads.submit(run_step, call)
            wait_until(lambda: (raw / "pid").is_file())
            raise KeyboardInterrupt
        after = threads.submit(run_step, replace(call, root=tmp_path / "other"))
        for one in (running, after):
            with pytest.raises(BeftError, match=r"linger.*: stopped; run it again to resume"):
                one.result(30)
    assert process_start(int((raw / "pid").read_text())) is None

    with stopping_commands():  # another run in the same process
        done = run_step(StepRun(double_step, PipelineSettings(), {"count": raw}, tmp_path))
    assert done.record.summary["doubled"] == 42


def test_what_fails_beside_them_does_not_stop_other_steps(raw: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as threads:
        with pytest.raises(BeftError, match="beside"), stopping_commands():
            running = threads.submit(run_step, StepRun(linger_step, PipelineSettings(), {"raw": raw}, tmp_path))
            wait_until(lambda: (raw / "pid").is_file())
            raise BeftError("beside")
        assert not running.done()
        os.kill(int((raw / "pid").read_text()), signal.SIGTERM)
        with pytest.raises(BeftError, match="ended by SIGTERM"):
            running.result(30)
