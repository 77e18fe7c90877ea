"""A rebuild on the terminal."""

import sys
from pathlib import Path

import typer

from beft.errors import InputError, SomeFailedError
from tasks.engine.worker import log_lines
from tasks.registry.entry import versions_named
from tasks.registry.rebuild import Rebuilt, rebuild
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, require_registry


def rebuild_and_show(
    name: str, settings: PipelineSettings, root: Path, *, base: str | None = None, yes: bool = False
) -> bool:
    """Rebuild each version that a name stands for and say what came of it; whether all are the same to the byte.

    Args:
        name: See ``tasks.registry.entry.versions_named``.
        settings: Where the registry and DVC's remote are.
        root: The workspace.
        base: Where the base is, if not where the registered settings say.
        yes: Run the source that a version brings along without asking.

    Raises:
        InputError: There is no such version, or nobody to ask, or ``tasks.registry.rebuild.rebuild`` refused the only
            one.
        BeftError: A step of the only one failed.
        SomeFailedError: Some of several could not be rebuilt; the others were.
    """
    log_lines()
    require_registry(settings, root)
    connection = connect(settings, root)
    versions = versions_named(connection, name)
    same: list[bool] = []
    failed: dict[str, Exception] = {}
    for version in versions:
        try:
            found = rebuild(connection, version, settings, root, agree=(lambda _: True) if yes else _ask, base=base)
        except typer.Abort:  # Ctrl-C at the question is no failure of this version: it ends the command
            raise
        except Exception as error:  # whatever is wrong with one, the others are rebuilt
            if len(versions) == 1:
                raise
            failed[str(version)] = error
        else:
            typer.echo("\n".join(told(found)))
            same.append(found.same)
    if failed:
        raise SomeFailedError(failed, len(versions), "versions could not be rebuilt")
    return all(same)


def _ask(known: str) -> bool:
    """Ask on the terminal whether source is to be run, of which this is known."""
    warning = f"{known} A rebuild runs it on this machine with your rights"
    if not sys.stdin.isatty():
        raise InputError(f"{warning}: add --yes if you trust whoever registered the version")
    return typer.confirm(f"{warning}. Do you trust whoever registered the version?", err=True)


def told(found: Rebuilt) -> list[str]:
    """What came of a rebuild, in lines."""
    steps = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in found.seconds.items())
    lines = [
        f"{'SAME' if found.same else 'DIFFERENT'}  {found.model} version {found.version}",
        f"  source    {found.source}",
        f"  data      {found.dataset}, {found.data}",
        f"  rerun     {steps}",
        f"  sha256    {found.registered_sha256} registered",
    ]
    if found.rebuilt_sha256 != found.registered_sha256:
        lines.append(f"            {found.rebuilt_sha256} rebuilt, in {found.adapter}")
    lines += [f"  differs   {one}" for one in found.differences]
    lines += [f"  {'because' if number == 0 else '':9} {one}" for number, one in enumerate(_reasons(found))]
    return lines


def _reasons(found: Rebuilt) -> list[str]:
    others = [f"{name}: {there} there, {here} here" for name, (there, here) in found.compute_environment.items()]
    if found.same:
        return []
    return others or ["device, precision, threads, libraries and source are what they were: the registry may be wrong"]
