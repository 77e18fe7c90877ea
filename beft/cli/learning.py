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
    settings_options,
)
from beft.cli.output import print_json, print_table, progress
from beft.commands import own_command, predict_command

if TYPE_CHECKING:
    from beft.settings import Settings


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
    from beft.files import whole_folder, write_json
    from beft.training.adaptation import run_probe
    from beft.training.session import open_classifier

    settings, dataset = settings_for(context, prepared, params, changes)
    refuse_existing(out)
    opened = open_classifier(settings, prepared, dataset)
    training = opened.training(settings.probe)
    found = run_probe(opened.classifier, opened.sample(), settings, training, progress=progress)
    with whole_folder(out) as folder:
        found.evidence.save(folder)
        write_json(folder / "history.json", found.result.history)
    score_it = own_command("beft", "score", out, *settings_options(params, changes))
    typer.echo(f"best epoch {found.result.best_epoch}; now: {score_it}")


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
    from beft.importance.probe_result import Evidence

    found = Evidence.load(folder).scores(read_settings(context, params, changes))
    if as_json:
        print_json(found.to_json())
        return
    means = {table.method: table.mean for table in found.tables}
    rows = []
    for term in found.inert:
        values = [means[method][term] for method in means]
        cells = ["no direction" if value is None else f"{value:.4g}" for value in values]
        rows.append([term, *cells, "yes" if found.inert[term]["inert"] else "no"])
    print_table(["bias term", *means, "inert"], rows)
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
    from beft.training.adaptation import train_terms
    from beft.training.session import open_classifier

    terms = tuple(known_name(name, TERMS, "bias term") for name in term)
    settings, dataset = settings_for(context, prepared, params, changes)
    refuse_existing(out)
    opened = open_classifier(settings, prepared, dataset)
    training = opened.training(settings.train)
    result = train_terms(opened.classifier, opened.sample(), settings, training, terms, progress=progress)
    adapter = opened.adapter(result, terms)
    adapter.save(out)
    best = result.history[result.best_epoch - 1]
    on_dev = f", dev {opened.metric} {best['dev_metric']:.4f}" if "dev_metric" in best else ""
    typer.echo(
        f"{adapter.bias_parameters:,} bias and {adapter.head_parameters:,} head parameters, best epoch "
        f"{result.best_epoch}{on_dev}"
    )
    typer.echo(f"now: {predict_command(out, out, settings.base.source, 'some text')}")


def settings_for(
    context: typer.Context, prepared: Path, params: Path, changes: list[str] | None
) -> "tuple[Settings, str]":
    """The settings, with a section for the dataset of the prepared data; and that dataset's name."""
    from beft.datasets.prepared import load_summary
    from beft.settings import DatasetSettings

    settings = read_settings(context, params, changes)
    dataset = str(load_summary(prepared)["dataset"])
    chosen = {dataset: settings.datasets.get(dataset, DatasetSettings())}
    return settings.model_copy(update={"datasets": chosen}), dataset
