"""datasets: list, show, check and draft them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beft.cli.options import (
    PARAMS,
    AsJson,
    Changes,
    Params,
    read_settings,
    refuse_other_datasets,
    settings_options,
    without_file,
)
from beft.cli.output import print_json, print_table
from beft.commands import own_command

if TYPE_CHECKING:
    from beft.datasets.description import Description
    from beft.settings import Settings

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """List the known datasets.

    The embedded ones, and those described in data/datasets/.
    """
    from beft.datasets.reading.loaders import whereabouts
    from beft.datasets.registry import find_dataset, known_datasets

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
    from beft.datasets.registry import find_dataset
    from beft.yaml_text import format_yaml

    described = find_dataset(dataset).model_dump(mode="json", exclude_defaults=True)
    typer.echo(format_yaml(described, width=110).rstrip())


@app.command("check")
def check(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Its name, or the path of a description.")],
    size: Annotated[
        str | None,
        typer.Option(help="low, medium, high, all, or a number of rows. Default: that of the settings."),
    ] = None,
    params: Params = PARAMS,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Check a dataset against its description and the base.

    It is read and prepared in a temporary folder, and must meet what a run expects of its data; the base's weights are
    not read.
    """
    from beft.cli.dataset_facts import show_facts
    from beft.datasets.description import Description
    from beft.datasets.registry import find_dataset
    from beft.errors import InputError

    settings = read_settings(context, params, changes)
    is_file = dataset.endswith((".yaml", ".yml"))
    if not is_file and Path(dataset).suffix and Path(dataset).is_file():
        drafted = own_command("beft", "datasets", "draft", dataset)
        raise InputError(f"{dataset} is a file of data, no description; this writes one: {drafted}")
    description = Description.read(Path(dataset)) if is_file else find_dataset(dataset)
    refuse_other_datasets(changes, description.name)
    facts = _prepared(context, settings, description, size)
    if as_json:
        print_json(facts)
        return
    show_facts(facts)
    for sentence in _decisions(facts, settings):
        typer.echo(f"{sentence[0].upper()}{sentence[1:]}.")


@app.command("draft")
def draft(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A CSV, TSV, JSONL, JSON, Parquet or CoNLL file.")],
    name: Annotated[str | None, typer.Option(help="The dataset's name. Default: made from the file's.")] = None,
    text: Annotated[str | None, typer.Option(help="The column of the text. Default: detected.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="The column of a second text. Default: detected.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of the label. Default: detected.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the description of that name.")] = False,
    params: Params = PARAMS,
    changes: Changes = None,
) -> None:
    """Write a dataset's description from a file, to be looked at and used.

    Encoding, separator, columns, labels and their shares are found out; what is written has passed 'check'.
    """
    from beft.cli.dataset_facts import rare_labels, spans_within_words
    from beft.datasets.drafting.draft import draft_description
    from beft.datasets.registry import OWN, known_datasets
    from beft.errors import InputError
    from beft.files import write_text

    settings = read_settings(context, params, changes)
    found = draft_description(file, Path.cwd(), name=name, text=text, text_pair=text_pair, label=label)
    name = found.description.name
    there = known_datasets().get(name)
    if there is not None and not replace:
        raise InputError(f"there is a dataset {name!r} already ({there}): give another --name, or --replace it")
    if there is not None and there.suffix == ".yml":
        raise InputError(f"{there} describes the dataset {name!r}: rename it to {name}.yaml to have it replaced")
    refuse_other_datasets(changes, name)
    facts = _prepared(context, settings, found.description, None)
    rare = [*rare_labels(facts), *spans_within_words(facts)]
    rows = ", ".join(f"{split} {count:,}" for split, count in facts["rows"].items())
    written = found.to_yaml([f"divided by the settings of today: {rows}", *rare, *_decisions(facts, settings)])
    path = OWN / f"{name}.yaml"
    write_text(path, written)
    typer.echo(f"{written}\nWritten to {path}. Look at it; then")
    own = settings_options(params, changes)
    if without_file(params):
        typer.echo(f"  {own_command('beft', 'init')}")
    typer.echo(f"  {own_command('beft', 'datasets', 'check', name, *own)}")
    typer.echo(f"  {own_command('beft', 'run', '--set', f'datasets={{{name}: {{}}}}', *own)}")


def _decisions(facts: Mapping[str, Any], settings: "Settings") -> list[str]:
    """What a decision can tell: on a first champion, which a run takes, and on a promotion, where that is another."""
    from beft.evaluation.promotion.certainty import decision_certainty
    from beft.evaluation.promotion.rules import PromotionRules

    rules = getattr(settings, "promotion", PromotionRules())
    first = decision_certainty(facts, settings.evaluate.confidence)
    later = decision_certainty(facts, rules.confidence)
    if first == later:
        return [f"the decision: {first}"]
    return [
        f"the decision on a first champion (evaluate.confidence): {first}",
        f"that on a promotion (promotion.confidence): {later}",
    ]


def _prepared(
    context: typer.Context, settings: "Settings", description: "Description", size: str | None
) -> dict[str, Any]:
    """The ``data.json`` of a dataset that is read, checked and prepared in a temporary folder.

    Args:
        size: None: that of the settings.
    """
    import tempfile

    from beft.datasets.preparation import prepare_source
    from beft.datasets.prepared import PreparedData
    from beft.datasets.reading.loaders import fetch_source
    from beft.training.opening import check_base

    chosen = settings.datasets.get(description.name)
    requested = size or (chosen.size if chosen else "auto")
    rows = int(requested) if isinstance(requested, str) and requested.isdecimal() else requested
    with tempfile.TemporaryDirectory(prefix="beft-check-") as folder:
        raw, of_raw, prepared, of_prepared = (Path(folder, name) for name in ("raw", "raw-docs", "prepared", "docs"))
        for path in (raw, of_raw, prepared, of_prepared):
            path.mkdir()
        fetch_source(description, raw, Path.cwd())
        if context.obj:
            context.obj.check_data(settings, description, "validate_raw", raw, of_raw)
        facts = prepare_source(raw, prepared, size=rows, settings=settings.split)
        if context.obj:
            context.obj.check_data(settings, description, "validate", prepared, of_prepared)
        if chosen or description.shape != "generation":  # which needs another base than that of the other datasets
            check_base(settings, PreparedData.from_folder(prepared))
    return facts
