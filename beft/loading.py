"""From a base's files to a model: each weight straight to its device, in its precision, without a copy on the way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beft.classifier import HEADS
from beft.device import Compute
from beft.estimate import available_bytes
from beft.gguf import forget_gguf, gguf_options
from beft.quantized import freeze_quantized, quantization_options

_KEPT_ELSEWHERE = ("cpu", "disk")


def load_model(folder: Path, outputs: int, compute: Compute, seed: int) -> tuple[Any, dict[str, Any]]:
    """Load a base with a classification head, what its files lack drawn from ``seed``; or a language model.

    The weights are read from the file's mapping one by one. With ``compute.device_map: auto`` they go to the GPUs that
    there are, and those for which there is no place stay in memory, or in the file; never those of the head.

    Args:
        outputs: Of the head; 0 for a language model, which has none.

    Returns:
        The model, and what transformers tells of the loading (missing keys and mismatched ones among it).

    Raises:
        InputError: The base is quantised in a way that is not known, or what its quantisation needs is not there.
        OSError, ValueError, KeyError: Of transformers.
    """
    options = quantization_options(folder, outputs, compute.quantization, compute.dtype)
    places: dict[str, Any] = {"device_map": {"": compute.device}}
    if compute.device == "cpu" and not set(options) - {"num_labels"}:
        places = {}  # they are read straight into memory without a map too, which would need accelerate
    if compute.device_map == "auto":
        places = {"device_map": "auto"}
        if compute.device == "cpu":
            places["max_memory"] = {"cpu": available_bytes(torch.device("cpu"))}
    model, found = _from_pretrained(folder, outputs, compute, seed, **options, **places)
    spread = getattr(model, "hf_device_map", None)
    if spread is not None and (kept := with_head_on_device(model, spread)) != spread:
        del model
        model, found = _from_pretrained(folder, outputs, compute, seed, **options, device_map=kept)
    freeze_quantized(model)
    forget_gguf(model)
    return model, found


def _from_pretrained(folder: Path, outputs: int, compute: Compute, seed: int, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if outputs else AutoModelForCausalLM
    if not outputs:
        options.pop("num_labels", None)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.from_pretrained(
            folder,
            dtype=compute.dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
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
