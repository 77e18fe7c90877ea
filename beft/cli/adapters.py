"""predict, export: what is done with one saved adapter."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from beft.cli.given_texts import given_texts, in_parts, split_pairs, utf8_argument
from beft.cli.options import BaseFolder, open_adapter, refuse_existing
from beft.commands import own_command

_PREDICTED_AT_ONCE = 1024


def predict(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="The adapter's folder, or models:/NAME@ALIAS of the registry.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Left out: the lines of stdin. Behind -- if one begins with a dash."),
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Each text is two, with a tab between them.")] = False,
    choice: Annotated[
        list[str] | None, typer.Option(help="One of the choices of every text, for an adapter that chooses.")
    ] = None,
    base: BaseFolder = None,
    as_json: Annotated[bool, typer.Option("--json/--tsv", help="An object a line, or tab-separated columns.")] = False,
) -> None:
    """Predict with a saved adapter.

    Labels, values, choices, or answers. --tsv gives what is predicted, its probability where it has one, text; --json
    every probability.
    """
    from beft.errors import InputError
    from beft.inference.predictor import Predictor

    if not texts and sys.stdin.isatty():
        own = [*(["--base", base] if base else []), *(part for one in choice or () for part in ("--choice", one))]
        raise InputError(
            f"there is no text: give some ({own_command('beft', 'predict', adapter, *own, 'some text')}), or pipe "
            "lines in"
        )
    given = given_texts(texts)
    choices = [utf8_argument(one, f"--choice {number}") for number, one in enumerate(choice or (), 1)]
    with open_adapter(context, adapter) as folder:
        predictor = Predictor(folder, base=base)
    truncated = done = 0
    for lines in in_parts(given, _PREDICTED_AT_ONCE):
        first, second = split_pairs(lines) if pairs else (lines, None)
        answer = predictor.answer(first, second, [choices] * len(first) if choices else None, first_row=done)
        truncated += answer.truncated
        done += len(lines)
        for text, row in zip(lines, answer.rows(), strict=True):
            if as_json:
                typer.echo(json.dumps({"text": text, **row}, ensure_ascii=False))
            else:
                typer.echo("\t".join([*_answer_columns(row), " ".join(text.split())]))
    if truncated:
        limit = predictor.adapter.max_length
        typer.echo(f"{truncated} texts were longer than {limit} tokens and were cut", err=True)


def export(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    out: Annotated[Path, typer.Option(help="The new folder of the model.")],
    base: BaseFolder = None,
) -> None:
    """Write a plain model with the adapter folded in.

    transformers loads it without beft. Where the base has no bias, the model's configuration gets one, or another bias
    takes it over; where neither gives the same logits, it is refused.
    """
    from beft.adapters.adapter import Adapter
    from beft.inference.predictor import find_base
    from beft.models.base import load_classifier
    from beft.models.device import Compute

    loaded = Adapter.load(adapter)
    refuse_existing(out)
    reference = find_base(loaded, base)
    classifier = load_classifier(
        reference,
        loaded.labels,
        compute=Compute("cpu", "fp32", 1),
        pooling=loaded.pooling,
        problem_type=loaded.problem_type,
    )
    report = loaded.fold(classifier, out)
    typer.echo(f"{out}: a model that plain transformers loads; largest rounding of a bias {report.largest:.2g}")
    if report.place:
        typer.echo(f"the added biases are in {report.place}")


def _answer_columns(row: Mapping[str, Any]) -> list[str]:
    """What is predicted, and its probability where it has one, as columns."""
    if "label" in row:
        return [row["label"], f"{row['probabilities'][row['label']]:.4f}"]
    if "labels" in row:
        return [", ".join(f"{label} {row['probabilities'][label]:.4f}" for label in row["labels"]) or "-"]
    if "spans" in row:
        return [", ".join(f"{span['label']} {span['text']!r} {span['score']:.4f}" for span in row["spans"]) or "-"]
    if "choice" in row:
        return [row["choice"], f"{row['probabilities'][row['index']]:.4f}"]
    return [f"{row['value']:.4f}"] if "value" in row else [" ".join(row["answer"].split())]
