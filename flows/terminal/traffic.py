"""Traffic on the terminal: feedback from a file, and where an answer came from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from tasks.serving.feedback import add_feedback, read_feedback_file, unanswered
from tasks.serving.trace import Traced, trace
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, require_registry


def take_feedback(file: Path, folder: Path, *, source: str) -> None:
    """Keep the true labels of a file; those of rows that no kept answer belongs to are told and kept as well."""
    records = read_feedback_file(file, source)
    missing = unanswered(folder, records)
    added = add_feedback(folder, records)
    typer.echo(f"{added} labels are kept in {folder}")
    if missing:
        first = missing[0]
        typer.echo(
            f"{len(missing)} of them belong to no answer that is kept, such as row {first.row} of {first.request_id!r}",
            err=True,
        )


def show_looks(looks: Sequence[Mapping[str, Any]]) -> None:
    """Write what each look found."""
    for one in looks:
        said = "DRIFT" if one["alarm"] else "no drift"
        if not one["tests"]:
            said = "too few new rows, left for the next look"
        typer.echo(f"{one['model']} version {one['version']}: {said} ({one['rows']} rows)")
        for test in one["tests"]:
            mark = "ALARM" if test["alarm"] else ""
            numbers = f"{test['reference']:.3f} then, {test['current']:.3f} now, p = {test['p_value']:.2g}"
            typer.echo(f"  {test['name']:32} {numbers}  {mark}".rstrip())
        for said in one["left_out"]:
            typer.echo(f"  not compared: {said}")
    if not looks:
        typer.echo("no champion keeps anything to compare with")


def show_trace(settings: PipelineSettings, root: Path, folder: Path, request_id: str, *, as_json: bool) -> None:
    """Write where each answer of a request came from."""
    require_registry(settings, root)
    found = trace(connect(settings, root), folder, request_id)
    if as_json:
        for one in found:
            typer.echo(json.dumps(asdict(one), default=str, sort_keys=True))
        return
    for one in found:
        for line in _lines(one):
            typer.echo(line)


def _lines(one: Traced) -> list[str]:
    answer: Mapping[str, Any] = one.answer
    lines = [
        f"row {answer['row']} of {answer['request_id']}, {answer['time']:%Y-%m-%d %H:%M:%S} UTC"
        + (" (shadow: nobody got it)" if answer["role"] == "shadow" else ""),
        f"  answer    {answer['predicted']}"
        + (f" (confidence {answer['confidence']:.3f})" if answer["confidence"] is not None else ""),
        f"  adapter   {answer['name']} version {answer['version']}, sha256 {answer['sha256']}",
    ]
    if one.same is None:
        return [*lines, "  registry  this version is not in the registry any more"]
    if not one.same:
        lines.append("  registry  the version of this name is another adapter today")
    lines.append(f"  run       {one.run}")
    lines += [f"  {name:9} {value}" for name, value in one.facts.items()]
    return [*lines, f"  rebuild   {one.rebuild}"]
