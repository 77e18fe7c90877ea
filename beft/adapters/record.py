"""``beft.json``: what an adapter's tensors are, read strictly.

The record holds the sha256 of the tensor file and of itself, so that a damaged adapter is told from a good one before
anything in it is believed.

Format 2 is written. Format 1 is read for ever: what it does not say is None (``null``), and is then not checked. A
field that is added to format 2 later needs the default None for the records that lack it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from beft.adapters.peft_format import ModuleFacts, Opens
from beft.errors import InputError
from beft.files import sha256_json
from beft.settings import Pooling, Quantization
from beft.sites.site import BiasSite

FORMAT: Final = "beft adapter"
FORMAT_VERSION: Final = 2
READ_VERSIONS: Final = (1, 2)
RECORD_FILE: Final = "beft.json"
TENSOR_FILE: Final = "adapter_model.safetensors"
PEFT_FILE: Final = "adapter_config.json"

Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BasePart(_Part):
    """The base: portable id, both hashes of its files, class of the model, how its linear layers were quantised."""

    id: str = Field(min_length=1)
    sha256: str = Sha256
    model: str
    quantization: Quantization | None = None
    contents: str | None = Field(None, pattern=r"^[0-9]+:[0-9a-f]{64}$")


class InputPart(_Part):
    """What is predicted from, beside a text: a second text, the choices of each row."""

    pairs: bool | None
    choices: bool | None


class SitePart(_Part):
    """A bias site and the tensor that holds its delta."""

    site: dict[str, Any]
    tensor: str


class HeadPart(_Part):
    """What of the head was trained, and the tensor of each of its parameters."""

    train: str
    tensors: dict[str, str]


class ModulePart(_Part):
    """The facts of a touched module, as in ``beft.adapters.peft_format.ModuleFacts``."""

    kind: str
    width: int = Field(ge=0)
    parameters: tuple[str, ...]
    alike: tuple[str, ...]

    def facts(self) -> ModuleFacts:
        """The same as the type that PEFT's layout is planned with."""
        return ModuleFacts(self.kind, self.width, self.parameters, self.alike)


class FilePart(_Part):
    """The tensor file."""

    file: Literal["adapter_model.safetensors"]
    bytes: int = Field(ge=0)
    sha256: str = Sha256


class PeftPart(_Part):
    """Whether PEFT opens the folder, and why not."""

    opens: Opens
    reasons: tuple[str, ...]


class AdapterRecord(_Part):
    """The contents of ``beft.json``."""

    format: Literal["beft adapter"]
    format_version: Literal[2]
    base: BasePart
    dataset: str
    labels: tuple[str, ...]
    shape: dict[str, Any] = Field({"name": "classification"})
    inputs: InputPart
    pooling: Pooling
    max_length: int = Field(ge=1)
    terms: tuple[str, ...]
    sites: tuple[SitePart, ...] = Field(min_length=1)
    head: HeadPart
    modules: dict[str, ModulePart]
    tokenizer: dict[str, int | str]
    peft: PeftPart
    provenance: dict[str, Any]
    tensors: FilePart

    def to_json(self) -> dict[str, Any]:
        """The JSON form, with its own sha256."""
        value = self.model_dump(mode="json")
        return {**value, "sha256": sha256_json(value)}

    def bias_sites(self) -> dict[BiasSite, str]:
        """The sites in the order of the file, each with the name of its tensor."""
        return {BiasSite.from_json(part.site): part.tensor for part in self.sites}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record of an adapter folder.

        Raises:
            InputError: The folder or the record is missing, foreign, damaged, or of another format version.
        """
        path = folder / RECORD_FILE
        if not folder.exists():
            raise InputError(f"there is no adapter at {folder}; name the folder that holds its {RECORD_FILE}")
        if not folder.is_dir():
            raise InputError(f"{folder} is a file; name the adapter's folder, which holds {RECORD_FILE}")
        if not path.is_file():
            raise InputError(_foreign(folder))
        value = _read_json(path)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(
                f'{path} does not say "format": "{FORMAT}"; it is not a record of beft. Name another folder'
            )
        version = value.get("format_version")
        if type(version) is not int or version not in READ_VERSIONS:
            newer = type(version) is int and version > FORMAT_VERSION
            advice = "install a newer beft" if newer else "save the adapter again"
            known = " and ".join(map(str, READ_VERSIONS))
            raise InputError(f"{path} has format version {version!r}, this beft reads {known}; {advice}")
        found = value.pop("sha256", None)
        if found != sha256_json(value):
            raise InputError(f"{path} is damaged or was edited: its own sha256 differs; copy the adapter again")
        try:
            return cls.model_validate(_from_format_1(value) if version == 1 else value)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            raise InputError(
                f"{path} is not a valid record of an adapter ({problems}); save the adapter again"
            ) from None

    def read_tensors(self, folder: Path) -> dict[str, Tensor]:
        """Read the tensor file beside the record.

        Raises:
            InputError: It is missing, cut short, another file than the record describes, or no safetensors file.
        """
        path = folder / TENSOR_FILE
        try:
            if not path.is_file():
                raise InputError(f"{path} is missing: the adapter is incomplete; copy it again")
            contents = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        if len(contents) < self.tensors.bytes:
            raise InputError(
                f"{path} has {len(contents):,} bytes, {RECORD_FILE} says {self.tensors.bytes:,}: it was cut short; "
                "copy the adapter again"
            )
        if hashlib.sha256(contents).hexdigest() != self.tensors.sha256:
            raise InputError(
                f"{path} is not the file that {RECORD_FILE} describes (its sha256 differs): it is damaged or belongs "
                "to another adapter; copy the adapter again"
            )
        try:
            return load(contents)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no safetensors file ({error}); save the adapter again") from None


def _from_format_1(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record of format 1 as one of format 2: the quantisation was noted with the provenance, if at all."""
    base, provenance = value.get("base"), value.get("provenance")
    compute = provenance.get("compute") if isinstance(provenance, dict) else None
    if isinstance(base, dict) and isinstance(compute, dict):
        base = {**base, "quantization": compute.get("quantization", "none")}
    unknown = {"pairs": None, "choices": None}
    return {"inputs": unknown, **value, "base": base, "format_version": FORMAT_VERSION}


def _foreign(folder: Path) -> str:
    config = folder / PEFT_FILE
    if config.is_file():
        value = _read_json(config)
        kind = value.get("peft_type") if isinstance(value, dict) else None
        return (
            f"{folder} is an adapter of PEFT ({kind}) without a {RECORD_FILE}: beft knows neither its base nor its "
            "labels. Open it with PEFT, or train an adapter with beft"
        )
    return f"{folder} is no adapter: it has no {RECORD_FILE}. Name the folder that 'train' wrote"


def _read_json(path: Path) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not valid JSON: it is damaged or cut short; copy the adapter again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
