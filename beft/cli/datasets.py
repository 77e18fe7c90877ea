"""datasets: list, show and check them."""

from pathlib import Path
from typing import Annotated

import typer

from beft.cli.options import PARAMS, AsJson, Changes, Params, read_settings
from beft.cli.output import print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """List the known datasets.

    The embedded ones, and those described in data/datasets/.
    """
    from beft.datasets import find_dataset, known_datasets
    from beft.datasets.loaders import whereabouts

    found = [find_dataset(name) for name in known_datasets()]
    source = {description.name: whereabouts(description, Path.cwd()) for description in found}
    if as_json:
        print_json([description.model_dump(mode="json") | {"found": source[description.name]} for description in found])
        return
    print_table(
        ["dataset", "version", "shape", "metrics", "sizes", "source", "title"],
        [
            [
                each.name,
                each.version,
                each.shape,
                ", ".join(each.metrics),
                ", ".join([*(f"{name} {rows:,}" for name, rows in each.sizes.items()), "all"]),
                source[each.name],
                each.title,
            ]
            for each in found
        ],
    )
    typer.echo(
        "\nsource: package, files and BEFT_DATA_DIR (the folder that this variable names) are on this machine; "
        "hub must be downloaded."
    )


@app.command("show")
def show(dataset: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Show a dataset's description as YAML."""
    import yaml

    from beft.datasets import find_dataset

    described = find_dataset(dataset).model_dump(mode="json", exclude_defaults=True)
    typer.echo(yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=110).rstrip())


@app.command("check")
def check(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Its name, or the path of a description.")],
    size: Annotated[
        str | None,
        typer.Option(help="low, medium, high, all, or a number of rows; none: that of the settings."),
    ] = None,
    params: Params = PARAMS,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Check a dataset against its description and the base.

    It is read and prepared in a temporary folder, and must meet what a run expects of its data; the base's weights are
    not read.
    """
    import tempfile

    from beft.cli.dataset_facts import show_facts
    from beft.datasets import Description, find_dataset
    from beft.datasets.loaders import fetch_source
    from beft.datasets.preparation import prepare_source
    from beft.opened import check_base
    from beft.promotion import decision_certainty

    settings = read_settings(context, params, changes)
    is_file = dataset.endswith((".yaml", ".yml"))
    description = Description.read(Path(dataset)) if is_file else find_dataset(dataset)
    with tempfile.TemporaryDirectory(prefix="beft-check-") as folder:
        raw, prepared, results = (Path(folder, name) for name in ("raw", "prepared", "results"))
        for path in (raw, prepared, results):
            path.mkdir()
        fetch_source(description, raw, Path.cwd())
        if context.obj:
            context.obj.check_data(settings, description.name, "validate_raw", raw, results)
        chosen = settings.datasets.get(description.name)
        asked = size or (chosen.size if chosen else "auto")
        rows = int(asked) if isinstance(asked, str) and asked.isdecimal() else asked
        facts = prepare_source(raw, prepared, size=rows, settings=settings.split)
        if context.obj:
            context.obj.check_data(settings, description.name, "validate", prepared, results)
        if chosen or description.shape != "generation":  # which needs another base than that of the other datasets
            check_base(settings, prepared, description.name)
    if as_json:
        print_json(facts)
        return
    show_facts(facts)
    typer.echo(f"The decision: {decision_certainty(facts, settings.evaluate.confidence)}.")
