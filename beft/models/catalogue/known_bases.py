"""The list of known bases, and the bases in folders of the workspace."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field
from safetensors import safe_open

from beft.files import sha256_unchanged
from beft.training_settings import Section
from beft.yaml_text import parse_yaml

Use = Literal["sentences", "pairs", "long texts", "other languages"]
USES: tuple[Use, ...] = get_args(Use)
_LIST = Path(__file__).with_name("bases.yaml")
_DEPTH = 3
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTH = ("hidden_size", "n_embd", "dim", "d_model")
_TOKENS = ("max_position_embeddings", "n_positions")
_NO_BASES = ("runs", "artifacts", "mlflow", "node_modules", "site-packages")
"""Folders of a workspace that hold results, never a base."""


class KnownBase(Section):
    """A base by its name.

    Attributes:
        source: As ``base.source`` takes it.
        megabytes: Of its files, which are what is downloaded.
        width: Components of a hidden state.
        max_tokens: The longest text that it takes.
        needs: The extra of beft that it needs.
        suits: Each use that it suits, and its place among the bases for it; 1 is the first to take.
        weights_sha256: Of its one file of weights, by which it is known again in a folder.
    """

    source: str
    title: str
    licence: str
    megabytes: int = Field(ge=0)
    parameters: int | None = Field(None, ge=1)
    layers: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    languages: str = "not stated"
    needs: str | None = None
    suits: dict[Use, int] = Field({})
    weights_sha256: str | None = None


@cache
def known_bases() -> tuple[KnownBase, ...]:
    """The bases of the list that comes with beft, in its order."""
    return tuple(KnownBase.model_validate(entry) for entry in parse_yaml(_LIST.read_text(encoding="utf-8")))


def bases_in_folders(root: Path) -> list[KnownBase]:
    """The bases in folders below a working folder, by their paths; nothing of them is loaded.

    A base is a folder with a configuration and safetensors weights that is no adapter, or with one GGUF file.
    """
    return [found for folder in _folders(root, _DEPTH) if (found := _of_folder(folder, root)) is not None]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth == 0:
        return
    try:
        below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=True))
    except OSError:
        return
    for path in map(Path, below):
        if not path.name.startswith((".", "__")) and path.name not in _NO_BASES:
            yield from _folders(path, depth - 1)


def _of_folder(folder: Path, root: Path) -> KnownBase | None:
    # A link whose file is gone, as a cache leaves it, is no weights.
    weights, quantised = (sorted(filter(Path.is_file, folder.glob(f"*.{kind}"))) for kind in ("safetensors", "gguf"))
    named = {"source": f"./{folder.relative_to(root).as_posix()}", "licence": "not stated"}
    if len(quantised) == 1 and not weights:
        return KnownBase(**named, title="GGUF", megabytes=_megabytes(quantised), needs="beft[decoders]")
    if not weights or (folder / "beft.json").exists() or (folder / "adapter_config.json").exists():
        return None
    config = _read(folder / "config.json")
    if "model_type" not in config:
        return None
    if (known := _known(weights)) is not None:
        return known.model_copy(update={"source": named["source"]})
    return KnownBase(
        **named,
        title=str(config["model_type"]),
        megabytes=_megabytes(weights),
        parameters=_parameters(weights),
        layers=_number(config, _LAYERS),
        width=_number(config, _WIDTH),
        max_tokens=_number(config, _TOKENS),
    )


def _known(weights: list[Path]) -> KnownBase | None:
    """The base of the list that has these weights; they are hashed only where their size is that of one."""
    size = _megabytes(weights)
    listed = [base for base in known_bases() if base.weights_sha256 is not None and base.megabytes == size]
    if len(weights) > 1 or not listed:
        return None
    found = sha256_unchanged(weights[0])
    return next((base for base in listed if base.weights_sha256 == found), None)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = [config[name] for name in names if type(config.get(name)) is int and config[name] > 0]
    return found[0] if found else None


def _megabytes(files: list[Path]) -> int:
    return round(sum(file.stat().st_size for file in files) / 1e6)


def _parameters(files: list[Path]) -> int | None:
    """How many numbers the files hold, by their headers; None where one is damaged."""
    total = 0
    try:
        for file in files:
            with safe_open(file, framework="numpy") as opened:
                total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    except Exception:  # whatever a damaged file raises: the base is listed, and named when it is loaded
        return None
    return total or None
