"""Whether this machine has a base, how it is got, and which to take for what; no model is downloaded."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beft.commands import pip_install
from beft.models.catalogue.known_bases import USES, KnownBase, Use

_SECONDS = 10
_MODULE_OF = {"beft[decoders]": "gguf"}
"""What an extra installs, by which it is known."""


@dataclass(frozen=True)
class Availability:
    """Whether a base is on this machine.

    Attributes:
        state: ``installed``, ``cached`` (of the hub), ``folder``; ``needs EXTRA``; or ``package`` and ``hub``: it must
            be got from there.
        how: What gets it; None where it is here.
        reachable: Whether the package index or the hub has it, and answers; None where that was not asked.
    """

    state: str
    how: str | None = None
    reachable: bool | None = None

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return self.how is None


def availability(base: KnownBase, *, network: bool = False) -> Availability:
    """Whether a base is on this machine.

    Args:
        network: Whether to ask the package index or the hub for one that is not; this takes some seconds.
    """
    kind, _, name = base.source.partition(":")
    if kind == "pypi":
        package, _, version = name.partition("==")
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed = ""
        if installed == version:
            return _with_extra("installed", base.needs)
        install = pip_install("--no-deps", name)
        how = install if base.needs is None else f"{install} && {pip_install(base.needs)}"
        return Availability("package", how, _index_has(package, version) if network else None)
    if kind == "hub":
        if _is_cached(name):
            return Availability("cached")
        return Availability("hub", "it is downloaded when it is first used", _hub_has(name) if network else None)
    return _with_extra("folder", base.needs)


def recommended(
    bases: Sequence[tuple[KnownBase, Availability]],
) -> dict[Use, tuple[KnownBase | None, KnownBase | None]]:
    """For each use the best base of this machine, and the best that it would have to get, where that one is better."""
    found: dict[Use, tuple[KnownBase | None, KnownBase | None]] = {}
    for use in USES:
        ranked = sorted((one for one in bases if use in one[0].suits), key=lambda one: one[0].suits[use])
        here = next((base for base, state in ranked if state.here), None)
        others = (base for base, state in ranked if not state.here and state.reachable is not False)
        better = next(others, None)
        if here is not None and better is not None and better.suits[use] >= here.suits[use]:
            better = None
        found[use] = here, better
    return found


def _with_extra(state: str, extra: str | None) -> Availability:
    """A base whose files are here, with the extra of beft that it needs."""
    if extra is None or importlib.util.find_spec(_MODULE_OF[extra]) is not None:
        return Availability(state)
    return Availability(f"needs {extra}", pip_install(extra))


def _is_cached(name: str) -> bool:
    """Whether the hub's cache has the configuration and weights of a model, whichever revision."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.partition('@')[0].replace('/', '--')}" / "snapshots"
    return any(
        (found / "config.json").exists() and any(found.glob("*.safetensors"))
        for found in (folder.iterdir() if folder.is_dir() else ())
    )


def _index_has(package: str, version: str) -> bool:
    """Whether pip's index has a version of a package."""
    command = [sys.executable, "-m", "pip", "index", "versions", package]
    options = ["--timeout", str(_SECONDS), "--retries", "0", "--disable-pip-version-check"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=3 * _SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and version in done.stdout.replace(",", " ").replace("(", " ").replace(")", " ").split()


def _hub_has(name: str) -> bool:
    """Whether the hub has a model, and answers."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    model, _, revision = name.partition("@")
    try:
        get_hf_file_metadata(hf_hub_url(model, "config.json", revision=revision or None), timeout=_SECONDS)
    except Exception:  # the hub client raises some twenty kinds, all of which mean the same here
        return False
    return True
