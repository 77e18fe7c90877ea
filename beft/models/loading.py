"""From a base's files to a model: each weight straight to its device, in its precision, without a copy on the way."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beft.errors import BeftError, InputError
from beft.models.attention import use_batched_products
from beft.models.base_files import MASKS, read_mapping
from beft.models.classifier import HEADS
from beft.models.device import Compute
from beft.models.gguf import forget_gguf, gguf_file, gguf_options
from beft.models.memory import available_bytes, is_out_of_memory
from beft.models.quantized import freeze_quantized, quantization_options
from beft.process_state import seeded

log = logging.getLogger("beft.models.base")

_LAYER = re.compile(r"\.\d+\.")
_KEPT_ELSEWHERE = ("cpu", "disk")

FROM_FILES: dict[str, Any] = {
    "local_files_only": True,
    "use_safetensors": True,
    "trust_remote_code": False,
    "output_loading_info": True,
}
"""How every model is read by ``from_pretrained``: no network, no pickle, no code of a base, and what its files lack."""


def load_model(
    folder: Path, outputs: int, compute: Compute, seed: int, *, weights: bool = True, of_words: bool = False
) -> tuple[Any, tuple[str, ...]]:
    """Load a base with a classification head, what its files lack drawn from ``seed``; or a language model.

    The weights are read from the file's mapping one by one. With ``compute.device_map: auto`` they go to the GPUs that
    there are, and those for which there is no place stay in memory, or in the file; never those of the head.

    Args:
        outputs: Of the head; 0 for a language model, which has none.
        weights: Whether the weights are read; without them the parameters are on the device ``meta``, and all else is
            checked as with them.
        of_words: Whether the head is one on every token, rather than on the sequence.

    Returns:
        The model, and the names of the parameters that were drawn: of the head (one of another number of outputs is
        drawn anew) and of the pooler.

    Raises:
        InputError: The files do not hold the model that their configuration describes, a value is no finite number, the
            base is quantised in a way that is not known, or something that it needs is not installed.
    """
    what = "a classifier" if outputs else "a language model"
    try:
        model, found = _load(folder, outputs, compute, seed, weights=weights, of_words=of_words)
    except BeftError:
        raise
    except ImportError as error:
        raise InputError(f"the base in {folder} needs a package that is not installed: {_first_line(error)}") from None
    except Exception as error:  # whatever a file of the base makes transformers, torch or safetensors raise
        if is_out_of_memory(error):
            raise
        file = gguf_file(folder)
        advice = (
            f"look at {folder / 'config.json'}" if file is None else f"{file} is damaged or cut short: copy it again"
        )
        raise InputError(f"the base cannot be loaded as {what} ({_first_line(error)}); {advice}") from error
    newly_initialized = tuple(sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}))
    _check_newly_initialized(model, newly_initialized, found["mismatched_keys"], folder, has_head=outputs > 0)
    _check_unused(model, found["unexpected_keys"], folder)
    _check_finite(model, folder)
    return model, newly_initialized


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no warning of transformers: what of a base matters is said by what loads it."""
    from transformers.utils import logging as of_transformers

    verbosity, bars = of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        of_transformers.set_verbosity(verbosity)
        if bars:
            of_transformers.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _check_kind(folder: Path, *, has_head: bool, of_words: bool) -> None:
    """Check that transformers has a class for what a configuration describes."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    )

    path = folder / "config.json"
    config = read_mapping(path)
    kind, own_code = config.get("model_type"), config.get("auto_map")
    classes, what = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "predict the next token"
    if of_words:
        classes, what = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, "classify tokens"
    elif has_head:
        classes, what = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, "classify sequences"
    if kind in classes:
        if own_code:
            log.warning(
                "%s names code of its own (auto_map), which is not run: transformers' %s computes the base, which need "
                "not be the same",
                path,
                classes[kind],
            )
        return
    if own_code:
        raise InputError(
            f"{path} names code of its own (auto_map) for the model_type {kind!r}, and such code is never run; use a "
            "base of a type that transformers itself computes"
        )
    if kind is None:
        raise InputError(f"{path} names no model_type: it was written by another tool; copy the base's own config.json")
    if kind not in CONFIG_MAPPING_NAMES:
        raise InputError(
            f"{path}: the model_type {kind!r} is not known to transformers {transformers.__version__}; use another "
            "base, or a transformers that knows it"
        )
    raise InputError(f"{path}: transformers has no model of the type {kind!r} that can {what}; use another base")


def _load(
    folder: Path, outputs: int, compute: Compute, seed: int, *, weights: bool, of_words: bool
) -> tuple[Any, dict[str, Any]]:
    if gguf_file(folder) is None:
        _check_kind(folder, has_head=outputs > 0, of_words=of_words)
    load = partial(_from_pretrained, folder, outputs, compute, seed, of_words)
    options = quantization_options(folder, outputs, compute.quantization, compute.dtype)
    if not weights and "config" not in options:  # weights that are quantised in the file are read with their numbers
        kept = {name: value for name, value in options.items() if name == "num_labels"}
        outline: tuple[Any, dict[str, Any]] = load(**kept, device_map={"": "meta"})
        return outline
    places: dict[str, Any] = {"device_map": {"": compute.device}}
    if compute.device == "cpu" and not set(options) - {"num_labels"}:
        places = {}  # they are read straight into memory without a map too, which would need accelerate
    if compute.device_map == "auto":
        places = {"device_map": "auto"}
        if compute.device == "cpu":
            places["max_memory"] = {"cpu": available_bytes(torch.device("cpu"))}
    model, found = load(**options, **places)
    spread = getattr(model, "hf_device_map", None)
    if spread is not None and (kept := with_head_on_device(model, spread)) != spread:
        del model
        model, found = load(**options, device_map=kept)
    model.config.return_dict = True  # outputs are read by their names, whatever the base's configuration asks for
    freeze_quantized(model)
    forget_gguf(model)
    use_batched_products(model)
    return model, found


def _check_newly_initialized(
    model: Any,
    newly_initialized: Sequence[str],
    mismatched: Sequence[tuple[str, Any, Any]],
    folder: Path,
    *,
    has_head: bool,
) -> None:
    """Only a head may be drawn at random: below it, a missing weight is a base that would never work."""
    within = f"{model.base_model_prefix}." if has_head else ""
    inside = [name for name in newly_initialized if name.startswith(within) and ".pooler." not in name]
    shapes = {name: (list(there), list(requested)) for name, there, requested in mismatched}
    if other := next((name for name in inside if name in shapes), None):
        there, requested = shapes[other]
        raise InputError(
            f"the base in {folder} holds {other} of shape {there}, but its config.json asks for {requested} "
            f"({type(model).__name__}): the two are of different models; copy both from the same one"
        )
    if inside:
        more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
        raise InputError(
            f"the base in {folder} does not hold {', '.join(inside[:3])}{more}: its files are incomplete, or "
            f"of another model than its config.json says ({type(model).__name__})"
        )
    for name, (there, requested) in shapes.items():
        if there[0] != requested[0]:
            log.info(
                "the base's own head has %d outputs, not %d: a new one is drawn (%s)", there[0], requested[0], name
            )
            return


def _check_unused(model: Any, unused: Sequence[str], folder: Path) -> None:
    """Layers in the files that the configuration leaves out are a base cut short; other weights of layers are told."""
    there = {_any_layer(name) for name, _ in model.named_parameters()}
    prefix = f"{model.base_model_prefix}."
    of_layers = [name for name in unused if _LAYER.search(name) and name.endswith((".weight", ".bias"))]
    layers = sorted(name for name in of_layers if {_any_layer(name), _any_layer(prefix + name)} & there)
    if layers:
        raise InputError(
            f"the base in {folder} holds {layers[0]}, which its config.json leaves out ({type(model).__name__}): the "
            "two are of different models, or the number of layers is wrong there; copy both from the same one"
        )
    if within := [name for name in of_layers if not name.endswith(MASKS)]:
        log.warning(
            "%d weights of the base's layers are not used by %s (%s, …): another model computed with them",
            len(within),
            type(model).__name__,
            within[0],
        )


def _any_layer(name: str) -> str:
    return _LAYER.sub(".*.", name)


@torch.no_grad()
def _check_finite(model: nn.Module, folder: Path) -> None:
    for name, value in model.named_parameters():
        if value.is_meta or not value.is_floating_point() or not value.numel():
            continue
        least, most = torch.aminmax(value)
        if not (torch.isfinite(least) and torch.isfinite(most)):
            raise InputError(
                f"the base in {folder} holds values in {name} that are no finite numbers: its weights are damaged, or "
                "of a training that diverged; copy or download them again"
            )


def _from_pretrained(folder: Path, outputs: int, compute: Compute, seed: int, of_words: bool, **options: Any) -> Any:
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    head = AutoModelForTokenClassification if of_words else AutoModelForSequenceClassification
    kind = head if outputs else AutoModelForCausalLM
    if not outputs:
        options.pop("num_labels", None)

    with seeded(seed, compute.device):
        return kind.from_pretrained(
            folder,
            dtype=compute.dtype,
            **FROM_FILES,
            ignore_mismatched_sizes=True,
            **gguf_options(folder),
            **options,
        )


def with_head_on_device(model: nn.Module, places: Mapping[str, Any]) -> dict[str, Any]:
    """A device map whose head and pooler compute where the last part on a device does.

    What is drawn is in no file from which it could be loaded at each use, and what is trained is read and written.

    Args:
        places: Device of each module path, as accelerate maps them.
    """
    devices = [device for device in places.values() if device not in _KEPT_ELSEWHERE]
    device = devices[-1] if devices else "cpu"
    kept = dict(places)
    for path, module in model.named_modules():
        of_head = path.split(".", 1)[0] in HEADS or path.endswith("pooler")
        if of_head and any(True for _ in module.parameters()):
            _place(model, kept, path, device)
    return kept


def _place(model: nn.Module, places: dict[str, Any], path: str, device: Any) -> None:
    """Give a path a place of its own, where it is kept elsewhere: what is above it is divided into its parts."""
    above = next((part for part in _paths_above(path) if part in places), None)
    if above is None or places[above] not in _KEPT_ELSEWHERE or (places[above] == "cpu" and device == "cpu"):
        return
    while above != path:
        place = places.pop(above)
        below = model.get_submodule(above)
        places |= {f"{above}.{name}" if above else name: place for name, _ in below.named_children()}
        above = next(part for part in _paths_above(path) if part in places)
    places[path] = device


def _paths_above(path: str) -> Sequence[str]:
    """A path and those above it, the nearest first."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), -1, -1)]
