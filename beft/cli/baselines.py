"""baseline: train weights of the base instead of a bias term, and say what it gives and takes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from beft.cli.learning import settings_for
from beft.cli.options import PARAMS, AsJson, Changes, Params, Prepared
from beft.cli.output import print_json, print_table, progress

if TYPE_CHECKING:
    from beft.baselines import WeightMethod, WeightsResult
    from beft.evaluation import Score
    from beft.opened import Opened

METHODS = ("full", "rand_uniform", "lora")


def baseline(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="full, rand_uniform or lora.")],
    prepared: Prepared,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the weights; none: one that is usual for the method.")
    ] = None,
    weights: Annotated[
        int | None, typer.Option(help="rand_uniform: how many weights; none: as many as the bias term has numbers.")
    ] = None,
    term: Annotated[str, typer.Option(help="rand_uniform: the bias term that says how many.")] = "value",
    rank: Annotated[int, typer.Option(help="lora: rank of its matrices.")] = 8,
    alpha: Annotated[int, typer.Option(help="lora: their product is scaled by alpha / rank.")] = 16,
    params: Params = PARAMS,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Train weights of the base, to compare with.

    full: all of them. rand_uniform: some, drawn at random. lora: PEFT's LoRA on the query and value projections. On
    the rows and with the settings of train (but its learning rate); the epoch is chosen on dev. Nothing is saved.
    """
    from beft.adaptation import train_weights
    from beft.baselines import attached_weights
    from beft.errors import InputError
    from beft.features import predict_probabilities
    from beft.names import known_name
    from beft.opened import open_classifier

    known_name(method, METHODS, "baseline")
    if learning_rate is not None and not 0 < learning_rate <= 1:
        raise InputError(f"--learning-rate {learning_rate}: it must be above 0 and at most 1")
    settings, dataset = settings_for(context, prepared, params, changes)
    opened = open_classifier(settings, prepared, dataset)
    chosen = _method(method, opened, weights, term, rank, alpha)
    training = opened.training(settings.train).model_copy(
        update={"learning_rate": learning_rate or chosen.learning_rate}
    )
    result = train_weights(opened.classifier, opened.sample(), settings, training, chosen, progress=progress)
    rows = opened.rows("test")
    with attached_weights(opened.classifier, chosen, result):
        probabilities = predict_probabilities(
            opened.classifier, rows.encoded, batch_size=settings.evaluate.batch_size
        ).double()
    scores = _scores(opened, result, probabilities.numpy(), rows.labels.tolist())
    if as_json:
        print_json(_facts(opened, result, scores, len(rows)))
        return
    _print(opened, result, scores, len(rows))


def _method(name: str, opened: "Opened", weights: int | None, term: str, rank: int, alpha: int) -> "WeightMethod":
    from beft.baselines import FullFineTuning, Lora, RandUniform
    from beft.sites import find_sites

    if name == "full":
        return FullFineTuning()
    if name == "lora":
        return Lora(rank, alpha)
    if weights is None:
        sites = find_sites(opened.classifier.model, [term], add=opened.settings.base.add_biases)
        weights = sum(site.width for site in sites)
        progress(f"rand_uniform: {weights:,} weights, as many as the {term} biases have numbers")
    return RandUniform(weights)


def _scores(opened: "Opened", result: "WeightsResult", probabilities: Any, labels: list[int]) -> "dict[str, Score]":
    """The dataset's metric and accuracy on test, with intervals."""
    from beft.evaluation import Method, evaluate_methods

    name, settings = result.run.name, opened.settings
    found = evaluate_methods(
        {name: Method({"test": probabilities})},
        {"test": labels},
        target=name,
        baselines=[],
        metrics=[opened.metric, "accuracy"],
        settings=settings.evaluate,
        seed=settings.seed,
    )
    return found.splits["test"].scores[name]


def _facts(opened: "Opened", result: "WeightsResult", scores: "dict[str, Score]", rows: int) -> dict[str, Any]:
    from beft.device import resolve_compute

    reference, settings = opened.classifier.reference, opened.settings
    return {
        "method": result.run.name,
        "dataset": opened.dataset,
        "base": None if reference is None else reference.portable_id,
        "compute": resolve_compute(settings.base).to_json(),
        "seed": result.run.seed,
        "training": result.run.settings.model_dump(mode="json"),
        "weights": result.state.parameters,
        "head_parameters": result.head_parameters,
        "trainable_parameters": result.trainable_parameters,
        "model_parameters": result.model_parameters,
        "share": result.share,
        "metric": opened.metric,
        "history": result.history,
        "best_epoch": result.best_epoch,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "peak_memory_bytes": result.peak_memory,
        "test": {
            "rows": rows,
            "confidence": settings.evaluate.confidence,
            **{name: {"value": score.value, "low": score.low, "high": score.high} for name, score in scores.items()},
        },
    }


def _print(opened: "Opened", result: "WeightsResult", scores: "dict[str, Score]", rows: int) -> None:
    measured = ("train_loss", "dev_loss", "dev_metric")
    columns = [name for name in measured if name in result.history[0]]
    titles = [f"dev {opened.metric}" if name == "dev_metric" else name.replace("_", " ") for name in columns]
    lines = [[record["epoch"], *(f"{record[name]:.4f}" for name in columns)] for record in result.history]
    print_table(["epoch", *titles], lines)
    typer.echo(
        f"\n{result.run.name}: {result.state.parameters:,} weights and {result.head_parameters:,} head parameters "
        f"trained, {100 * result.share:.3g} % of the model's {result.model_parameters:,}; "
        f"learning rate {result.run.settings.learning_rate:g}, best epoch {result.best_epoch}"
    )
    typer.echo(f"{result.seconds:.1f} s, peak memory {result.peak_memory / 1e6:,.0f} MB")
    confidence = f"{100 * opened.settings.evaluate.confidence:g} %"
    for name, score in scores.items():
        typer.echo(f"test {name} {score.value:.4f} [{score.low:.4f}, {score.high:.4f}] ({confidence}, {rows} rows)")
