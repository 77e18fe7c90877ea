"""The memory that something takes in this process: its greatest resident size above what it had before (Linux)."""

from pathlib import Path

import psutil


class ResidentPeak:
    """Counts from where it is made."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the greatest resident size counts from here
        self.before: int = psutil.Process().memory_info().rss

    def above(self) -> int:
        """Bytes of the greatest resident size so far above the size at the start."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) - self.before
