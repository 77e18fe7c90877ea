"""Bases in one GGUF file, which holds weights, configuration and tokenizer: transformers reads all three out of it.

Weights that are quantised in the file are widened once, when they are loaded; nothing of the file is pickled.
"""

import importlib.util
from pathlib import Path
from typing import Any

from beft.commands import pip_install
from beft.errors import InputError


def gguf_options(folder: Path) -> dict[str, str]:
    """What every ``from_pretrained`` is given beside the folder: ``gguf_file`` where its weights are a GGUF file.

    Raises:
        InputError: There are several such files, or the package that reads them is not installed.
    """
    file = gguf_file(folder)
    if file is None:
        return {}
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            f"{file.name} needs the package gguf, which is not installed; run: {pip_install('beft[decoders]')}"
        )
    return {"gguf_file": file.name}


def gguf_file(folder: Path) -> Path | None:
    """The GGUF file of a folder without safetensors weights; none where there are such weights, or no such file.

    Raises:
        InputError: There are several.
    """
    files = sorted(path for path in folder.glob("*.gguf") if not path.is_dir())
    if not files or any(not path.is_dir() for path in folder.glob("*.safetensors")):
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{folder} holds {len(files)} GGUF files ({names}); exactly one is needed")
    return files[0]


def gguf_configuration(folder: Path) -> dict[str, Any]:
    """The entries of the configuration in a folder's GGUF file; none where its weights are no such file.

    Raises:
        InputError: As ``gguf_options``, or the file cannot be read.
    """
    from transformers import AutoConfig

    options = gguf_options(folder)
    if not options:
        return {}
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # of gguf, which reads the file as it comes
        raise InputError(
            f"{folder / options['gguf_file']} cannot be read ({error}): it is damaged or cut short, or of a model that "
            "transformers does not read from GGUF files; download it again, or use a base with safetensors weights"
        ) from None
    values: dict[str, Any] = found.to_dict()
    return values


def forget_gguf(model: Any) -> None:
    """Take the mark of a GGUF file from a model: its weights are plain ones, and it can be saved as such."""
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer = None
        model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
