"""How much of the machine this process may use: the CPU quota and the memory limit of its container.

A container sees all cores and all memory of its host; what it may use of them stands in its control groups (cgroup v2,
or v1). A limit of a group holds for all groups below it, so the smallest one on the way up counts.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores() -> int:
    """The cores that this process may use at once: by its affinity and by the CPU quota, rounded down; 1 at least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [int(quota) for group in _groups("cpu") if (quota := _cpu_quota(group)) is not None]
    return max(1, min([cores, *quotas]))


def free_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, and below the memory limit."""
    import psutil

    below_limits = [free for group in _groups("memory") if (free := _memory_below_limit(group)) is not None]
    return max(0, min([int(psutil.virtual_memory().available), *below_limits]))


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's group of a controller, and of the groups above it that can be seen."""
    try:
        mounts = [line for line in _lines(_ROOT / "proc/self/mountinfo") if " - " in line]
        groups = [line for line in _lines(_ROOT / "proc/self/cgroup") if line.count(":") > 1]
    except OSError:  # no Linux
        return
    # v1: "4:cpu,cpuacct:/docker/1f"; v2: "0::/docker/1f".
    paths = {name: path for _, names, path in (line.split(":", 2) for line in groups) for name in names.split(",")}
    for line in mounts:
        mounted, _, kind = line.partition(" - ")
        filesystem, _, options = kind.split(" ", 2)
        named = filesystem == "cgroup" and controller in options.split(" ")[-1].split(",")
        path = paths.get(controller if named else "")
        if path is None or not (named or filesystem == "cgroup2"):
            continue
        shown, place = (Path(_unescaped(part)) for part in mounted.split(" ")[3:5])
        # What is mounted may be the group itself; a path that is not below it cannot be seen from here.
        own = Path(path).relative_to(shown) if Path(path).is_relative_to(shown) else Path()
        top = _ROOT / place.relative_to("/")
        yield from (top / part for part in (own, *own.parents))


def _lines(path: Path) -> list[str]:
    """The lines of a file that the kernel writes: names in it are of any bytes."""
    return path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")


def _unescaped(name: str) -> str:
    r"""A path of ``mountinfo``, in which a blank is written as \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def _cpu_quota(group: Path) -> float | None:
    """The cores that a group may use on average; None: no limit."""
    numbers = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    if len(numbers) != 2 or numbers[0] == "max" or int(numbers[0]) <= 0 or int(numbers[1]) <= 0:
        return None
    return int(numbers[0]) / int(numbers[1])


def _memory_below_limit(group: Path) -> int | None:
    """Bytes below a group's memory limit, the cache of files that can be dropped not counted; None: no limit."""
    limit = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
    used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes")
    if not limit or not used or limit[0] == "max":
        return None
    words = _words(group / "memory.stat")
    stat = dict(zip(words[::2], words[1::2], strict=False))
    return int(limit[0]) - int(used[0]) + int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
