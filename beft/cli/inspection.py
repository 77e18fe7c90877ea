"""inspect: the bias terms of a base."""

from typing import Annotated

import typer

from beft.cli.options import AsJson
from beft.cli.output import print_json, print_table


def inspect(
    model: Annotated[str, typer.Argument(help="pypi:PACKAGE==VERSION, a local folder, or a hub id.")],
    inert: Annotated[bool, typer.Option("--inert", help="Measure which components change no logit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the bias terms of a base.

    Where they are, how wide, which could be added; with --inert, which can do nothing.
    """
    from beft.training.inspection import inspect_base

    found = inspect_base(model, inertness=inert)
    if as_json:
        print_json(found.to_json())
        return
    of_stacks = ", ".join(f"{length} {stack}" for stack, length in found.stacks.items())
    layers = f"{found.layers} layers" + (f" ({of_stacks})" if of_stacks else "")
    typer.echo(f"{found.model} ({found.family}), {layers}, {found.parameters:,} parameters")
    pooling = "" if found.pooling is None else f", pooling {found.pooling}"
    typer.echo(f"{found.base.portable_id}, sha256 {found.base.sha256[:12]}{pooling}\n")
    rows = []
    for term in found.terms:
        row = [term.term, term.layers, term.width, f"{term.parameters:,}", "yes" if term.exists else "can be added"]
        if inert:
            row.append(_share(term.inert, term.parameters))
        rows.append([*row, term.module])
    print_table(["bias term", "sites", "width", "parameters", "exists", *(["inert"] if inert else []), "module"], rows)
    total = sum(term.parameters for term in found.terms if term.exists)
    typer.echo(f"\nAll existing bias terms: {total:,} parameters, {total / found.parameters:.3%} of the model.")


def _share(part: int | None, whole: int) -> str:
    return {0: "none", whole: "all"}.get(part or 0, f"{part:,} of {whole:,}")
