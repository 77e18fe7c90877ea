"""The fingerprint of a step: one hash over everything that its result depends on.

That is: the contents of its inputs, the settings that it may touch, the device, precision and threads it computes with,
the base and the libraries, and the source of the step and of all that it imports. Never a path or a time.
"""

import importlib.metadata
import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from beft.files import sha256_file, sha256_json, sha256_tree, sha256_unchanged
from beft.registry import METHOD_GROUPS, plug_ins
from beft.settings import BaseSettings
from tasks.engine.declaration import Step
from tasks.engine.import_closure import import_closure
from tasks.engine.settings_view import settings_subset
from tasks.project_files import PROJECT, project_file
from tasks.settings import PipelineSettings

COST = "cost.json"
"""Where a step writes seconds and memory: they vary between runs, so nothing that reads them is run again for it."""

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "accelerate",
    "scikit-learn",
    "scipy",
    "numpy",
)
"""The libraries whose version can change what a step computes."""

BASE_LIBRARIES = ("bitsandbytes", "gguf")
"""Those that only some bases are computed with: quantised ones, and those in a GGUF file."""


@dataclass(frozen=True)
class ComputeEnvironment:
    """What a computing step computes with.

    Attributes:
        compute: Resolved device, precision and threads.
        base_sha256: The first hash of the base's files.
        base_contents: The second one.
        versions: Of the libraries.
    """

    compute: dict[str, Any]
    base_sha256: str
    base_contents: str
    versions: dict[str, str]


def compute_environment(base: BaseSettings) -> ComputeEnvironment:
    """Resolve device, precision and base, as they are now: a long-lived worker sees a local base that was changed.

    Raises:
        InputError: The base cannot be reached, or the device is not there.
    """
    from beft.models.device import resolve_compute
    from beft.models.reference import resolve_base

    found = resolve_base(base.source)
    compute = dict(resolve_compute(base).to_json())
    versions = installed(libraries_of(found.folder, base.quantization))
    return ComputeEnvironment(compute, found.sha256, found.contents, versions)


def libraries_of(folder: Path, quantization: str = "none") -> tuple[str, ...]:
    """The libraries that a base is computed with.

    Args:
        folder: Of the base's files.
        quantization: ``base.quantization``.

    Raises:
        InputError: Its files are quantised by a library that is not known, or do not say how.
    """
    from beft.models.gguf import gguf_file
    from beft.models.quantized import stored_quantization

    if gguf_file(folder) is not None:
        return (*LIBRARIES, "gguf")
    quantized = quantization != "none" or stored_quantization(folder) is not None
    return (*LIBRARIES, "bitsandbytes") if quantized else LIBRARIES


def installed(names: Iterable[str]) -> dict[str, str]:
    """The version of each distribution; one that is not installed has none, and is named when the base is loaded."""
    versions = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def located(base: BaseSettings, root: Path) -> BaseSettings:
    """The settings of a base, with its folder in full where it is relative to the workspace's."""
    folder = root / Path(base.source).expanduser()
    is_relative = not Path(base.source).expanduser().is_absolute() and folder.is_dir()
    return base.model_copy(update={"source": str(folder)}) if is_relative else base


def base_record(base: BaseSettings, root: Path) -> dict[str, str]:
    """The hashes of a base as its files are now, those of ``compute_environment``.

    Raises:
        InputError: The base cannot be reached.
    """
    from beft.models.reference import resolve_base

    found = resolve_base(located(base, root).source)
    return {"sha256": found.sha256, "contents": found.contents}


def contents(folder: Path) -> dict[str, str]:
    """Relative path to sha256 of every file below a folder, without the record that the driver adds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / "step.json")
    return {path.relative_to(folder).as_posix(): sha256_unchanged(path) for path in files}


def contents_sha256(folder: Path) -> str:
    """One sha256 over the names and contents of every file below a folder, but for what the step took to make it."""
    return sha256_json({path: sha256 for path, sha256 in contents(folder).items() if path != COST})


@lru_cache(maxsize=64)
def source_sha256(step: Step) -> str:
    """The sha256 of the step's module, of all that it imports of the project, of the packages that add
    methods to those that it imports, and of its further source.

    As it was when the process first asked: that is the source which it has loaded and goes on to use.
    """
    module = Path(inspect.getfile(step.function)).resolve()
    files = {name: sha256_file(PROJECT / name) for name in import_closure(module, PROJECT)}
    for folder in METHOD_GROUPS:
        if any(name.startswith(f"beft/{folder}/") for name in files):
            files |= plug_ins(folder)
    for name in step.source:
        path = project_file(name)
        files[name] = sha256_tree(path) if path.is_dir() else sha256_file(path)
    return sha256_json(files)


def fingerprint_of(
    step: Step, settings: PipelineSettings, inputs: Mapping[str, Path], dataset: str | None, root: Path
) -> str:
    """The fingerprint of a step on these settings and inputs, as everything is now: 64 hexadecimal digits.

    Raises:
        InputError: The base or a watched file cannot be found, or the settings have no such dataset.
    """
    return sha256_json(
        {
            "step": step.name,
            "datasets": list(settings.datasets) if dataset is None else [dataset],  # their order is that of the tables
            "settings": settings_subset(settings, step.settings, dataset),
            "inputs": {name: contents_sha256(folder) for name, folder in inputs.items()},
            "watched": dict(step.extra_inputs(settings, dataset, root)) if step.extra_inputs else {},
            "compute_environment": vars(compute_environment(located(settings.base, root))) if step.computes else {},
            "source": source_sha256(step),
        }
    )
