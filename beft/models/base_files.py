"""The files of a base, looked at before anything is loaded from them: there, whole, and of a form that is known."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from beft.commands import own_command, predict_command
from beft.errors import InputError
from beft.models.gguf import gguf_file

_POINTER = b"version https://git-lfs.github.com/spec/"

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"

# Read as JSON objects by transformers or by beft, wherever they are there.
_OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)

RARE_VOCABULARIES = (
    "bpe.codes",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "prophetnet.tokenizer",
    "target_vocab.json",
    "word_pronunciation.json",
    "word_shape.json",
)
"""Files that a few tokenizers read: of PhoBERT and BERTweet, BARTpho, LUKE, ProphetNet, RoCBert and others."""

_VOCABULARIES = (
    "tokenizer.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.bpe",
    "*.tiktoken",
    "tekken.json",
    *RARE_VOCABULARIES,
)

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

_READ = (".json", ".txt", ".model", ".safetensors", ".gguf", ".spm", ".bpe", ".tiktoken", ".codes", ".tokenizer")
"""How the names of files end that are read; a link of another name may lead nowhere."""

MASKS = (".attn.bias", ".attention.bias")
"""What old decoders call a bias of their attention is a mask, of truth values or bytes in the files."""

_FLOATS = ("F64", "F32", "F16", "BF16")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    value = _read(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object but {type(value).__name__}; {_DAMAGED}")
    return value


def read_list(path: Path) -> list[Any]:
    """Read a JSON list.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    value = _read(path)
    if not isinstance(value, list):
        raise InputError(f"{path} holds no JSON list but {type(value).__name__}; {_DAMAGED}")
    return value


_DAMAGED = "it is damaged, or written by another tool; copy the base again"


def _read(path: Path) -> Any:
    _check_downloaded(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); {_DAMAGED}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _check_downloaded(path: Path) -> None:
    """Refuse the pointer that Git LFS leaves in the place of a file that it did not download."""
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    if pointer:
        raise InputError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in {path.parent}, or download the "
            "file again"
        )


def check_files(folder: Path) -> None:
    """Check the files of a base without loading it.

    Raises:
        InputError: The folder is no base (a file, empty, an adapter, weights of another format), or a file of it is a
            Git LFS pointer, cut short, unreadable, missing, or of a form that is not known.
    """
    _check_folder(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ and path.is_symlink() and not path.exists():
            raise InputError(
                f"{path} is a link to {path.readlink()}, which is not there; copy or download the base again"
            )
    for name in _OBJECTS:
        if (folder / name).is_file():
            read_mapping(folder / name)
    for path in vocabulary_files(folder):
        _check_downloaded(path)
    if (file := gguf_file(folder)) is not None:
        _check_gguf(file)
        return
    _check_weights(folder, read_mapping(folder / "config.json"))


def vocabulary_files(folder: Path) -> list[Path]:
    """The files of a folder that a tokenizer's vocabulary may be in."""
    return sorted({path for pattern in _VOCABULARIES for path in folder.glob(pattern) if path.is_file()})


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise InputError(f"{folder} is no model folder: it {what}; name the folder that holds the base's config.json")
    if (folder / "beft.json").is_file():
        try:
            command = predict_command(folder, folder, "FOLDER OF THE BASE", "some text")
        except (ValueError, KeyError, AttributeError, TypeError):  # its record is damaged
            command = own_command("beft", "predict", folder, "some text")
        raise InputError(
            f"{folder} is an adapter of beft, no base: predict with it ({command}), or name the base that it was "
            "trained over as base.source"
        )
    adapter = [name for name in _ADAPTER if (folder / name).is_file()]
    there = (folder / "config.json").is_file()
    if adapter and not there:
        raise InputError(f"{folder} is an adapter of PEFT ({adapter[0]}), no base: name its base, {_base_of(folder)}")
    if _ADAPTER[0] in adapter:
        raise InputError(
            f"{folder} holds an adapter of PEFT ({_ADAPTER[0]}) beside a base, and transformers would load it too. "
            f"Move {' and '.join(adapter)} to another folder; to train over both, merge them first "
            "(PEFT's merge_and_unload) and name the folder of the merged model"
        )
    if there or gguf_file(folder) is not None:
        return
    if below := sorted(path.parent.name for path in folder.glob("*/config.json") if "model_type" in _peek(path)):
        raise InputError(
            f"{folder} is no model folder, but {folder / below[0]} is one: name that. What the pooling was is then to "
            "be named too, as head.pooling"
        )
    raise InputError(
        f"{folder} is no model folder: it has neither a config.json nor a GGUF file; name a folder that "
        "save_pretrained(…) wrote"
    )


def _peek(path: Path) -> Mapping[str, Any]:
    try:
        return read_mapping(path)
    except InputError:
        return {}


def _base_of(folder: Path) -> str:
    path = folder / _ADAPTER[0]
    base = read_mapping(path).get("base_model_name_or_path") if path.is_file() else None
    return f"{base!r}, as base.source" if base else "as base.source"


def _check_gguf(file: Path) -> None:
    _check_downloaded(file)
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise InputError(f"{file} is no GGUF file, whatever its name says: it is damaged; download it again")


def _check_weights(folder: Path, config: Mapping[str, Any]) -> None:
    quantized = _check_config(folder / "config.json", config)
    for path in _weight_files(folder):
        _check_downloaded(path)
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # it is no dictionary
                    _check_type(path, name, file.get_slice(name).get_dtype(), quantized=quantized)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} cannot be read as safetensors weights ({error}): it is damaged or cut short; copy or download "
                "it again"
            ) from None


def _check_config(path: Path, config: Mapping[str, Any]) -> bool:
    """Check what a configuration says of the weights; whether it says that they are quantised."""
    if not isinstance(config.get("model_type"), str | None):
        raise InputError(f"{path}: model_type is {config['model_type']!r}, no name; copy the base's own config.json")
    dtype = config.get("dtype", config.get("torch_dtype"))
    if isinstance(dtype, str) and not isinstance(getattr(torch, dtype.removeprefix("torch."), None), torch.dtype):
        raise InputError(
            f"{path}: dtype is {dtype!r}, which is no type of torch; write the weights' own, such as float32"
        )
    return bool(stored_quantization_config(path, config))


def stored_quantization_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a base's configuration says of how its weights are quantised; empty where they are not.

    Args:
        path: Of the file that the configuration was read from.

    Raises:
        InputError: It is no JSON object.
    """
    for name in ("quantization_config", "compression_config"):
        if config.get(name) is not None and not isinstance(config[name], dict):
            raise InputError(
                f"{path}: {name} must be an object that names quant_method, not {config[name]!r}; copy the base's own "
                "config.json, or take it out where the weights are not quantised"
            )
    return config.get("quantization_config") or config.get("compression_config") or {}


def _check_type(path: Path, name: str, dtype: str, *, quantized: bool) -> None:
    """Without a word in the configuration, transformers would take quantised weights for plain numbers."""
    if not quantized and name.endswith((".weight", ".bias")) and not name.endswith(MASKS) and dtype not in _FLOATS:
        raise InputError(
            f"{path} holds {name} as {dtype}, as a quantised base does, but config.json has no quantization_config; "
            "use the base that is not quantised"
        )


def _part_of_several(name: str) -> bool:
    """Whether a file's name is that of a part, as ``model-00001-of-00002.safetensors``."""
    found = re.search(r"-of-(\d+)\.", name)
    return found is not None and int(found[1]) > 1


def _weight_files(folder: Path) -> Iterator[Path]:
    """The files that transformers would read the weights from.

    Raises:
        InputError: There are none, or one is missing.
    """
    if (folder / _SINGLE).is_file():
        yield folder / _SINGLE
        return
    if (folder / _INDEX).is_file():
        parts = read_mapping(folder / _INDEX).get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise InputError(f"{folder / _INDEX} has no weight_map; {_DAMAGED}")
        for name in sorted(set(map(str, parts.values()))):
            if not (folder / name).is_file():
                raise InputError(f"{folder / name} is missing, which {_INDEX} names; copy or download it again")
            yield folder / name
        return
    others = [path.name for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
    if len(others) == 1 and not _part_of_several(others[0]):
        raise InputError(f"{folder} has its weights in {others[0]}; rename it to {_SINGLE}, the name that is loaded")
    if others:
        raise InputError(f"{folder} holds parts of weights ({others[0]}), but no {_INDEX}; copy or download that too")
    pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in sorted(folder.glob(pattern))]
    if pickled:
        raise InputError(
            f"{folder} holds no *.safetensors weights but {pickled[0]}, which is pickled: it could run code, and is "
            "never loaded. If you trust it, load it with transformers once and save it again with save_pretrained(…)"
        )
    raise InputError(
        f"{folder} holds no *.safetensors weights; other formats are not loaded. Save the model again with "
        "save_pretrained(…)"
    )
