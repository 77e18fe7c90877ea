"""The science from the command line: inspect, datasets, probe, score, train, predict, merge, export.

Nothing slow is imported before a command runs, so that ``beft --help`` answers at once.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from beft.settings import Settings

ReadSettings = Callable[[Path, Mapping[str, Any]], "Settings"]
"""Reads the settings of a command: from a file, with changes by dotted name."""

PARAMS = Path("params.yaml")
_PREDICTED_AT_ONCE = 1024

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
datasets = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(datasets, name="datasets", help="List, show and check datasets.")

Params = Annotated[Path, typer.Option(help="The settings; missing, the defaults.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one setting.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Prepared = Annotated[Path, typer.Argument(help="A folder of prepared data, as the step 'prepare' writes it.")]


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="pypi:PACKAGE==VERSION, a local folder, or a hub id.")],
    inert: Annotated[bool, typer.Option("--inert", help="Measure which components change no logit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the bias terms of a base.

    Where they are, how wide, which could be added; with --inert, which can do nothing.
    """
    from beft.inspection import inspect_base

    found = inspect_base(model, inertness=inert)
    if as_json:
        _json(found.to_json())
        return
    typer.echo(f"{found.model} ({found.family}), {found.layers} layers, {found.parameters:,} parameters")
    typer.echo(f"{found.base.portable_id}, sha256 {found.base.sha256[:12]}\n")
    rows = []
    for term in found.terms:
        row = [term.term, term.layers, term.width, f"{term.parameters:,}", "yes" if term.exists else "can be added"]
        if inert:
            row.append(_share(term.inert, term.parameters))
        rows.append([*row, term.module])
    _table(["bias term", "sites", "width", "parameters", "exists", *(["inert"] if inert else []), "module"], rows)
    total = sum(term.parameters for term in found.terms if term.exists)
    typer.echo(f"\nAll existing bias terms: {total:,} parameters, {total / found.parameters:.3%} of the model.")


@datasets.command("ls")
def datasets_ls(as_json: AsJson = False) -> None:
    """List the known datasets.

    The embedded ones, and those described in data/datasets/.
    """
    from beft.datasets import find_dataset, known_datasets

    found = [find_dataset(name) for name in known_datasets()]
    if as_json:
        _json([description.model_dump(mode="json") for description in found])
        return
    _table(
        ["dataset", "version", "labels", "metric", "sizes", "title"],
        [
            [
                each.name,
                each.version,
                ", ".join(each.labels),
                each.metric,
                ", ".join([*(f"{name} {rows:,}" for name, rows in each.sizes.items()), "all"]),
                each.title,
            ]
            for each in found
        ],
    )


@datasets.command("show")
def datasets_show(dataset: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Show a dataset's description as YAML."""
    import yaml

    from beft.datasets import find_dataset

    described = find_dataset(dataset).model_dump(mode="json", exclude_defaults=True)
    typer.echo(yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=110).rstrip())


@datasets.command("check")
def datasets_check(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Its name, or the path of a description.")],
    size: Annotated[
        str | None, typer.Option(help="low, medium, high, all, or a number of rows; none: as in the settings, or all.")
    ] = None,
    params: Params = PARAMS,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Check a dataset against its description.

    It is read and prepared in a temporary folder.
    """
    import tempfile

    from beft.datasets import Description, find_dataset
    from beft.datasets.loaders import fetch_source
    from beft.datasets.preparation import prepare_source

    settings = _settings(context, params, changes)
    is_file = dataset.endswith((".yaml", ".yml"))
    description = Description.read(Path(dataset)) if is_file else find_dataset(dataset)
    with tempfile.TemporaryDirectory(prefix="beft-check-") as folder:
        raw, prepared = Path(folder, "raw"), Path(folder, "prepared")
        raw.mkdir()
        prepared.mkdir()
        fetch_source(description, raw, Path.cwd())
        chosen = settings.datasets.get(description.name)
        asked = size or (chosen.size if chosen else "all")
        rows = int(asked) if isinstance(asked, str) and asked.isdecimal() else asked
        facts = prepare_source(raw, prepared, size=rows, settings=settings.split)
    if as_json:
        _json(facts)
        return
    typer.echo(f"{facts['dataset']}: {facts['raw_rows']:,} rows, {facts['title']}\n")
    labels = facts["labels"]
    _table(
        ["split", "rows", *labels],
        [[split, f"{facts['rows'][split]:,}", *balance.values()] for split, balance in facts["balance"].items()],
    )
    dropped = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in facts["dropped"].items())
    typer.echo(f"\nLeft out: {dropped}. Texts with two labels: {facts['conflicts']['texts']:,}.")


@app.command()
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
    from beft.adaptation import run_probe, settings_of
    from beft.files import whole_folder, write_json

    settings, opened = _opened(context, prepared, params, changes)
    _refuse_existing(out)
    training = settings_of(settings.probe, settings, opened.dataset)
    found = run_probe(opened.classifier, opened.sample(settings), settings, training, progress=_progress)
    with whole_folder(out) as folder:
        found.evidence.save(folder)
        write_json(folder / "history.json", found.result.history)
    typer.echo(f"best epoch {found.result.best_epoch}; now: beft score {out}")


@app.command()
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
    from beft.evidence import Evidence

    found = Evidence.load(folder).scores(_settings(context, params, changes))
    if as_json:
        _json(found.to_json())
        return
    means = {table.method: table.mean for table in found.tables}
    rows = []
    for term in found.inert:
        values = [means[method][term] for method in means]
        cells = ["no direction" if value is None else f"{value:.4g}" for value in values]
        rows.append([term, *cells, "yes" if found.inert[term]["inert"] else "no"])
    _table(["bias term", *means, "inert"], rows)
    typer.echo(f"\nTarget term: {found.selection.term}. {found.selection.reason}")


@app.command()
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
    from beft.adaptation import settings_of, train_terms
    from beft.adapter import Adapter
    from beft.names import known_name
    from beft.settings import TERMS

    terms = tuple(known_name(name, TERMS, "bias term") for name in term)
    settings, opened = _opened(context, prepared, params, changes)
    _refuse_existing(out)
    training = settings_of(settings.train, settings, opened.dataset)
    result = train_terms(opened.classifier, opened.sample(settings), settings, training, terms, progress=_progress)
    adapter = Adapter.trained(
        opened.classifier,
        terms=terms,
        deltas=result.deltas,
        head=result.head,
        max_length=settings.datasets[opened.dataset].max_length,
        head_train="paper" if settings.protocol == "paper" else settings.head.train,
        dataset=opened.dataset,
        provenance={"seed": settings.seed, "protocol": settings.protocol, "training": training.model_dump(mode="json")},
    )
    adapter.save(out)
    best = result.history[result.best_epoch - 1]
    typer.echo(
        f"{adapter.bias_parameters:,} bias and {adapter.head_parameters:,} head parameters, best epoch "
        f"{result.best_epoch}, dev {opened.metric} {best.get('dev_metric', float('nan')):.4f}"
    )
    typer.echo(f'now: beft predict {out} "some text"')


@app.command()
def predict(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="None: lines of stdin.")] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Each text is two, with a tab between them.")] = False,
    base: Annotated[str | None, typer.Option(help="Where the base is, if not where the adapter says.")] = None,
    as_json: Annotated[bool, typer.Option("--json/--tsv", help="An object a line, or tab-separated columns.")] = False,
) -> None:
    """Predict labels with a saved adapter.

    --tsv gives label, its probability, text; --json every label's probability.
    """
    from beft.errors import InputError
    from beft.prediction import Predictor

    if not texts and sys.stdin.isatty():
        raise InputError('there is no text: give some (beft predict ADAPTER "some text"), or pipe lines in')
    predictor = Predictor(adapter, base=base)
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


@app.command()
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
    _refuse_existing(out)
    with whole_folder(out) as folder:
        for name, adapter in loaded.items():
            beside = [other for other in loaded.values() if other is not adapter]
            adapter.with_deltas(merged.deltas, beside=beside, provenance=merged.recipe()).save(folder / name)
        described = {"recipe": merged.recipe(), "comparisons": [each.to_json() for each in comparisons]}
        write_json(folder / "merge.json", described)
    for note in merged.notes:
        typer.echo(note, err=True)
    _table(
        ["first", "second", "cosine", "sign conflict"],
        [[each.first, each.second, _number(each.cosine), _number(each.sign_conflict)] for each in comparisons],
    )
    typer.echo(f"\n{', '.join(str(out / name) for name in names)}: the merged biases, each with its own head")


@app.command()
def export(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    out: Annotated[Path, typer.Option(help="The new folder of the model.")],
    base: Annotated[str | None, typer.Option(help="Where the base is, if not where the adapter says.")] = None,
) -> None:
    """Write a plain model with the adapter folded in.

    transformers loads it without beft.
    """
    from beft.adapter import Adapter
    from beft.base import load_classifier, resolve_base
    from beft.device import Compute

    loaded = Adapter.load(adapter)
    _refuse_existing(out)
    reference = resolve_base(base or loaded.base_id)
    classifier = load_classifier(reference, loaded.labels, compute=Compute("cpu", "fp32", 1), pooling=loaded.pooling)
    report = loaded.fold(classifier, out)
    typer.echo(f"{out}: a model that plain transformers loads; largest rounding of a bias {report.largest:.2g}")


class _Opened:
    """A base with a head for the labels of prepared data."""

    def __init__(self, prepared: Path, settings: "Settings", summary: Mapping[str, Any]) -> None:
        from beft.base import load_classifier, resolve_base
        from beft.device import resolve_compute, set_threads

        compute = resolve_compute(settings.base)
        set_threads(compute)
        self.prepared = prepared
        self.dataset = str(summary["dataset"])
        self.metric = str(summary["metric"])
        self.classifier = load_classifier(
            resolve_base(settings.base.source),
            summary["labels"],
            compute=compute,
            pooling=settings.head.pooling,
            seed=settings.seed,
        )

    def sample(self, settings: "Settings") -> Any:
        """Train and dev rows, encoded."""
        from beft.adaptation import make_sample
        from beft.datasets import load_split

        return make_sample(
            self.classifier,
            load_split(self.prepared, "train"),
            load_split(self.prepared, "dev"),
            max_length=settings.datasets[self.dataset].max_length,
            metric=self.metric,
            protocol=settings.protocol,
        )


def _opened(
    context: typer.Context, prepared: Path, params: Path, changes: Sequence[str] | None
) -> "tuple[Settings, _Opened]":
    """The settings, with a section for the dataset of the prepared data; and the base with its head."""
    from beft.datasets import load_summary
    from beft.settings import DatasetSettings

    settings = _settings(context, params, changes)
    summary = load_summary(prepared)
    dataset = str(summary["dataset"])
    chosen = {dataset: settings.datasets.get(dataset, DatasetSettings())}
    return settings.model_copy(update={"datasets": chosen}), _Opened(prepared, settings, summary)


def _settings(context: typer.Context, params: Path, changes: Sequence[str] | None) -> "Settings":
    """The settings of a command. Who mounts these commands can bring a reader that knows more sections."""
    from beft.settings import Settings

    read: ReadSettings = context.obj or Settings.read
    values = parse_changes(changes or ())
    if params == PARAMS and not params.exists():
        return Settings.from_mapping(nested(values))
    return read(params, values)


def parse_changes(changes: Iterable[str]) -> dict[str, Any]:
    """``NAME=VALUE`` texts as dotted names to values; a value is read as YAML.

    Raises:
        InputError: A text without ``=``, or a value that is no YAML.
    """
    import yaml

    from beft.errors import InputError

    values = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {change!r}: write NAME=VALUE, for example --set train.epochs=3")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {change!r}: {value!r} is no YAML value") from None
    return values


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as mappings in mappings."""
    result: dict[str, Any] = {}
    for name, value in dotted.items():
        *parents, last = name.split(".")
        below = result
        for parent in parents:
            below = below.setdefault(parent, {})
        below[last] = value
    return result


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


def _share(part: int | None, whole: int) -> str:
    return {0: "none", whole: "all"}.get(part or 0, f"{part:,} of {whole:,}")


def _refuse_existing(out: Path) -> None:
    from beft.errors import InputError

    if out.exists():
        raise InputError(f"{out} is there already; name a new folder, or remove it first")


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


def _progress(line: str) -> None:
    typer.echo(line, err=True)


def _json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns of text, numbers to the right, never cut to the width of a terminal."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(headers), *cells]) for at in range(len(headers))]
    right = [bool(rows) and all(_is_number(row[at]) for row in cells) for at in range(len(headers))]
    for row in [list(headers), *cells]:
        texts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        typer.echo("  ".join(texts).rstrip())


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
