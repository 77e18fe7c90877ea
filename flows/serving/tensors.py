"""Tensors of the Open Inference Protocol: in JSON, or as bytes behind it."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from beft.errors import InputError
from beft.files import is_unicode
from beft.settings import NO_UNICODE
from flows.serving.limits import whole_number

BINARY_HEADER = "inference-header-content-length"
"""Where tensors are sent as bytes: the length of the JSON before them."""
_TYPES = {"BOOL": np.bool_, "INT64": np.int64, "FP32": np.float32, "FP64": np.float64}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class InferenceRequest:
    """A request of the protocol.

    Attributes:
        id: The client's, which can be written; "" without one.
        texts: Name of each input to its texts, row by row: one a row, or a list where it has two dimensions.
        outputs: Outputs that the client names, each with whether it wants bytes; empty: all.
        binary: Whether it wants bytes for outputs that it does not name.
        parameters: Of the request.
    """

    id: str
    texts: Mapping[str, Sequence[str | list[str]]]
    outputs: Mapping[str, bool]
    binary: bool
    parameters: Mapping[str, Any]


def read_request(body: bytes, header_length: str | None) -> InferenceRequest:
    """Read the body of an inference request.

    Args:
        header_length: The length of the JSON, where bytes follow it.

    Raises:
        InputError: It is no such request.
    """
    length = len(body) if header_length is None else whole_number(header_length)
    if length is None or length > len(body):
        raise InputError(f"the header {BINARY_HEADER} is {header_length!r}, but the body has {len(body)} bytes")
    try:
        value = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), list):
        raise InputError('the body must be {"inputs": [{"name": ..., "shape": ..., "datatype": ..., "data": ...}]}')
    rest = memoryview(body)[length:]
    texts: dict[str, Sequence[str | list[str]]] = {}
    for tensor in value["inputs"]:
        name, shape, rest, size = _described(tensor, rest)
        flat = _read_data(name, tensor) if size is None else _read_bytes(name, rest[:size])
        if len(flat) != prod(shape):
            raise InputError(f"input {name!r} has {len(flat)} texts, but the shape {shape}")
        rest = rest[size or 0 :]
        texts[name] = flat if len(shape) == 1 else [flat[at : at + shape[1]] for at in range(0, len(flat), shape[1])]
    if len(rest):
        raise InputError(f"{len(rest)} bytes follow the last tensor")
    parameters = _parameters(value, "the request")
    outputs = value.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(one, dict) and "name" in one for one in outputs):
        raise InputError("outputs must be a list of objects with a name")
    binary = bool(parameters.get("binary_data_output", False))
    wanted = {
        str(one["name"]): bool(_parameters(one, f"the output {one['name']!r}").get("binary_data", binary))
        for one in outputs
    }
    request_id = str(value.get("id") or "")
    if not is_unicode(request_id):
        raise InputError(f"the request's id has {NO_UNICODE}")
    return InferenceRequest(request_id, texts, wanted, binary, parameters)


def write_response(
    response: dict[str, Any], tensors: Mapping[str, np.ndarray], request: InferenceRequest
) -> tuple[bytes, dict[str, str]]:
    """The body of a response, and its headers.

    Args:
        response: Everything but the outputs.
        tensors: The outputs, [rows, ...], those that the request names among them; texts as an array of objects.
    """
    described, parts = [], []
    for name, tensor in tensors.items():
        if request.outputs and name not in request.outputs:
            continue
        output: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": datatype(tensor)}
        if request.outputs.get(name, request.binary):
            part = _to_bytes(tensor)
            output["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            output["data"] = tensor.ravel().tolist()
        described.append(output)
    head = json.dumps({**response, "outputs": described}, ensure_ascii=False, allow_nan=False).encode()
    if not parts:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", BINARY_HEADER: str(len(head))}
    return b"".join((head, *parts)), headers


def datatype(tensor: np.ndarray) -> str:
    """The protocol's name of a tensor's type."""
    return next((name for name, kind in _TYPES.items() if tensor.dtype == kind), "BYTES")


def _described(tensor: Any, rest: memoryview) -> tuple[str, list[int], memoryview, int | None]:
    """Name, shape, the bytes that are left, and how many of them are the tensor's; None: it is in the JSON."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise InputError("an input has no name")
    name: str = tensor["name"]
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 2)
        or not all(type(one) is int and one >= 0 for one in shape)
        or shape[1:] == [0]
    ):
        raise InputError(
            f"input {name!r} has the shape {shape!r}; it must be [rows], or [rows, columns] with a column at least"
        )
    if tensor.get("datatype") != "BYTES":
        raise InputError(f"input {name!r} has the datatype {tensor.get('datatype')!r}; texts are BYTES")
    size = _parameters(tensor, f"the input {name!r}").get("binary_data_size")
    if size is not None and not (type(size) is int and 0 <= size <= len(rest)):
        raise InputError(f"input {name!r} has a binary_data_size of {size!r}, but {len(rest)} bytes follow")
    return name, shape, rest, size


def _parameters(of: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = of.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InputError(f"{what} has the parameters {parameters!r}; they must be an object")
    return parameters


def _read_data(name: str, tensor: Mapping[str, Any]) -> list[str]:
    data = tensor.get("data")
    flat: list[Any] = []
    for one in data if isinstance(data, list) else []:
        flat += one if isinstance(one, list) else [one]
    if not isinstance(data, list) or not all(isinstance(one, str) for one in flat):
        raise InputError(f"input {name!r} must have a list of texts as its data")
    return flat


def _read_bytes(name: str, part: memoryview) -> list[str]:
    found, at = [], 0
    try:
        while at < len(part):
            (length,) = _LENGTH.unpack_from(part, at)
            at += _LENGTH.size
            if at + length > len(part):
                raise InputError(f"input {name!r} ends in the middle of a text")
            found.append(bytes(part[at : at + length]).decode())
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise InputError(f"input {name!r} is no list of texts in UTF-8: {error}") from None
    return found


def _to_bytes(tensor: np.ndarray) -> bytes:
    if datatype(tensor) != "BYTES":
        return bytes(np.ascontiguousarray(tensor).tobytes())
    texts = [str(one).encode() for one in tensor.ravel()]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
