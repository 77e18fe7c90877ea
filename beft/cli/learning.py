"""probe, score, train: from prepared data to an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beft.cli.options import (
    PARAMS,
    AsJson,
    Changes,
    Params,
    Prepared,
    read_settings,
    refuse_existing,
    refuse_other_datasets,
    settings_options,
)
from beft.cli.output import print_json, print_table, progress
from beft.commands import own_command, predict_command

if TYPE_CHECKING:
    from beft.training.session import Session


def probe(
    context: typer.Context,
    prepared: Prepared,
    out: Annotated[Path, typer.Option(help="The folder that is written.")],
    params: Params = PARAMS,
    changes: Changes = None,
) -> None:
    """Train all bias terms; keep what scores need.

    On prepared data: every bias before and after, and Fisher information taken before.
    """
    from beft.files import atomic_directory, write_json

    session = prepared_session(context, prepared, params, changes, out=out)
    found = session.probe(progress=progress)
    with atomic_directory(out) as folder:
        found.evidence.save(folder)
        write_json(folder / "history.json", found.training.history)
    score_it = own_command("beft", "score", out, *settings_options(params, changes))
    typer.echo(f"best epoch {found.training.best_epoch}; now: {score_it}")


def score(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder that 'probe' wrote.")],
    params: Params = PARAMS,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Score the bias terms; choose the target term.

    From the evidence that a probe left.
    """
    from beft.importance.probe_result import ProbeResult

    found = ProbeResult.load(folder).scores(read_settings(context, params, changes))
    if as_json:
        print_json(found.to_json())
        return
    rows = []
    for term in found.inert:
        cells = ["no direction" if value is None else f"{value:.4g}" for value in found.of_term(term).values()]
        rows.append([term, *cells, "yes" if found.is_inert(term) else "no"])
    print_table(["bias term", *(table.method for table in found.tables), "inert"], rows)
    typer.echo(f"\nTarget term: {found.selection.term}. {found.selection.reason}")


def train(
    context: typer.Context,
    prepared: Prepared,
    term: Annotated[list[str], typer.Option(help="The bias term to train; can be given more than once.")],
    out: Annotated[Path, typer.Option(help="The adapter's folder.")],
    params: Params = PARAMS,
    changes: Changes = None,
) -> None:
    """Train a bias term and the head; save the adapter.

    On prepared data; more than one --term trains them together.
    """
    from beft.names import known_name
    from beft.settings import TERMS

    terms = [known_name(name, TERMS, "bias term") for name in term]
    session = prepared_session(context, prepared, params, changes, out=out)
    result = session.train(terms, progress=progress)
    adapter = result.adapter
    adapter.save(out)
    on_dev = f", dev {session.metric} {result.best['dev_metric']:.4f}" if "dev_metric" in result.best else ""
    typer.echo(
        f"{adapter.bias_parameters:,} bias and {adapter.head_parameters:,} head parameters, best epoch "
        f"{result.best_epoch}{on_dev}"
    )
    typer.echo(f"now: {predict_command(out, out, session.settings.base.source, 'some text')}")


def prepared_session(
    context: typer.Context, prepared: Path, params: Path, changes: list[str] | None, *, out: Path | None = None
) -> "Session":
    """The base of the settings, loaded for prepared data.

    Args:
        out: What the command writes; it must not exist yet.

    Raises:
        InputError: ``out`` exists, the data or the base cannot be read, or they do not fit together.
    """
    from beft.datasets.prepared import PreparedData
    from beft.training.opening import open_session

    settings = read_settings(context, params, changes)
    data = PreparedData.from_folder(prepared)
    refuse_other_datasets(changes, data.name)
    if out is not None:
        refuse_existing(out)
    return open_session(settings, data)
