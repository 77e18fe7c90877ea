"""The command ``beft``: the science commands of ``beft.cli``, and those that run flows and servers.

Whatever goes wrong ends in one message on stderr and an exit status: 2 for wrong input, 1 for anything else, 130 for
Ctrl-C. ``BEFT_DEBUG=1`` shows the traceback as well.
"""

import codecs
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beft.cli.app import app as science
from beft.cli.options import PARAMS, Changes, Surroundings, listed, parse_changes
from beft.commands import own_command
from flows.serving.cli import TRAFFIC
from flows.serving.cli import app as serving
from tasks.environment import configure_environment

if TYPE_CHECKING:
    from beft.datasets.description import Description
    from beft.settings import Settings
    from tasks.settings import PipelineSettings

_CTRL_C = 130  # Typer ends with it, without a word

app = typer.Typer(
    name="beft",
    help="Find the one kind of bias term worth training, train it, prove that it helps, register it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Settle what every command shares."""
    if version:
        from beft import __version__

        typer.echo(f"beft {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
    context.obj = Surroundings(_read_settings, _open_adapter, _check_data)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The folder; left out, the current one.", show_default=False)] = Path(),
) -> None:
    """Start a project in an empty folder.

    Writes params.yaml, and what DVC and Prefect need beside it; never overwrites a file.
    """
    from tasks.project_files import start_workspace

    for name in start_workspace(folder):
        typer.echo(f"{folder / name}")
    started = own_command("beft", "run")
    typer.echo(f"\nThe settings are in params.yaml. In this folder, this runs the main job with them: {started}")


@app.command()
def run(
    params: Annotated[Path, typer.Option(help="The settings.")] = PARAMS,
    changes: Changes = None,
) -> None:
    """Run the main job.

    From raw data to a registered adapter and a report.
    """
    settings = _read_settings(params, parse_changes(changes or ()))

    from flows.main_job import run_main_job

    run_main_job(settings)


@app.command()
def promote(
    challenger: Annotated[str | None, typer.Option(help="A version or an alias; default: the challenger.")] = None,
    on: Annotated[str, typer.Option(help="gate: its own rows; traffic: labelled rows that both answered.")] = "gate",
    since: Annotated[str | None, typer.Option(help="With --on traffic: answers from this time on.")] = None,
    traffic: Annotated[Path, typer.Option(help="The folder where a server keeps its answers.")] = TRAFFIC,
    params: Annotated[Path, typer.Option(help="The settings.")] = PARAMS,
    changes: Changes = None,
) -> None:
    """Judge each dataset's challenger against its champion.

    On the rows of the gate split, or on labelled traffic; a certain gain that breaks no rule makes it champion.
    """
    settings = _read_settings(params, parse_changes(changes or ()))

    from beft.errors import InputError
    from beft.names import known_name
    from flows.promote import NotAllJudgedError, promote_on_traffic, run_promote
    from flows.terminal.registry import show_decisions
    from tasks.serving.feedback import as_of

    on_gate = known_name(on, ("gate", "traffic"), "kind of rows") == "gate"
    if on_gate and since:
        raise InputError("--since belongs to --on traffic: the gate's rows have no time")
    after = as_of(since) if since else None
    try:
        if on_gate:
            decisions = run_promote(settings, challenger)
        else:
            decisions = promote_on_traffic(settings, Path.cwd(), traffic, challenger=challenger, since=after)
    except NotAllJudgedError as error:
        show_decisions(error.decided)
        raise
    show_decisions(decisions)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="The registered model.")],
    to: Annotated[str | None, typer.Option(help="A version; default: the champion before this one.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the journal.")] = "",
    params: Annotated[Path, typer.Option(help="The settings.")] = PARAMS,
) -> None:
    """Make the champion before the last one champion again.

    The version that it takes out of use is promoted again only where 'beft promote --challenger VERSION' names it.
    """
    from flows.terminal.registry import roll_back

    roll_back(_read_settings(params, {}), Path.cwd(), model, to=to, reason=reason)


@app.command()
def history(
    model: Annotated[str | None, typer.Argument(help="The registered model; default: list them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    params: Annotated[Path, typer.Option(help="The settings.")] = PARAMS,
) -> None:
    """Show the decisions on a model and its aliases."""
    from flows.terminal.registry import show_history

    show_history(_read_settings(params, {}), Path.cwd(), model, as_json=as_json)


@app.command()
def rebuild(
    version: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or the id of a run.")],
    base: Annotated[str | None, typer.Option(help="Where the base is, if not where the registry says.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Run source that the version brings along without asking.")
    ] = False,
    params: Annotated[Path, typer.Option(help="The settings: where the registry and the data are.")] = PARAMS,
) -> None:
    """Train a registered adapter again.

    From its registry entry alone. Says whether it is the same to the byte, or what differs and why; the exit status is
    1 where it differs.
    """
    settings = _read_settings(params, {})

    from flows.terminal.rebuilds import rebuild_and_show

    if not rebuild_and_show(version, settings, Path.cwd(), base=base, yes=yes):
        raise typer.Exit(1)


@app.command()
def reproduce(
    name: Annotated[
        str, typer.Argument(help="table1, table2, table3, table4, table5, figure1, figure4, extension or bitfit.")
    ],
    model: Annotated[list[str] | None, typer.Option(help="A base, as base.source names one; may be repeated.")] = None,
    datasets: Annotated[list[str] | None, typer.Option(help="Datasets, A,B,C; left out, those of the paper.")] = None,
    regime: Annotated[list[str] | None, typer.Option(help="low, medium, high, all or a number; A,B,C.")] = None,
    methods: Annotated[list[str] | None, typer.Option(help="Bias terms and methods, A,B,C.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 5,
    protocol: Annotated[str, typer.Option(help="paper: the published recipe; beft: ours.")] = "beft",
    learning_rates: Annotated[list[str] | None, typer.Option(help="Measure the terms with each, A,B,C.")] = None,
    epochs: Annotated[list[str] | None, typer.Option(help="Measure the terms at each length, A,B,C.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it takes, and train nothing.")] = False,
    params: Annotated[Path, typer.Option(help="The settings.")] = PARAMS,
    changes: Changes = None,
) -> None:
    """Reproduce a table or figure of the papers.

    On the models and data that this machine can reach; what cannot be measured says why. Writes reports/NAME.
    """
    from tasks.reproduction.catalogue import ReproductionRequest

    values: dict[str, Any] = {
        "name": name,
        "models": listed(model),
        "datasets": listed(datasets),
        "regimes": [int(one) if one.isdecimal() else one for one in listed(regime)],
        "methods": listed(methods),
        "seeds": seeds,
        "protocol": protocol,
        "compared_learning_rates": listed(learning_rates),
        "compared_epochs": listed(epochs),
        "changes": parse_changes(changes or ()),
    }
    request = ReproductionRequest.from_mapping(values)
    settings = _read_settings(params, {})

    from flows.reproduce import run_reproduce

    run_reproduce(request, settings, plan_only=plan)


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
) -> None:
    """Remove from runs/ what nothing needs any more.

    Results of steps that no run names, checkpoints of finished runs, copies of registered versions. It says how much
    that is first.
    """
    from flows.terminal.garbage import collect_garbage

    collect_garbage(Path.cwd(), yes=yes)


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Where MLflow listens.")] = 5000,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Where Prefect listens.")] = 4200,
) -> None:
    """Open the MLflow and Prefect pages.

    On this machine only; Ctrl-C stops both servers.
    """
    from flows.servers.ui import serve

    serve(Path.cwd(), mlflow_port=mlflow_port, prefect_port=prefect_port)


@app.command()
def deploy() -> None:
    """Bring a Prefect server up to date with prefect.yaml.

    Work pools, schedules, triggers, and the settings of params.yaml; again without harm.
    """
    from flows.deployments.deployment import deploy as bring
    from flows.servers.prefect_server import server_address
    from flows.terminal.commands import server_command

    for name in bring(Path.cwd()):
        typer.echo(name)
    typer.echo(f"deployed to {server_address()}; '{server_command('worker')}' starts what is due")


@app.command()
def worker(
    pool: Annotated[list[str] | None, typer.Option(help="A work pool, cpu or gpu; default: both.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Flow runs of a pool at once.")] = 1,
) -> None:
    """Start due flow runs on this machine.

    Until Ctrl-C.
    """
    from flows.deployments.worker import work

    work(Path.cwd(), pool or (), limit=limit)


@app.command()
def mlflow_server(
    team: Annotated[bool, typer.Option("--team", help="PostgreSQL, accounts, artifacts through the server.")] = False,
    host: Annotated[str, typer.Option(help="Where to listen; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 5000,
    allowed_hosts: Annotated[str | None, typer.Option(help="Host names that a team's server accepts, A,B,C.")] = None,
) -> None:
    """Start the MLflow server alone, until Ctrl-C.

    For one person it serves the project's own database. For a team, see mlflow/README.md.
    """
    from flows.servers.mlflow_server import serve_mlflow

    raise typer.Exit(serve_mlflow(Path.cwd(), team=team, host=host, port=port, allowed_hosts=allowed_hosts))


app.add_typer(serving)
app.add_typer(science)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status."""
    configure_environment()
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8")  # in the C locale, where Python writes ASCII
        elif codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="backslashreplace")  # it lacks characters that are shown
    sys.exit(status_of(list(sys.argv[1:] if arguments is None else arguments)))


def status_of(arguments: list[str]) -> int:
    """Run one command; its exit status."""
    from beft.errors import BeftError

    try:
        app(arguments, prog_name="beft", standalone_mode=True)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        return _say("stopped", status) if status == _CTRL_C else status
    except BeftError as error:
        return _say(str(error), error.exit_status)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _say(f"{error.strerror or error}{where}", 1)
    except Exception as error:
        return _say(
            f"something went wrong inside beft ({type(error).__name__}: {error}); BEFT_DEBUG=1 shows where. "
            "Please report it",
            1,
        )
    return 0


def _say(message: str, status: int) -> int:
    if os.environ.get("BEFT_DEBUG"):
        traceback.print_exc()
    typer.echo(f"beft: {message}", err=True)
    return status


def _read_settings(path: Path | None, changes: Mapping[str, Any]) -> "PipelineSettings":
    from tasks.settings import PipelineSettings

    return PipelineSettings.read(path, changes)


def _open_adapter(adapter: str) -> AbstractContextManager[Path]:
    if not adapter.startswith("models:/"):
        return nullcontext(Path(adapter))

    from tasks.registry.registered import registered_adapter
    from tasks.settings import PipelineSettings

    settings = _read_settings(PARAMS, {}) if PARAMS.exists() else PipelineSettings()
    return registered_adapter(adapter, settings, Path.cwd())


def _check_data(settings: "Settings", dataset: "Description", step: str, folder: Path, results: Path) -> None:
    from tasks.pipeline import find_step
    from tasks.run_metadata import check_data_settings
    from tasks.settings import PipelineSettings

    assert isinstance(settings, PipelineSettings)  # as _read_settings gave them
    check_data_settings(settings, dataset, Path.cwd())
    declared = find_step(step)
    declared.function(settings, dict.fromkeys(declared.reads, folder), results, dataset=dataset.name)


if __name__ == "__main__":
    main()
