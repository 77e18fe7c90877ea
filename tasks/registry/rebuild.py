"""rebuild: a registered adapter once more, from its registry entry alone, and whether it is the same to the byte.

Its source, settings and data are brought together in a temporary folder, where that source runs the steps that lead to
the adapter as DVC does. Neither the workspace nor the repository is touched.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from beft.adapters.adapter import Adapter
from beft.adapters.checks import check_contents
from beft.adapters.record import RECORD_FILE
from beft.datasets.registry import OWN, known_datasets
from beft.errors import BeftError, InputError
from beft.files import atomic_directory, sha256_file, write_json, write_text
from beft.models.reference import resolve_base
from beft.yaml_text import format_yaml
from tasks.engine.commands import run_command
from tasks.engine.declaration import JSON
from tasks.engine.fingerprint import BASE_LIBRARIES, LIBRARIES, contents_sha256
from tasks.engine.provenance import environment
from tasks.environment import environment_of_strangers
from tasks.pipeline import dvc_folder
from tasks.project_files import PROJECT
from tasks.registry.entry import RegistryEntry, Version, read_entry
from tasks.registry.rebuildable import has_commit
from tasks.settings import PipelineSettings
from tasks.source_archive import changed_files, source_of_commit, source_sha256_of, unpack_source
from tasks.tracking.connection import Connection
from tasks.versioning.dvc import fetch_by_md5

STEPS = ("probe", "score", "train")
"""What leads from prepared data to the adapter."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rebuilt:
    """What came of a rebuild.

    Attributes:
        source: Where the source came from.
        data: Where the data came from.
        same: Whether the adapter is the registered one to the byte.
        registered_sha256: Of the tensors of the registered adapter; ``rebuilt_sha256`` of the new one.
        differences: In what the adapters differ; empty where they are the same.
        compute_environment: What was other than when the registered one was trained, as (there, here).
        seconds: What each step took.
        adapter: The folder of the new adapter, below the workspace.
    """

    model: str
    version: str
    dataset: str
    source: str
    data: str
    same: bool
    registered_sha256: str
    rebuilt_sha256: str
    differences: list[str]
    compute_environment: dict[str, tuple[str, str]]
    seconds: dict[str, float]
    adapter: str


def rebuild(
    connection: Connection,
    version: Version,
    settings: PipelineSettings,
    root: Path,
    *,
    agree: Callable[[str], bool],
    base: str | None = None,
) -> Rebuilt:
    """Rebuild a version.

    Args:
        settings: Where DVC's remote is; those of the training come from the registry.
        root: The workspace, whose git repository and DVC are asked.
        agree: Asked before source that a version brings along is run; it gets what is known of that source.
        base: Where the base is, if not where the registered settings say.

    Raises:
        InputError: Its files are not there, something that it was made of is not available here, or its source may not
            be run.
        BeftError: A step failed.
    """
    with tempfile.TemporaryDirectory(prefix="beft-rebuild-") as kept:
        entry = read_entry(connection, version, Path(kept) / "registered")
        place = Path(kept) / "workspace"
        place.mkdir()
        source = _bring_source(entry, place, root, agree)
        values = _settings(entry, root, base)
        write_text(place / "params.yaml", format_yaml(values))
        data = bring_data(entry, place, settings, root)
        seconds = {step: _run(step, entry, place) for step in STEPS}
        trained = place / dvc_folder(f"train/{entry.dataset}") / "adapter"
        out = Path("runs", "rebuilds", f"{version.model}-{version.version}")
        with atomic_directory(root / out) as folder:
            shutil.copytree(trained, folder / "adapter")
            adapter = Adapter.load(folder / "adapter")
            differences = differences_of(entry, adapter, folder / "adapter")
            found = Rebuilt(
                model=version.model,
                version=version.version,
                dataset=entry.dataset,
                source=source,
                data=data,
                same=not differences,
                registered_sha256=entry.adapter.sha256,
                rebuilt_sha256=adapter.sha256,
                differences=differences,
                compute_environment=other_circumstances(entry, adapter, place),
                seconds=seconds,
                adapter=(out / "adapter").as_posix(),
            )
            write_json(folder / "rebuild.json", asdict(found))
        return found


def _bring_source(entry: RegistryEntry, place: Path, root: Path, agree: Callable[[str], bool]) -> str:
    if entry.source is not None:
        unpack_source(entry.source, place)
        if not agree(f"{entry.version} brings its source along, {_compared(changed_files(place, PROJECT))}."):
            raise InputError(f"{entry.version} was not rebuilt: the source that it brings along was not to be run")
        return "kept with the version"
    if not has_commit(entry.facts):
        raise InputError(f"{entry.version} cannot be rebuilt: its source is that of no commit, and was not kept")
    commit = str(entry.facts["commit"])
    source_of_commit(PROJECT if (PROJECT / ".git").exists() else root, commit, place)
    return f"commit {commit[:12]}"


def _compared(changed: Sequence[str]) -> str:
    """How a version's source differs from the one that runs here."""
    if not changed:
        return "the same as the one installed here"
    named = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
    return f"which differs from the one installed here in {len(changed)} files ({named})"


def _settings(entry: RegistryEntry, root: Path, base: str | None) -> dict[str, JSON]:
    """The registered settings, with the base where it is here and the device and precision that were resolved there."""
    values = dict(entry.settings)
    stated = dict(values["base"])
    where = base or str(stated["source"])
    if not where.startswith("pypi:") and (root / where).expanduser().is_dir():
        where = str((root / Path(where).expanduser()).resolve())
    try:
        found = resolve_base(where)
    except InputError as error:
        raise InputError(f"the base of {entry.version} is not there: {error}. Name its folder with --base") from None
    if found.sha256 != entry.adapter.base_sha256:
        raise InputError(
            f"{where} is not the base of {entry.version}: its sha256 is {found.sha256[:12]}…, and "
            f"{entry.adapter.base_sha256[:12]}… was trained on. Name the right one with --base"
        )
    check_contents(entry.adapter, found)
    compute = entry.facts.get("compute") or {}
    there = {name: compute.get(name, stated.get(name)) for name in ("device", "precision", "threads")}
    if there["device"] == "cuda" and not torch.cuda.is_available():
        logger.warning("%s was trained on a GPU, and there is none here", entry.version)
        there |= {"device": "cpu", "precision": "auto"}
    values["base"] = {**stated, "source": where, **there}
    return values


def bring_data(entry: RegistryEntry, place: Path, settings: PipelineSettings, root: Path) -> str:
    """Get the prepared data of a version, by whichever way leads to the same bytes.

    Args:
        place: A folder in which the version's source and settings are; the data goes below it.

    Returns:
        Where it came from.

    Raises:
        InputError: No way leads to the same bytes; each is named with what went wrong.
    """
    out = place / dvc_folder(f"prepare/{entry.dataset}")
    out.parent.mkdir(parents=True, exist_ok=True)
    wanted = entry.data["prepared_sha256"]
    tried = []
    md5 = entry.data.get("prepared_md5")
    if md5 and (root / ".dvc").is_dir():
        for cached, where in ((True, "DVC's cache or remote"), (False, "DVC's remote")):
            try:
                fetch_by_md5(root, md5, out, settings.versioning.remote, cached=cached)
            except BeftError as error:
                tried.append(f"{where}: {error}")
                continue
            if contents_sha256(out) == wanted:
                return f"md5 {md5.removesuffix('.dir')} from {where}"
            tried.append(f"{where} holds damaged files under md5 {md5.removesuffix('.dir')}")
            shutil.rmtree(out)
    kept = (root / "runs" / "steps").glob(f"prepare-{entry.dataset}-*")
    for folder in (root / dvc_folder(f"prepare/{entry.dataset}"), *sorted(kept)):
        if folder.is_dir() and contents_sha256(folder) == wanted:
            shutil.copytree(folder, out, ignore=shutil.ignore_patterns("step.json"))
            return f"sha256 {wanted[:12]}… from {folder.relative_to(root)}"
    own = known_datasets(root).get(entry.dataset)
    if own is not None and own.parent == root / OWN:
        write_text(place / OWN / f"{entry.dataset}.yaml", own.read_text(encoding="utf-8"))
    try:
        for step in ("fetch", "prepare"):
            _run(step, entry, place)
    except BeftError as error:
        tried.append(f"made again: {error}")
    else:
        if contents_sha256(out) == wanted:
            return f"sha256 {wanted[:12]}…, made again from its source"
        tried.append("made again from its source, the rows are others")
    listed = "".join(f"\n  - {one}" for one in tried)
    raise InputError(
        f"the data of {entry.version} ({entry.dataset}, sha256 {wanted[:12]}…) could not be found here:{listed}"
    )


def _run(step: str, entry: RegistryEntry, place: Path) -> float:
    """Run one step of the registered source, as DVC does; the seconds that it took."""
    logger.info("%s: running", step)
    began = time.monotonic()
    # The base was found just now, so that no step needs the hub, or the token for it.
    offline = {"HF_HUB_OFFLINE": "1"} if step in STEPS else {}
    command = ["-m", "tasks", step, "--dataset", entry.dataset]
    ended = run_command(command, place, source=place, inherited=environment_of_strangers(), **offline)
    if ended.status != 0:
        raise ended.error or BeftError(f"{step} failed: {'; '.join(ended.lines[-3:])}")
    return round(time.monotonic() - began, 3)


def differences_of(entry: RegistryEntry, adapter: Adapter, folder: Path) -> list[str]:
    """In what a rebuilt adapter differs from the registered one, a sentence each; empty where no byte differs.

    Args:
        folder: That of the rebuilt adapter.
    """
    if adapter.sha256 == entry.adapter.sha256:
        if sha256_file(folder / RECORD_FILE) == entry.record_sha256:
            return []
        return [f"the tensors are the same to the byte, but {RECORD_FILE} says something else of them"]
    there, here = (_tensors(one) for one in (entry.adapter, adapter))
    found = []
    for what in ("terms", "labels", "max_length", "pooling", "base_id", "quantization", "pairs"):
        old, new = getattr(entry.adapter, what), getattr(adapter, what)
        if old != new:
            found.append(f"{what.replace('_', ' ')}: {_as_text(old)} there, {_as_text(new)} here")
    for what in ("best_epoch", "steps", "rows"):
        old, new = entry.adapter.provenance.get(what), adapter.provenance.get(what)
        if old != new:
            found.append(f"{what.replace('_', ' ')}: {_as_text(old)} there, {_as_text(new)} here")
    if there.keys() == here.keys() and all(there[name].shape == here[name].shape for name in there):
        most = max(float((there[name].double() - here[name].double()).abs().max()) for name in there)
        size = max(float(there[name].double().abs().max()) for name in there)
        found.append(f"the numbers: by {most:.2g} at most, where the largest is {size:.2g}")
    return found


def _tensors(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {**{site.name: delta for site, delta in adapter.deltas.items()}, **adapter.head}


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def other_circumstances(entry: RegistryEntry, adapter: Adapter, place: Path) -> dict[str, tuple[str, str]]:
    """What was other than when the registered adapter was trained, as (there, here); what was not recorded is said."""
    there: dict[str, JSON] = {**(entry.facts.get("environment") or {}), **(entry.facts.get("compute") or {})}
    of_base = [name for name in BASE_LIBRARIES if name in there]
    here: Mapping[str, JSON] = {**environment([*LIBRARIES, *of_base]), **adapter.provenance.get("compute", {})}
    there["source"], here = entry.facts.get("source_sha256"), {**here, "source": source_sha256_of(place)}
    names = sorted({*there, *here})
    return {
        name: (str(there.get(name, "not recorded")), str(here.get(name, "none")))
        for name in names
        if there.get(name) != here.get(name)
    }
