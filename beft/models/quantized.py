"""Bases whose linear layers are quantised to 8 or 4 bits: what is asked of transformers, and what is made of it."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from beft.commands import pip_install
from beft.errors import InputError
from beft.models.base_files import read_mapping, stored_quantization_config
from beft.models.classifier import HEADS
from beft.models.frozen_linear import QuantizedLinear, become
from beft.models.gguf import gguf_file
from beft.settings import Quantization

# Regular expressions of paths, as transformers takes them: what is trained or drawn at random is not quantised.
_NOT_QUANTIZED = [*HEADS, "lm_head", "embed_out", r"(?:.*\.)?pooler"]


def quantization_options(folder: Path, labels: int, quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` is given so that it quantises a base, or takes one that is quantised already.

    Args:
        folder: The base's files.
        labels: Number of classes.
        quantization: ``none``, ``int8`` or ``int4`` (normal floats, NF4).
        dtype: The type that the base computes in.

    Raises:
        InputError: bitsandbytes is needed and not installed, the base was quantised by another library, or to
            another width than ``quantization`` says, or it is to be quantised from fp64 or from a GGUF file.
    """
    if (file := gguf_file(folder)) is not None:
        if quantization != "none":
            raise InputError(
                f"base.quantization is {quantization!r}, but {file.name} is a GGUF file, whose weights are widened "
                "when they are loaded; use 'none', or a base with safetensors weights"
            )
        return {"num_labels": labels}
    stored = stored_quantization(folder)
    if stored is not None:
        if quantization not in ("none", stored):
            raise InputError(
                f"base.quantization is {quantization!r}, but the base in {folder} is quantised to {stored} already; "
                "use 'none', or a base that is not quantised"
            )
    elif quantization == "none":
        return {"num_labels": labels}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"a base quantised to {stored or quantization} needs bitsandbytes, which is not installed; run: "
            f"{pip_install('beft[quantization]')}"
        )
    if stored is not None:
        return {"config": _stored_config(folder, labels)}
    if dtype == torch.float64:
        raise InputError(f"base.quantization {quantization!r} with base.precision fp64: use fp32, bf16 or auto")
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_NOT_QUANTIZED)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=_NOT_QUANTIZED,
        )
    return {"num_labels": labels, "quantization_config": config}


def stored_quantization(folder: Path) -> str | None:
    """How the weights in a base's files are quantised: ``int8``, ``int4``, or None.

    Raises:
        InputError: By another library than bitsandbytes, it is not said to how many bits, or what is said of it is no
            JSON object.
    """
    path = folder / "config.json"
    stored = stored_quantization_config(path, read_mapping(path))
    if not stored:
        return None
    method = str(stored.get("quant_method", "unknown"))
    if method != "bitsandbytes":
        raise InputError(
            f"the base in {folder} is quantised by {method!r}; only bitsandbytes' bases can be fine-tuned here. Use "
            "the base that is not quantised, with base.quantization int8 or int4"
        )
    if not stored.get("load_in_4bit") and not stored.get("load_in_8bit"):
        raise InputError(
            f"{path}: quantization_config names bitsandbytes, but neither load_in_4bit nor "
            "load_in_8bit; copy the base's own config.json, or use the base that is not quantised"
        )
    return "int4" if stored.get("load_in_4bit") else "int8"


def _stored_config(folder: Path, labels: int) -> Any:
    """The configuration of a base that is quantised already, which says what of it is not.

    Left to itself, transformers would also make quantised layers of a head that the files do not hold.
    """
    from transformers import AutoConfig

    tensors: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors.update(file.keys())
    marks = (".SCB", ".weight.absmax")
    quantized = {name.removesuffix(mark) for name in tensors for mark in marks if name.endswith(mark)}
    if not quantized:
        raise InputError(
            f"{folder / 'config.json'} says that the base is quantised, but none of its weights is; take "
            "quantization_config out, or copy both from the same base"
        )
    if heads := sorted(name for name in quantized if name.split(".", 1)[0] in HEADS):
        raise InputError(f"the base in {folder} is quantised with its head ({heads[0]}), which is to be trained")
    weights = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    config = AutoConfig.from_pretrained(folder, num_labels=labels, local_files_only=True, trust_remote_code=False)
    config.quantization_config["llm_int8_skip_modules"] = [*map(re.escape, sorted(weights - quantized)), *HEADS]
    return config


def freeze_quantized(model: nn.Module) -> None:
    """Make a ``QuantizedLinear`` of every layer that bitsandbytes quantised."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return
    layers: list[Any] = [
        module for module in model.modules() if type(module).__name__ in ("Linear8bitLt", "Linear4bit")
    ]
    for layer in layers:
        scale = None
        if type(layer).__name__ == "Linear8bitLt":
            scale = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
            # The state is the library's own way to compute, with a second reference to the weight.
            layer.weight.CB = None
            del layer.state
        layer.register_buffer("scale", scale, persistent=False)
        become(layer, QuantizedLinear)


def quantization_of(model: nn.Module) -> Quantization:
    """How the linear layers of a model that ``beft`` loaded are quantised: ``none``, ``int8`` or ``int4``."""
    layer = next((module for module in model.modules() if isinstance(module, QuantizedLinear)), None)
    if layer is None:
        return "none"
    return "int4" if layer.scale is None else "int8"


def quantized_layers(model: nn.Module) -> list[str]:
    """The paths of the quantised layers of a model."""
    return [path for path, module in model.named_modules() if isinstance(module, QuantizedLinear)]
