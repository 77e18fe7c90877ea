"""Arguments and options that several commands take, and the settings that they make."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from beft.datasets.description import Description
    from beft.settings import Settings


@dataclass(frozen=True)
class Surroundings:
    """What those who mount these commands bring to them.

    Attributes:
        read_settings: Reads the settings of a command, from a file (None: the defaults), with changes by dotted name;
            it may know more sections.
        open_adapter: The folder of an adapter by what the user calls it, which need not be a path.
        check_data: Does what a run does to check its data: of some settings, for a dataset, the step validate_raw or
            validate, on the folder that it reads, with an empty folder for the results. What a run refuses is an error.
    """

    read_settings: Callable[[Path | None, Mapping[str, Any]], "Settings"]
    open_adapter: Callable[[str], AbstractContextManager[Path]]
    check_data: Callable[["Settings", "Description", str, Path, Path], None]


PARAMS = Path("params.yaml")

Params = Annotated[Path, typer.Option(help="The settings; missing, the defaults.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one setting.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Prepared = Annotated[Path, typer.Argument(help="A folder of prepared data, as the step 'prepare' writes it.")]
BaseFolder = Annotated[str | None, typer.Option("--base", help="Where the base is, if not where the adapter says.")]


def read_settings(context: typer.Context, params: Path, changes: Sequence[str] | None) -> "Settings":
    """The settings of a command."""
    from beft.settings import Settings

    read = context.obj.read_settings if context.obj else Settings.read
    return read(None if without_file(params) else params, parse_changes(changes or ()))


def without_file(params: Path) -> bool:
    """Whether the settings of a command are the defaults, since nobody named a file and the usual one is missing."""
    return params == PARAMS and not params.exists() and not params.with_suffix(".yml").exists()


def settings_options(params: Path, changes: Sequence[str] | None) -> list[str | Path]:
    """The options that a command's settings came from, for the next command."""
    named: list[str | Path] = ["--params", params] if params != PARAMS else []
    return [*named, *(part for change in changes or () for part in ("--set", change))]


def open_adapter(context: typer.Context, adapter: str) -> AbstractContextManager[Path]:
    """The folder of an adapter, for the length of a block."""
    return context.obj.open_adapter(adapter) if context.obj else nullcontext(Path(adapter))


def parse_changes(changes: Iterable[str], *, option: str = "--set", example: str = "train.epochs=3") -> dict[str, Any]:
    """``NAME=VALUE`` texts as dotted names to values; a value is read as YAML.

    Args:
        option: The option that they were given with, and ``example`` a value of it: for the messages.

    Raises:
        InputError: A text without ``=``, or a value that is no YAML.
    """
    from beft.errors import InputError
    from beft.yaml_text import parse_yaml

    values = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name.strip():
            raise InputError(f"{option} {change!r}: write NAME=VALUE, for example {option} {example}")
        try:
            values[name.strip()] = parse_yaml(value)
        except ValueError:
            raise InputError(f"{option} {change!r}: {value!r} is no YAML value") from None
    return values


def refuse_other_datasets(changes: Iterable[str] | None, name: str) -> None:
    """Refuse to change the settings of another dataset than the one at hand: the change would do nothing.

    Raises:
        InputError: A change is one of ``datasets.OTHER``.
    """
    from beft.errors import InputError

    for change in parse_changes(changes or ()):
        section, _, rest = change.partition(".")
        if section == "datasets" and rest and rest.partition(".")[0] != name:
            raise InputError(f"--set {change}: the dataset here is {name!r}; write datasets.{name}.SETTING=VALUE")


def refuse_existing(out: Path) -> None:
    """Refuse to write where something is, or where nothing can be: before the work, not after it.

    Raises:
        InputError: The path exists, or no folder can be made there.
    """
    from beft.errors import InputError

    if out.resolve().exists():  # NEW/.. is there too, though NEW is not
        raise InputError(f"{out} is there already; name a new folder, or remove it first")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir():
        raise InputError(f"{out} cannot be made: {above} is a file; name a path below a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{out} cannot be made: {above} cannot be written; name a path below a folder of yours")


def listed(texts: Sequence[str] | None) -> list[str]:
    """The names of an option that may be repeated, or hold several with commas."""
    return [part.strip() for text in texts or () for part in text.split(",") if part.strip()]
