"""Commands that end with us, however we end, and leave nothing running.

Between us and the command stands this file as a process of its own, ``python supervisor.py``. It ends the command and
all that the command has started when we are gone (kill -9 too), when it gets SIGTERM, and when the command ends and
leaves some of it running; then it ends as the command did. It imports the standard library alone, to start at once.
"""

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 5.0
"""What a command gets to end after SIGTERM."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_SECONDS = 0.5
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1}

STOPPING = threading.Event()
"""Set while a run that was stopped by Ctrl-C or SIGTERM comes to its end: nothing waits any more, nothing starts."""

_running: set["subprocess.Popen[bytes]"] = set()


def start(
    command: Sequence[str], *, patience: float = PATIENCE_SECONDS, whole_group: bool = True, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own; SIGTERM to the process that is returned ends all of it.

    Args:
        patience: Seconds that it gets to end after SIGTERM.
        whole_group: Whether what it has started gets that SIGTERM too, not only the command itself.
        options: Of ``subprocess.Popen``.

    Raises:
        OSError: This is not Linux.
    """
    if sys.platform != "linux":
        raise OSError("steps and servers run on Linux alone")
    ours = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(patience), str(int(whole_group))]
    child = subprocess.Popen([*ours, *command], start_new_session=True, **options)
    _running.add(child)
    if STOPPING.is_set():
        child.terminate()
    return child


def end(child: "subprocess.Popen[bytes]", patience: float = PATIENCE_SECONDS) -> None:
    """End a command that ``start`` has started, if it has not ended, and wait for that."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience + 5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    _running.discard(child)


@contextmanager
def stopping_commands() -> Iterator[None]:
    """End all that runs in children when Ctrl-C or SIGTERM ends the block: Prefect would wait for them.

    Whoever waits for one sees it end, and none is started before the next block.
    """
    STOPPING.clear()
    try:
        yield
    except Exception:
        raise
    except BaseException:
        stop_commands()
        raise


def stop_commands() -> None:
    """End all that runs in children, and start no more."""
    STOPPING.set()
    for child in list(_running):
        child.terminate()


def lines_of(child: "subprocess.Popen[bytes]", stream: Any) -> Iterator[str]:
    """Every line that a command writes into a pipe, until it ends; whoever else holds the pipe is not waited for.

    Args:
        stream: Its standard output or its standard error.
    """
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    rest = b""
    while True:
        ended = child.poll() is not None  # first: what it wrote before its end is in the pipe then
        if poll.poll(0 if ended else 1000 * _LOOK_SECONDS):
            piece = os.read(stream.fileno(), 1 << 16)
            if not piece:
                break
            *lines, rest = (rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
        elif ended:
            break
    if rest:
        yield rest.decode("utf-8", "replace")


def terminate_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """End this process by a signal when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def main(parent: int, patience: float, whole_group: bool, command: Sequence[str]) -> int:
    """Run the command; its exit status. Where a signal ended it, the same signal ends this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    terminate_with_parent(parent, signal.SIGUSR1)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # also what leaves the group stays below this process
    prepare = partial(_prepare, os.getpid())
    process = subprocess.Popen(command, start_new_session=True, close_fds=False, preexec_fn=prepare)
    leader = process.pid
    while True:
        match signal.sigwait(_SIGNALS):
            case signal.SIGTERM:
                with suppress(ProcessLookupError):
                    os.killpg(leader, signal.SIGTERM) if whole_group else os.kill(leader, signal.SIGTERM)
                signal.setitimer(signal.ITIMER_REAL, patience)
            case signal.SIGUSR1 if os.getppid() == parent:
                continue  # only the thread that started this process has ended
            case signal.SIGUSR1 | signal.SIGALRM:
                with suppress(ProcessLookupError):
                    os.killpg(leader, signal.SIGKILL)
        ended = _reap(leader)
        if ended is not None:
            break
    _end_all(leader)
    if ended.si_code == os.CLD_EXITED:
        return int(ended.si_status)
    return _end_by(ended.si_status)


def _reap(leader: int) -> Any | None:
    """Wait for whatever else has ended below this process; how the leader ended, if it has: its number stays taken."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if ended.si_pid == leader:
            return ended
        os.waitpid(ended.si_pid, 0)
    return None


def _prepare(parent: int) -> None:
    """In the command's process, before it begins."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    terminate_with_parent(parent)


def _end_all(leader: int) -> None:
    """End the command's group, which its leader's number names until that is waited for, and all that has left it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    with suppress(ChildProcessError):  # none is left
        while True:
            for child in _children():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                yield int(path.parent.name)


def _end_by(number: int) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # SIGKILL has no other meaning
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "1", sys.argv[4:]))
