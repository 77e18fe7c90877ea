"""merge: what is done with several saved adapters of one base."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beft.cli.options import PARAMS, BaseFolder, Params, parse_changes, read_settings, refuse_existing
from beft.cli.output import print_table, progress

if TYPE_CHECKING:
    from beft.adapters.adapter import Adapter
    from beft.settings import Settings
    from beft.training.session import Session


def merge(
    context: typer.Context,
    adapters: Annotated[list[Path], typer.Argument(help="Two adapters' folders or more, of one base.")],
    out: Annotated[Path, typer.Option(help="The folder that gets one merged adapter for each head.")],
    method: Annotated[str, typer.Option(help="mean, task_arithmetic, ties, dare or searched_weights.")] = "mean",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the method: scale, density, drop_rate, draw.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="The same as --option scale=VALUE.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="One an adapter, in their order. Default: all 1.")] = None,
    prepared: Annotated[
        list[Path] | None,
        typer.Option(help="Prepared data, one folder an adapter, in their order: dev chooses what is not given."),
    ] = None,
    base: BaseFolder = None,
    params: Params = PARAMS,
) -> None:
    """Merge the bias changes of adapters.

    Heads are never merged: the folder gets one adapter for each given, with the merged biases and its own head.
    With --prepared, options (and weights, of searched_weights) are chosen on the dev rows, as the section merge of the
    settings says.
    """
    import warnings

    from beft.adapters.adapter import Adapter
    from beft.errors import InputError
    from beft.files import atomic_directory, write_json
    from beft.merging.choice import SEARCHED, MergeSelection, choose_merges
    from beft.merging.comparison import compare_all
    from beft.merging.dev import with_merged
    from beft.merging.merged import merge as merge_adapters
    from beft.merging.registry import known_methods
    from beft.names import known_name

    if len(adapters) < 2:
        raise InputError("a merge needs two adapters or more")
    for values, what in ((weight, "weight"), (prepared, "prepared")):
        if values and len(values) != len(adapters):
            raise InputError(
                f"there are {len(adapters)} adapters but {len(values)} times --{what}; give it once for each"
            )
    if weight and prepared:
        raise InputError("--weight and --prepared do not go together: with prepared data, dev rows choose")
    known_name(method, known_methods(), "merge method")
    if method == SEARCHED and not weight and not prepared:
        raise InputError(f"{SEARCHED} needs --prepared FOLDER once for each adapter: dev rows to search the weights on")
    given = parse_changes(option or (), option="--option", example="density=0.2")
    given |= {} if scale is None else {"scale": scale}
    refuse_existing(out)
    names = _names_of(adapters)
    loaded = {name: Adapter.load(path) for name, path in zip(names, adapters, strict=True)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the notes, printed below
        if prepared:
            settings = read_settings(context, params, None)
            opener = _opener(settings, loaded, dict(zip(names, prepared, strict=True)), base)
            section = type(settings.merge).model_validate({**settings.merge.model_dump(), "methods": (method,)})
            choices = choose_merges(section, loaded, opener, given=given, seed=settings.seed, progress=progress)
            [choice] = choices.values()
        else:
            weights = dict(zip(names, weight, strict=True)) if weight else None
            choice = MergeSelection(merge_adapters(method, loaded, weights=weights, **given))
    merged = choice.merged
    comparisons = compare_all(loaded)
    with atomic_directory(out) as folder:
        for name in names:
            with_merged(loaded, name, merged).save(folder / name)
        described = {
            "recipe": merged.recipe(),
            "tried": [one.to_json() for one in choice.tried],
            "comparisons": [each.to_json() for each in comparisons],
        }
        write_json(folder / "merge.json", described)
    for note in merged.notes:
        typer.echo(note, err=True)
    print_table(
        ["first", "second", "cosine", "sign conflict"],
        [[each.first, each.second, _number(each.cosine), _number(each.sign_conflict)] for each in comparisons],
    )
    chosen = {**merged.options, **({"weights": dict(merged.weights)} if method == SEARCHED else {})}
    if choice.tried:
        typer.echo(f"\nchosen on dev among {len(choice.tried)}: {chosen}")
    typer.echo(f"\n{', '.join(str(out / name) for name in names)}: the merged biases, each with its own head")


def _opener(
    settings: "Settings", adapters: "Mapping[str, Adapter]", prepared: Mapping[str, Path], base: str | None
) -> "Callable[[str], Session]":
    """Opens each adapter's dataset over the base, computed as the settings say and with what the adapter needs."""
    from beft.adapters.checks import check_inputs
    from beft.datasets.prepared import PreparedData
    from beft.inference.predictor import find_base
    from beft.settings import DatasetSettings
    from beft.training.session import open_session

    def open_dataset(name: str) -> "Session":
        adapter, data = adapters[name], PreparedData.from_folder(prepared[name])
        check_inputs(adapter, pairs=bool(data.facts.get("text_pairs")), choices="choices" in data.facts)
        computed = {"source": find_base(adapter, base).source, "quantization": adapter.quantization or "none"}
        own = settings.model_copy(
            update={
                "base": settings.base.model_copy(update=computed),
                "head": settings.head.model_copy(update={"pooling": adapter.pooling}),
                "datasets": {data.name: DatasetSettings(max_length=adapter.max_length)},
            }
        )
        return open_session(own, data)

    return open_dataset


def _names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each adapter: the part of its path in which it first differs from all others."""
    resolved = [path.resolve().parts for path in paths]
    for at in range(1, max(map(len, resolved)) + 1):
        names = [parts[-at] if at <= len(parts) else "" for parts in resolved]
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"adapter-{number}" for number in range(1, len(paths) + 1)]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
