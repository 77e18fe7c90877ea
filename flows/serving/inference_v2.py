"""The Open Inference Protocol (version 2): one adapter a request, texts in, labels and probabilities out.

Inputs, each BYTES: ``text`` [rows]; ``text_pair`` [rows] where the adapter reads pairs; ``choices`` [rows, choices]
where it chooses among a row's own ("" fills up a row with fewer). Outputs: ``label`` and ``probabilities`` [rows,
labels]; or where a row can have several labels, ``labels`` [rows] (a JSON list each), ``given`` [rows, labels] and
``probabilities`` [rows, labels]; or ``spans`` [rows] (a JSON list each); or ``value``; or ``choice``, ``index`` and
``probabilities`` [rows, choices]; and ``truncated``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beft.errors import InputError
from beft.serving.directory import Served
from beft.serving.service import Question, RowAnswer
from flows.serving.tensors import InferenceRequest

INPUTS = ("text", "text_pair", "choices")


def questions_of(request: InferenceRequest, served: Served) -> list[Question]:
    """The rows of a request to one adapter.

    Raises:
        InputError: An input is missing, unknown, of another number of rows or of the wrong number of dimensions.
    """
    if unknown := set(request.texts) - set(INPUTS):
        raise InputError(f"there is no input {sorted(unknown)[0]!r}; there are {', '.join(INPUTS)}")
    if "text" not in request.texts:
        raise InputError("the input 'text' is missing")
    texts = _column(request.texts["text"], "text")
    pairs = _column(request.texts["text_pair"], "text_pair") if "text_pair" in request.texts else None
    choices = request.texts.get("choices")
    for name, column in request.texts.items():
        if len(column) != len(texts):
            raise InputError(f"there are {len(texts)} rows of text, but {len(column)} of {name}")
    if choices is not None and any(isinstance(row, str) for row in choices):
        raise InputError("the input 'choices' must have the shape [rows, choices]")
    return [
        Question(
            text=text,
            adapter=served.name,
            version=served.version,
            pair=None if pairs is None else pairs[row],
            choices=None if choices is None else tuple(choice for choice in choices[row] if choice),
        )
        for row, text in enumerate(texts)
    ]


def tensors_of(answers: Sequence[RowAnswer]) -> dict[str, np.ndarray]:
    """The outputs for the answers of one adapter."""
    first = answers[0].predicted
    tensors: dict[str, np.ndarray] = {}
    if "label" in first:
        tensors["label"] = _texts([answer.predicted["label"] for answer in answers])
        rows = [list(answer.predicted["probabilities"].values()) for answer in answers]
        tensors["probabilities"] = np.array(rows, dtype=np.float32)
    elif "labels" in first:
        tensors["labels"] = _texts([json.dumps(answer.predicted["labels"], ensure_ascii=False) for answer in answers])
        by_label = [answer.predicted["probabilities"] for answer in answers]
        given = [
            [label in answer.predicted["labels"] for label in of_row]
            for answer, of_row in zip(answers, by_label, strict=True)
        ]
        tensors["given"] = np.array(given)
        tensors["probabilities"] = np.array([list(of_row.values()) for of_row in by_label], dtype=np.float32)
    elif "spans" in first:
        tensors["spans"] = _texts([json.dumps(answer.predicted["spans"], ensure_ascii=False) for answer in answers])
    elif "choice" in first:
        tensors["choice"] = _texts([answer.predicted["choice"] for answer in answers])
        tensors["index"] = np.array([answer.predicted["index"] for answer in answers], dtype=np.int64)
        rows = [answer.predicted["probabilities"] for answer in answers]
        most = max(map(len, rows))
        tensors["probabilities"] = np.array([[*row, *[0.0] * (most - len(row))] for row in rows], dtype=np.float32)
    else:
        tensors["value"] = np.array([answer.predicted["value"] for answer in answers], dtype=np.float64)
    tensors["truncated"] = np.array([answer.truncated for answer in answers])
    return tensors


def check_outputs(request: InferenceRequest, served: Served) -> None:
    """Make sure that the adapter has the outputs that a request names.

    Raises:
        InputError: There is no such output.
    """
    known = [str(output["name"]) for output in _outputs(served)]
    if unknown := set(request.outputs) - set(known):
        raise InputError(f"there is no output {sorted(unknown)[0]!r}; there are {', '.join(known)}")


def metadata(served: Served, versions: Sequence[str]) -> dict[str, Any]:
    """What the protocol tells of a model."""
    inputs = [_tensor("text", "BYTES", -1)]
    if served.adapter.pairs:
        inputs.append(_tensor("text_pair", "BYTES", -1))
    if served.adapter.takes_choices:
        inputs.append(_tensor("choices", "BYTES", -1, -1))
    return {
        "name": served.name,
        "versions": list(versions),
        "platform": "beft",
        "inputs": inputs,
        "outputs": _outputs(served),
        "parameters": facts(served),
    }


def facts(served: Served) -> dict[str, Any]:
    """What an answer says of the adapter that gave it."""
    return {
        "adapter": served.name,
        "version": served.version,
        "sha256": served.adapter.sha256,
        "aliases": ", ".join(served.aliases),
        "labels": ", ".join(served.adapter.labels),
    }


def _outputs(served: Served) -> list[Mapping[str, Any]]:
    adapter = served.adapter
    if adapter.takes_choices:
        outputs = [
            _tensor("choice", "BYTES", -1),
            _tensor("index", "INT64", -1),
            _tensor("probabilities", "FP32", -1, -1),
        ]
    elif adapter.problem_type.reads_words:
        outputs = [_tensor("spans", "BYTES", -1)]
    elif adapter.problem_type.has_thresholds:
        outputs = [
            _tensor("labels", "BYTES", -1),
            _tensor("given", "BOOL", -1, len(adapter.labels)),
            _tensor("probabilities", "FP32", -1, len(adapter.labels)),
        ]
    elif adapter.labels:
        outputs = [_tensor("label", "BYTES", -1), _tensor("probabilities", "FP32", -1, len(adapter.labels))]
    else:
        outputs = [_tensor("value", "FP64", -1)]
    return [*outputs, _tensor("truncated", "BOOL", -1)]


def _tensor(name: str, datatype: str, *shape: int) -> Mapping[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def _column(rows: Sequence[str | list[str]], name: str) -> list[str]:
    texts = [row if isinstance(row, str) else row[0] if len(row) == 1 else None for row in rows]
    if any(text is None for text in texts):
        raise InputError(f"the input {name!r} must have the shape [rows] or [rows, 1]")
    return [text for text in texts if text is not None]


def _texts(values: Sequence[str]) -> np.ndarray:
    return np.array(values, dtype=object)
