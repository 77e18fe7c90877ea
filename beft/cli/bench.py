"""bench: how long the user's own work takes on her machine, and whether beft or the machine is slow."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beft.cli.options import PARAMS, AsJson, Changes, Params, read_settings
from beft.cli.output import print_json, print_table, progress

if TYPE_CHECKING:
    from beft.settings import Settings
    from beft.training.speed import DatasetSpeed, MachineSpeed

_SECONDS = 40.0
"""For all that is measured; loading the base and reading the data come to it."""

_MAX_SECONDS, _MIN_SECONDS = 4.0, 0.5
"""Of one work."""

_WORKS = 5  # with the products a dataset has as much as five


def bench(
    context: typer.Context,
    base: Annotated[str | None, typer.Option(help="A base, as base.source names one.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="A dataset; may be repeated. Default: all of the settings.")
    ] = None,
    params: Params = PARAMS,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine is.

    A probe, a training, 1,000 predictions and a whole run, on the settings' own base and data, in about a minute. A
    large base on a CPU takes longer: each work takes two steps at least. Nothing is written.
    """
    from beft.datasets.dataset import Dataset
    from beft.datasets.registry import find_dataset
    from beft.settings import DatasetSettings
    from beft.training.opening import open_session
    from beft.training.speed import measure_machine, measure_speed, to_json

    settings = read_settings(
        context, params, [*(changes or ()), *([f"base.source={json.dumps(base)}"] if base else [])]
    )
    names = list(dict.fromkeys(dataset or settings.datasets))
    described = [find_dataset(name) for name in names]
    seconds = max(_MIN_SECONDS, min(_MAX_SECONDS, _SECONDS / (_WORKS * len(names))))
    progress(
        f"measuring {', '.join(names)} for about {_WORKS * seconds * len(names):.0f} s, once base and data are read"
    )
    machine = measure_machine(settings)
    found = []
    for description in described:
        own = settings.datasets.get(description.name, DatasetSettings())
        data = Dataset.prepared_from(description, Path.cwd(), own.size, settings.split)
        found.append(measure_speed(open_session(settings, data), seconds=seconds))
    if as_json:
        print_json({"base": settings.base.source, **to_json(machine, found)})
        return
    _show(settings, machine, found)


def _show(settings: "Settings", machine: "MachineSpeed", found: "list[DatasetSpeed]") -> None:
    from beft.datasets.prepared import SPLITS
    from beft.training.engine.cost import readable_seconds
    from beft.training.speed import LOW_SHARE, likely_reasons, whole_run_seconds

    threads = f", {_count(machine.threads, 'thread')} on {_count(machine.cores, 'core')}"
    on = f"{machine.device} in {machine.precision}{threads if machine.device == 'cpu' else ''}"
    typer.echo(f"{settings.base.source} on {on}: {machine.name}")
    for one in found:
        rows = ", ".join(f"{one.rows[split]:,} {split}" for split in SPLITS)
        typer.echo(f"\n{one.dataset}: {rows}; {one.tokens:.0f} tokens a row\n")
        print_table(
            ["work", "by the settings", "takes", "rows/s", "share", "TFLOP/s"],
            [
                *(
                    [
                        work.work,
                        work.extent,
                        readable_seconds(work.seconds),
                        f"{work.rows_per_second:,.0f}",
                        f"{work.share:.2f}",
                        _tera(work.operations_per_second),
                    ]
                    for work in one.works
                ),
                ["evaluation", "baselines, test and gate", readable_seconds(one.evaluation_seconds), "", "", ""],
                ["all of a run", "for this dataset", readable_seconds(one.run_seconds), "", "", ""],
                ["products alone", "", "", "", "1.00", _tera(one.products)],
                ["a large product", "", "", "", "", _tera(machine.product)],
            ],
        )
    typer.echo(
        f"\nA run over {'this dataset' if len(found) == 1 else f'these {len(found)} datasets'} computes for about "
        f"{readable_seconds(whole_run_seconds(found, machine))}; data, merge, report and registry are not in it."
    )
    typer.echo(
        "share: of the speed of this base's matrix products alone. "
        f"Below {LOW_SHARE} something else takes most of the time: beft is slow.\n"
        "Near 1 the products set the pace. Where they are far below a large product, their batches are small or the "
        "cores are busy."
    )
    for reason in likely_reasons(machine, found):
        typer.echo(reason)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _tera(operations: float) -> str:
    return f"{operations / 1e12:.3g}"
