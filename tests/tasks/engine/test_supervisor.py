"""Commands that end with the process that started them, however that ends, and leave nothing running."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beft.errors import BeftError, InputError
from tasks.engine.commands import run_command
from tasks.engine.execution import run_step
from tasks.engine.store import StepRun
from tasks.engine.workspace import process_start
from tasks.settings import PipelineSettings
from tests.support.small_steps import leave_behind_step
from tests.support.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[3]

# A command that starts others, as DVC starts its stages, one of them in a session of its own, and goes on.
FAMILY = """
import os, subprocess, sys, time
started = [subprocess.Popen(["sleep", "60"], start_new_session=apart).pid for apart in (False, True)]
with open("family.tmp", "w") as file:
    file.write(" ".join(map(str, [os.getpid(), *started])))
os.rename("family.tmp", "family")
time.sleep(float(sys.argv[1]))
"""
RUN = """
import signal, sys
from pathlib import Path
from tasks.engine.commands import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)
run_command(["-c", sys.argv[1], "60"], Path.cwd(), source=Path(sys.argv[2]))
"""
# As in a flow: a thread waits for the command, and only the main thread hears of Ctrl-C.
RUN_IN_A_THREAD = """
import signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from beft.errors import BeftError
from tasks.engine.commands import run_command
from tasks.engine.supervisor import stopping_commands
signal.signal(signal.SIGINT, signal.default_int_handler)
with ThreadPoolExecutor() as threads:
    try:
        with stopping_commands():
            running = threads.submit(run_command, ["-c", sys.argv[1], "60"], Path.cwd(), source=Path(sys.argv[2]))
            running.result()
    except KeyboardInterrupt:
        sys.exit(str(running.exception()))
"""


def run(program: str, folder: Path, **options: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", program, FAMILY, str(PROJECT)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        **options,  # type: ignore[call-overload]
    )


def family(folder: Path) -> list[int]:
    """The processes of the command, when all have been started."""
    wait_until((folder / "family").exists)
    found = [int(number) for number in (folder / "family").read_text().split()]
    assert len(found) == 3 and all(process_start(number) for number in found)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_and_all_that_it_has_started_end_with_us(number: signal.Signals, tmp_path: Path) -> None:
    with run(RUN, tmp_path, stderr=subprocess.DEVNULL) as parent:
        started = family(tmp_path)
        parent.send_signal(number)
    wait_until(lambda: not any(process_start(one) for one in started))


def test_control_c_on_a_terminal_ends_a_command_that_a_thread_waits_for(tmp_path: Path) -> None:
    keyboard, terminal = pty.openpty()
    with run(RUN_IN_A_THREAD, tmp_path, stdin=terminal, stderr=subprocess.PIPE, preexec_fn=_at_terminal) as parent:
        started = family(tmp_path)
        os.write(keyboard, b"\x03")
        assert parent.wait(20) == 1
        assert parent.stderr and b"stopped; run it again to resume" in parent.stderr.read()
    assert not any(process_start(one) for one in started)
    os.close(keyboard)
    os.close(terminal)


def _at_terminal() -> None:
    """In the child: its standard input is the terminal that sends it Ctrl-C."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_command_that_leaves_processes_behind_which_hold_its_pipe_ends_all_the_same(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run_command(["-c", FAMILY + "print('done')", "0"], tmp_path, source=PROJECT)
    assert time.monotonic() - began < 30
    assert (ended.status, ended.lines) == (0, ["done"])
    assert not any(process_start(int(one)) for one in (tmp_path / "family").read_text().split())


def test_a_step_that_leaves_processes_behind_which_hold_its_pipes_ends_all_the_same(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run_step(StepRun(leave_behind_step, PipelineSettings(), {}, tmp_path))
    assert time.monotonic() - began < 50
    assert not any(process_start(one) for one in done.record.summary["left"])


@pytest.mark.parametrize(("how", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("os.abort()", -6)])
def test_it_ends_as_the_command_did(how: str, status: int, tmp_path: Path) -> None:
    assert run_command(["-c", f"import os, sys\n{how}"], tmp_path, source=PROJECT).status == status


def test_an_error_that_is_no_valid_unicode_comes_back(tmp_path: Path) -> None:
    program = (
        "from beft.errors import InputError\n"
        "from tasks.engine.commands import write_error_file\n"
        "write_error_file(InputError('no file f\\udce4r'))\n"
    )
    error = run_command(["-c", program], tmp_path, source=PROJECT).error
    assert isinstance(error, InputError) and str(error) == r"no file f\udce4r"


def test_the_last_words_of_a_command_are_kept(tmp_path: Path) -> None:
    program = "import sys; sys.stdout.write('one\\r\\ntwo\\rthree\\xe4' * 5000 + 'end'); sys.stdout.flush()"
    said = run_command(["-c", program], tmp_path, source=PROJECT).lines
    assert said[:3] == ["one", "two", "three\xe4one"] and said[-1] == "three\xe4end" and len(said) == 10001


def test_processes_that_their_parents_left_are_waited_for_when_they_end(tmp_path: Path) -> None:
    program = (
        "import pathlib, subprocess, sys, time\n"
        "started = [subprocess.run(['sh', '-c', 'sleep 0.2 & echo $!'], capture_output=True) for _ in range(3)]\n"
        "paths = [pathlib.Path('/proc', one.stdout.decode().strip()) for one in started]\n"
        "deadline = time.monotonic() + 20\n"
        "while any(path.exists() for path in paths) and time.monotonic() < deadline:\n"
        "    time.sleep(0.05)\n"
        "print([path.exists() for path in paths])\n"
    )
    ended = run_command(["-c", program], tmp_path, source=PROJECT)
    assert (ended.status, ended.lines) == (0, ["[False, False, False]"])


def test_elsewhere_than_on_linux_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="on Linux alone"):
        run_command(["-c", ""], tmp_path, source=PROJECT)


def test_after_the_stop_nothing_is_started_before_the_next_run(tmp_path: Path) -> None:
    from tasks.engine.supervisor import stopping_commands

    with pytest.raises(KeyboardInterrupt), stopping_commands():
        raise KeyboardInterrupt
    with pytest.raises(BeftError, match="stopped"):
        run_command(["-c", "import time; time.sleep(60)"], tmp_path, source=PROJECT)
    with stopping_commands():
        assert run_command(["-c", ""], tmp_path, source=PROJECT).status == 0
