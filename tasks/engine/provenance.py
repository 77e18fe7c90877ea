"""What a process computes with: its source and commit, the libraries, the device."""

import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from beft.files import sha256_file
from tasks.engine.fingerprint import LIBRARIES, compute_environment, installed
from tasks.environment import environment_without_secrets
from tasks.project_files import PROJECT, project_file
from tasks.settings import PipelineSettings
from tasks.source_archive import SOURCE, source_sha256_of


@dataclass(frozen=True)
class CodeVersion:
    """The commit of the source, and whether it is other than that of the commit; no commit outside git."""

    commit: str | None
    dirty: bool


def process_facts(settings: PipelineSettings) -> dict[str, Any]:
    """What this process computes with: source, commit, requirements, device, precision, threads, libraries.

    The process of a step may be on another machine than that of the flow, with another device and another checkout.
    """
    found = compute_environment(settings.base)
    return {**code_facts(), "compute": found.compute, "environment": environment(found.versions)}


def code_facts() -> dict[str, Any]:
    """Source, commit, requirements and libraries of this process, whatever the settings are."""
    code = code_version()
    requirements = project_file("constraints.txt")
    return {
        "source_sha256": source_sha256(),
        "commit": code.commit,
        "dirty": code.dirty,
        "requirements_sha256": sha256_file(requirements) if requirements.is_file() else None,
        "environment": environment(),
    }


def environment(libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """What of this machine can change the last bits of a training: Python, libraries, CPU instructions, GPU."""
    import torch

    return {
        "python": platform.python_version(),
        **installed(libraries),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
    }


@lru_cache(maxsize=1)
def source_sha256() -> str:
    """The sha256 of all source that steps are made of, ``beft/`` and ``tasks/``, as this process found it."""
    return source_sha256_of(PROJECT)


def code_version(folder: Path = PROJECT) -> CodeVersion:
    """The commit of the source, and whether tracked files differ from it, or the source has files that it has not."""
    commit = _git(folder, "rev-parse", "HEAD") if (folder / ".git").exists() else None
    if commit is None:
        return CodeVersion(None, dirty=False)
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    new = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", *SOURCE)
    return CodeVersion(commit, dirty=changed != "" or new != "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment_without_secrets(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git on this machine
    return done.stdout.strip() if done.returncode == 0 else None
