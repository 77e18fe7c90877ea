"""predict, merge, export: what is done with saved adapters."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from beft.cli.options import BaseFolder, open_adapter, refuse_existing
from beft.cli.output import print_table

_PREDICTED_AT_ONCE = 1024


def predict(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="The adapter's folder, or models:/NAME@ALIAS of the registry.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="None: lines of stdin.")] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Each text is two, with a tab between them.")] = False,
    base: BaseFolder = None,
    as_json: Annotated[bool, typer.Option("--json/--tsv", help="An object a line, or tab-separated columns.")] = False,
) -> None:
    """Predict labels with a saved adapter.

    --tsv gives label, its probability, text; --json every label's probability.
    """
    from beft.errors import InputError
    from beft.prediction import Predictor

    if not texts and sys.stdin.isatty():
        raise InputError('there is no text: give some (beft predict ADAPTER "some text"), or pipe lines in')
    with open_adapter(context, adapter) as folder:
        predictor = Predictor(folder, base=base)
    truncated = 0
    for lines in _in_parts(texts or _stdin_lines(), _PREDICTED_AT_ONCE):
        first, second = _split_pairs(lines) if pairs else (lines, None)
        answer = predictor.answer(first, second)
        truncated += answer.truncated
        for text, row in zip(lines, answer.rows(), strict=True):
            if as_json:
                typer.echo(json.dumps({"text": text, **row}, ensure_ascii=False))
            else:
                shown = " ".join(text.split())
                typer.echo(f"{row['label']}\t{row['probabilities'][row['label']]:.4f}\t{shown}")
    if truncated:
        limit = predictor.adapter.max_length
        typer.echo(f"{truncated} texts were longer than {limit} tokens and were cut", err=True)


def merge(
    adapters: Annotated[list[Path], typer.Argument(help="Two adapters' folders or more, of one base.")],
    out: Annotated[Path, typer.Option(help="The folder that gets one merged adapter for each head.")],
    method: Annotated[str, typer.Option(help="mean or task_arithmetic.")] = "mean",
    scale: Annotated[float | None, typer.Option(help="Of task_arithmetic: multiplies the sum.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="One an adapter, in their order; none: all 1.")] = None,
) -> None:
    """Merge the bias changes of adapters.

    Heads are never merged: the folder gets one adapter for each given, with the merged biases and its own head.
    """
    import warnings

    from beft.adapter import Adapter
    from beft.errors import InputError
    from beft.files import whole_folder, write_json
    from beft.merging import compare_all
    from beft.merging import merge as merge_adapters

    if len(adapters) < 2:
        raise InputError("a merge needs two adapters or more")
    if weight and len(weight) != len(adapters):
        raise InputError(f"there are {len(adapters)} adapters but {len(weight)} weights; give --weight once for each")
    names = _names_of(adapters)
    loaded = {name: Adapter.load(path) for name, path in zip(names, adapters, strict=True)}
    weights = dict(zip(names, weight, strict=True)) if weight else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the notes, printed below
        given = {} if scale is None else {"scale": scale}
        merged = merge_adapters(method, loaded, weights=weights, **given)
    comparisons = compare_all(loaded)
    refuse_existing(out)
    with whole_folder(out) as folder:
        for name, adapter in loaded.items():
            beside = [other for other in loaded.values() if other is not adapter]
            adapter.with_deltas(merged.deltas, beside=beside, provenance=merged.recipe()).save(folder / name)
        described = {"recipe": merged.recipe(), "comparisons": [each.to_json() for each in comparisons]}
        write_json(folder / "merge.json", described)
    for note in merged.notes:
        typer.echo(note, err=True)
    print_table(
        ["first", "second", "cosine", "sign conflict"],
        [[each.first, each.second, _number(each.cosine), _number(each.sign_conflict)] for each in comparisons],
    )
    typer.echo(f"\n{', '.join(str(out / name) for name in names)}: the merged biases, each with its own head")


def export(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    out: Annotated[Path, typer.Option(help="The new folder of the model.")],
    base: BaseFolder = None,
) -> None:
    """Write a plain model with the adapter folded in.

    transformers loads it without beft.
    """
    from beft.adapter import Adapter
    from beft.base import load_classifier, resolve_base
    from beft.device import Compute

    loaded = Adapter.load(adapter)
    refuse_existing(out)
    reference = resolve_base(base or loaded.base_id)
    classifier = load_classifier(reference, loaded.labels, compute=Compute("cpu", "fp32", 1), pooling=loaded.pooling)
    report = loaded.fold(classifier, out)
    typer.echo(f"{out}: a model that plain transformers loads; largest rounding of a bias {report.largest:.2g}")


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


def _stdin_lines() -> Iterator[str]:
    from beft.errors import InputError

    try:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"stdin is not UTF-8 text: {error}") from None


def _split_pairs(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    from beft.errors import InputError

    parts = [line.split("\t") for line in lines]
    for line, part in zip(lines, parts, strict=True):
        if len(part) != 2:
            raise InputError(f"--pairs: {len(part) - 1} tabs in {line[:60]!r}; there must be one, between two texts")
    return [part[0] for part in parts], [part[1] for part in parts]


def _in_parts(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
