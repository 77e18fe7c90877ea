"""measure: methods side by side, what each trains, takes and gives."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beft.cli.learning import prepared_session
from beft.cli.options import PARAMS, AsJson, Changes, Params, Prepared
from beft.cli.output import print_json, progress

if TYPE_CHECKING:
    from beft.comparison.result import MethodResult, NotAvailable
    from beft.comparison.table import MethodRow
    from beft.training.session import Session

_WIDE = 160
"""Characters of a line where there is no terminal that says how many."""


def measure(
    context: typer.Context,
    methods: Annotated[
        str,
        typer.Argument(
            help="Names with commas between: untouched, in_context, head_only, logistic_regression, bias terms, "
            "all_biases, rand_uniform, ln_tuning, ia3, vera, lora, prefix, low_rank_value, full."
        ),
    ],
    prepared: Prepared,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from that of the settings on.")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of weights, this one alone. Default: searched on dev.")
    ] = None,
    usual_rates: Annotated[
        bool, typer.Option("--usual-rates", help="One usual rate for each method, where the settings name no others.")
    ] = False,
    weights: Annotated[
        int | None, typer.Option(help="rand_uniform: how many weights. Default: as many as biases of --weights-of.")
    ] = None,
    weights_of: Annotated[str, typer.Option(help="rand_uniform: a bias term, or all_biases.")] = "value",
    rank: Annotated[int, typer.Option(help="lora, low_rank_value: rank of the matrices.")] = 8,
    alpha: Annotated[int, typer.Option(help="lora: the product of its matrices is scaled by alpha / rank.")] = 16,
    prefix_tokens: Annotated[int, typer.Option(help="prefix: its length.")] = 5,
    demonstrations: Annotated[int, typer.Option(help="in_context: how many are shown at most.")] = 32,
    vera_rank: Annotated[int, typer.Option(help="vera: rank of its random matrices.")] = 256,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table in Markdown.")] = False,
    params: Params = PARAMS,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Train methods side by side; compare them on test.

    On the rows and with the settings of train (all_biases: of probe). Each method, biases and weights alike, tries
    as many learning rates, and dev chooses: train.learning_rates, or 0.3, 1 and 3 times its usual one. Biases share
    passes over the base. Nothing is saved.
    """
    from beft.comparison.measuring import measure_many
    from beft.comparison.registry import MethodOptions, known_method
    from beft.comparison.result import MethodRun, NotAvailable
    from beft.comparison.table import method_rows

    names = list(dict.fromkeys(name.strip() for name in methods.split(",")))
    for name in names:
        known_method(name)
    options = MethodOptions(
        learning_rate, weights, weights_of, rank, alpha, prefix_tokens, demonstrations, vera_rank, not usual_rates
    )
    session = prepared_session(context, prepared, params, changes)
    settings = session.settings
    runs = [MethodRun(name, settings.seed + number, options=options) for name in names for number in range(seeds)]
    found = measure_many(session, runs, progress=progress)
    missing = [one for one in found if isinstance(one, NotAvailable)]
    results = [one for one in found if not isinstance(one, NotAvailable)]
    _refuse_nothing(missing, results)
    rows = method_rows(results, session.metric, confidence=settings.evaluate.confidence)
    if as_json:
        print_json(_facts(session, results, rows, missing))
        return
    _print(session, rows, missing, markdown=markdown)


def _refuse_nothing(missing: "list[NotAvailable]", results: "list[MethodResult]") -> None:
    from beft.errors import InputError, TrainingError

    if not results:
        failed = any(one.failed for one in missing)
        raise (TrainingError if failed else InputError)("; ".join(dict.fromkeys(one.reason for one in missing)))


def _facts(
    session: "Session", results: "list[MethodResult]", rows: "list[MethodRow]", missing: "list[NotAvailable]"
) -> dict[str, Any]:
    from beft.models.device import resolve_compute

    reference, settings = session.classifier.reference, session.settings
    return {
        "dataset": session.dataset,
        "base": None if reference is None else reference.portable_id,
        "compute": resolve_compute(settings.base).to_json(),
        "protocol": settings.protocol,
        "metric": session.metric,
        "confidence": settings.evaluate.confidence,
        "methods": [row.to_json() for row in rows],
        "runs": [result.to_json() for result in results],
        "not_available": {one.run.method: one.reason for one in missing if not one.failed},
        "failed": [
            {"method": one.run.method, "seed": one.run.seed, "reason": one.reason} for one in missing if one.failed
        ],
    }


def _print(session: "Session", rows: "list[MethodRow]", missing: "list[NotAvailable]", *, markdown: bool) -> None:
    from beft.comparison.table import methods_table

    reference = session.classifier.reference
    base = session.settings.base.source if reference is None else reference.portable_id
    table = methods_table(
        rows,
        missing,
        title=f"{session.dataset} on {base}",
        metric=session.metric,
        confidence=session.settings.evaluate.confidence,
    )
    if markdown:
        typer.echo(table.to_markdown(), nl=False)
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)
