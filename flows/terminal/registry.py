"""The registry on the terminal: decisions, histories, rollbacks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from beft.commands import own_command
from beft.tables import Column, Table
from tasks.registry.aliases import MOVES, aliases_of, history, rollback
from tasks.registry.gate import DECISION
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, every, require_registry, translate_errors


def show_decisions(decisions: Sequence[Mapping[str, Any]]) -> None:
    """Write the verdict on each dataset, and where its report is."""
    for decision in decisions:
        champion = decision["champion"]
        against = f"against version {champion}" if champion else "without a champion"
        typer.echo(f"{decision['outcome']}  {decision['model']}: version {decision['challenger']}, {against}")
        for check in decision["checks"]:
            typer.echo(f"  {check['outcome']:8} {check['name']}: {check['reason']}")
        if decision["report"]:
            typer.echo(f"  report: {decision['report']}")


@translate_errors
def roll_back(settings: PipelineSettings, root: Path, model: str, *, to: str | None, reason: str) -> None:
    """Roll a model back, and say what its aliases are now."""
    require_registry(settings, root)
    connection = connect(settings, root)
    rollback(connection, root, model, to=to, reason=reason)
    _say_aliases(model, aliases_of(connection, model))


@translate_errors
def show_history(settings: PipelineSettings, root: Path, model: str | None, *, as_json: bool) -> None:
    """Write the history of a model, or the names of all of them with their aliases."""
    connection = connect(settings, root)
    if model is None:
        models = every(connection.client.search_registered_models)
        if not models:
            first = own_command("beft", "run")
            typer.echo(f"no model is registered yet; this registers one for each dataset: {first}", err=as_json)
        for found in models:
            aliases = {alias: str(version) for alias, version in found.aliases.items()}
            if as_json:
                typer.echo(json.dumps({"model": found.name, "aliases": aliases}, sort_keys=True))
            else:
                _say_aliases(found.name, aliases)
        return
    entries = history(connection, root, model)
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry, sort_keys=True))
        return
    _say_aliases(model, aliases_of(connection, model))  # not as the table's title, which would be wrapped
    table = Table(
        "",
        [Column("time"), Column("what"), Column("because")],
        [[str(entry["time"]), *_told(entry)] for entry in entries],
    )
    Console(highlight=False).print(table)


def _told(entry: Mapping[str, Any]) -> tuple[str, str]:
    if entry["kind"] == MOVES:
        moves = (
            f"{alias}: {move['from'] or 'none'} → {move['to'] or 'none'}" for alias, move in entry["moves"].items()
        )
        state = " (given up: others moved them since)" if entry["given_up"] else " (not finished)"
        return "; ".join(moves) + ("" if entry["finished"] else state), str(entry["reason"])
    if entry["kind"] == DECISION:
        verdict = entry.get("verdict") or entry.get("decision")
        reasons = entry.get("reasons") or [entry.get("reason", "")]
        return f"version {entry['version']}: {verdict}", "; ".join(str(reason) for reason in reasons)
    return str(entry["kind"]), str(entry.get("reason", ""))


def _aliases(aliases: Mapping[str, str]) -> str:
    return ", ".join(f"{alias} {version}" for alias, version in sorted(aliases.items())) or "no alias"


def _say_aliases(model: str, aliases: Mapping[str, str]) -> None:
    typer.echo(f"{model}: {_aliases(aliases)}")
