"""What a head sees of a text: which pooling a base's own files ask for, and how each kind is computed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beft.errors import InputError
from beft.models.base_files import read_list, read_mapping

# Modes of sentence-transformers, as it names them since 5.4, and the flags of before, in its own order.
_MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

# Modules of sentence-transformers that only change what was pooled. The head is trained on what is pooled.
_AFTER_POOLING = ("Dense", "Dropout", "LayerNorm", "Normalize")

_ADVICE = "set head.pooling to the one that the head is to see: " + ", ".join(sorted(_MODES.values())) + " or model"


def base_pooling(folder: Path) -> str:
    """The pooling that a base's own files ask for, as ``head.pooling`` names it; ``model`` where they ask for none.

    Reads ``modules.json`` and the ``config.json`` of its Pooling module, as sentence-transformers writes them.

    Raises:
        InputError: They ask for something that is not known here, or for several poolings at once.
    """
    path = _pooling_file(folder)
    if path is None:
        return "model"
    modes = _modes(path, read_mapping(path))
    if unknown := [mode for mode in modes if mode not in _MODES]:
        raise InputError(f"{path} asks for the pooling {unknown[0]!r}, which beft does not know; {_ADVICE}")
    if len(modes) > 1:
        raise InputError(f"{path} asks for several poolings side by side ({', '.join(modes)}); {_ADVICE}")
    return _MODES[modes[0]]


def unused_modules(folder: Path) -> list[str]:
    """The modules with weights of their own that sentence-transformers puts behind the pooling, and beft does not."""
    modules = _modules(folder)
    return [f"{path} ({kind})" for kind, path in modules if kind in ("Dense", "LayerNorm")]


def pooling_files(folder: Path) -> list[Path]:
    """The files that say which pooling a base asks for, where they are there."""
    named = [folder / path / "config.json" for kind, path in _modules(folder) if kind == "Pooling"]
    files = [folder / "modules.json", *folder.glob("*_Pooling/config.json"), *named]
    return sorted({path for path in files if path.is_file()})


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Kind and path of each module of ``modules.json``; empty without that file."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    found = []
    for module in read_list(file):
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise InputError(f"{file} names a module without a type; save the base again with sentence-transformers")
        path = Path(str(module.get("path", "")))
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{file} names {path}, which is not below {folder}; write the folder's name alone")
        found.append((module["type"].rpartition(".")[2], str(module.get("path", ""))))
    return found


def _pooling_file(folder: Path) -> Path | None:
    """The configuration of the base's Pooling module; None where it has no such module."""
    modules = _modules(folder)
    known = ("Transformer", "Pooling", *_AFTER_POOLING)
    if others := [f"{path} ({kind})" if path else kind for kind, path in modules if kind not in known]:
        raise InputError(
            f"{folder / 'modules.json'} names a module that beft does not know, {others[0]}, so what its head would "
            f"see is not known either; {_ADVICE}"
        )
    paths = [path for kind, path in modules if kind == "Pooling"]
    if not modules:
        paths = sorted(path.parent.name for path in folder.glob("*_Pooling/config.json"))
    if len(paths) > 1:
        raise InputError(f"{folder} has several poolings ({', '.join(paths)}); {_ADVICE}")
    if not paths:
        return None
    path = folder / paths[0] / "config.json"
    if not path.is_file():
        raise InputError(f"{path} is missing, which {folder / 'modules.json'} names; copy the base again, or {_ADVICE}")
    return path


def _modes(path: Path, config: Mapping[str, Any]) -> list[str]:
    """The modes in a configuration of either form, as sentence-transformers names them."""
    if "pooling_mode" in config:
        found = config["pooling_mode"]
        modes = [found] if isinstance(found, str) else found
        if isinstance(modes, list) and modes and all(isinstance(mode, str) for mode in modes):
            return modes
        raise InputError(f"{path}: pooling_mode is {found!r}, neither a name nor a list of names; {_ADVICE}")
    flags = {name: value for name, value in config.items() if name.startswith("pooling_mode_")}
    if not flags:
        raise InputError(f"{path} is of a form that beft does not know (it holds {', '.join(config)}); {_ADVICE}")
    # Where every flag is off, sentence-transformers takes the mean.
    return [_FLAGS.get(name, name) for name in (*_FLAGS, *flags.keys() - _FLAGS) if flags.get(name)] or ["mean"]


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool the last hidden states over the tokens of each text, wherever its padding is.

    Args:
        hidden: [rows, tokens, hidden].
        mask: 1 at the tokens of a text, 0 at padding, [rows, tokens].
        pooling: ``mean``, ``mean_sqrt_len`` (the sum over the root of the number of tokens), ``weighted_mean`` (the
            n-th token weighs n), ``max``, ``cls`` (the first token) or ``last_token``.

    Returns:
        Of shape [rows, hidden]; sums are made in fp32 or wider.
    """
    mask = mask.to(hidden.device)
    if pooling in ("cls", "last_token"):
        positions = torch.arange(mask.shape[1], device=mask.device)
        at = mask.argmax(1) if pooling == "cls" else (mask * positions).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), at]
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    if pooling == "max":
        return wide.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1)
    weights = (mask.cumsum(1) * mask if pooling == "weighted_mean" else mask).unsqueeze(-1)
    total = (wide * weights).sum(1)
    count = weights.sum(1)
    return total / (count.to(total.dtype).sqrt() if pooling == "mean_sqrt_len" else count)
