"""merge: what is done with several saved adapters of one base."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beft.cli.options import PARAMS, BaseFolder, Params, parse_changes, read_settings, refuse_existing
from beft.cli.output import print_table, progress

if TYPE_CHECKING:
    from beft.adapters.adapter import Adapter
    from beft.merging.choice import MergeSelection
    from beft.merging.comparison import Comparison
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
    from beft.adapters.adapter import Adapter
    from beft.merging.comparison import compare_all

    _check(adapters, method, weight, prepared)
    given = parse_changes(option or (), option="--option", example="density=0.2")
    given |= {} if scale is None else {"scale": scale}
    refuse_existing(out)
    names = _names_of(adapters)
    loaded = {name: Adapter.load(path) for name, path in zip(names, adapters, strict=True)}
    if prepared:
        settings = read_settings(context, params, None)
        opener = _opener(settings, loaded, dict(zip(names, prepared, strict=True)), base)
        choice = _choose_on_dev(method, loaded, opener, settings, given)
    else:
        choice = _merge_as_given(method, loaded, dict(zip(names, weight, strict=True)) if weight else None, given)
    comparisons = compare_all(loaded)
    _write(out, loaded, choice, comparisons)
    _print(choice, comparisons)
    typer.echo(f"\n{', '.join(str(out / name) for name in names)}: the merged biases, each with its own head")


def _check(
    adapters: Sequence[Path], method: str, weight: Sequence[float] | None, prepared: Sequence[Path] | None
) -> None:
    """Check the arguments against each other, before anything is loaded.

    Raises:
        InputError: They do not go together, or the method is unknown.
    """
    from beft.errors import InputError
    from beft.merging.adapters import check_several
    from beft.merging.choice import SEARCHED
    from beft.merging.registry import known_methods
    from beft.names import known_name

    check_several(adapters)
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


def _choose_on_dev(
    method: str,
    adapters: "Mapping[str, Adapter]",
    open_dataset: "Callable[[str], Session]",
    settings: "Settings",
    given: Mapping[str, Any],
) -> "MergeSelection":
    """The merge whose options, and weights of searched_weights, are best on dev."""
    from beft.merging.choice import choose_merges

    section = type(settings.merge).model_validate({**settings.merge.model_dump(), "methods": (method,)})
    with _notes_printed_later():
        choices = choose_merges(section, adapters, open_dataset, given=given, seed=settings.seed, progress=progress)
    [choice] = choices.values()
    return choice


def _merge_as_given(
    method: str, adapters: "Mapping[str, Adapter]", weights: Mapping[str, float] | None, given: Mapping[str, Any]
) -> "MergeSelection":
    """The merge with the given options and weights, the defaults elsewhere."""
    from beft.merging.choice import MergeSelection
    from beft.merging.merged import merge as merge_changes

    with _notes_printed_later():
        return MergeSelection(merge_changes(method, adapters, weights=weights, **given))


@contextmanager
def _notes_printed_later() -> Iterator[None]:
    """No warnings: what they say is in the notes of a merge, which are printed at the end."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write(
    out: Path, adapters: "Mapping[str, Adapter]", choice: "MergeSelection", comparisons: "Sequence[Comparison]"
) -> None:
    """Write one merged adapter for each head, and ``merge.json``."""
    from beft.files import atomic_directory, write_json
    from beft.merging.adapters import merged_adapters

    with atomic_directory(out) as folder:
        for name, adapter in merged_adapters(adapters, choice.merged).items():
            adapter.save(folder / name)
        described = {
            "recipe": choice.merged.recipe(),
            "tried": [one.to_json() for one in choice.trials],
            "comparisons": [each.to_json() for each in comparisons],
        }
        write_json(folder / "merge.json", described)


def _print(choice: "MergeSelection", comparisons: "Sequence[Comparison]") -> None:
    from beft.merging.choice import SEARCHED

    merged = choice.merged
    for note in merged.notes:
        typer.echo(note, err=True)
    print_table(
        ["first", "second", "cosine", "sign conflict"],
        [[each.first, each.second, _number(each.cosine), _number(each.sign_conflict)] for each in comparisons],
    )
    chosen = {**merged.options, **({"weights": dict(merged.weights)} if merged.method == SEARCHED else {})}
    if choice.trials:
        typer.echo(f"\nchosen on dev among {len(choice.trials)}: {chosen}")


def _opener(
    settings: "Settings", adapters: "Mapping[str, Adapter]", prepared: Mapping[str, Path], base: str | None
) -> "Callable[[str], Session]":
    """Opens each adapter's dataset over the base, computed as the settings say and with what the adapter needs.

    Raises:
        InputError: The rows of a dataset are of another kind, or have other labels, than those that its adapter was
            trained on.
    """
    from beft.adapters.checks import check_inputs, check_labels
    from beft.datasets.prepared import PreparedData
    from beft.inference.predictor import find_base
    from beft.settings import DatasetSettings
    from beft.training.opening import open_session

    # At once: a merge that dev rows do not choose opens no dataset.
    data_of = {name: PreparedData.from_folder(folder) for name, folder in prepared.items()}
    for name, data in data_of.items():
        check_inputs(adapters[name], pairs=bool(data.facts.get("text_pairs")), choices="choices" in data.facts)
        check_labels(adapters[name], data.labels, f"--prepared {prepared[name]}")

    def open_dataset(name: str) -> "Session":
        adapter, data = adapters[name], data_of[name]
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
