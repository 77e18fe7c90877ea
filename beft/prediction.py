"""Predict with a saved adapter: find its base, check it, attach the adapter, answer in the order of the texts.

Needs torch, transformers, tokenizers, safetensors, pydantic, PyYAML and the base; nothing of the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from beft.adapter import Adapter
from beft.base import BaseReference, load_classifier, resolve_base
from beft.device import Compute, resolve_compute
from beft.encoding import encode
from beft.errors import InputError
from beft.features import predict_probabilities
from beft.names import known_name
from beft.settings import BaseSettings, Quantization


@dataclass(frozen=True)
class Predictions:
    """The answers for a list of texts, in its order.

    Attributes:
        labels: Names of the classes.
        probabilities: fp32, [rows, labels].
        truncated: How many texts were longer than the adapter's maximal length, and so were cut.
    """

    labels: tuple[str, ...]
    probabilities: Tensor
    truncated: int

    def rows(self) -> list[dict[str, Any]]:
        """One record a text: ``label``, and ``probabilities`` by label."""
        best = self.probabilities.argmax(1).tolist() if len(self.probabilities) else []
        return [
            {"label": self.labels[at], "probabilities": dict(zip(self.labels, row, strict=True))}
            for at, row in zip(best, self.probabilities.tolist(), strict=True)
        ]


class Predictor:
    """A saved adapter on its base, ready to predict. It computes in fp32 unless told otherwise.

    A base that was quantised for the training is quantised here too: the adapter has learnt to make up for that.

    Args:
        folder: The adapter's folder.
        base: Where the base is, as in ``base.source``; none: found by the portable id that the adapter holds. Its hash
            is checked either way.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16``, ``fp64``, or ``auto`` as in training.
        batch_size: Rows computed at once.

    Raises:
        InputError: The adapter or the base cannot be read, or they do not belong together.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        base: Path | str | None = None,
        device: str = "auto",
        precision: str = "fp32",
        batch_size: int = 64,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        self.batch_size = batch_size
        self.adapter = Adapter.load(Path(folder))
        self.compute = replace(_compute(device, precision), quantization=trained_quantization(self.adapter))
        reference = _find_base(self.adapter, base)
        self.classifier = load_classifier(
            reference, self.adapter.labels, compute=self.compute, pooling=self.adapter.pooling
        )
        self._bank = self.adapter.bank(self.classifier).attach()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.adapter.labels

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The label of each text and the probability of every label, in the order of the texts.

        Raises:
            InputError: Something among the texts is no text, or the pairs are not as many.
        """
        return self.answer(texts, pairs).rows()

    def answer(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Predictions:
        """The same as tensors, with the number of texts that were cut.

        Raises:
            InputError: Something among the texts is no text, or the pairs are not as many.
        """
        _check_texts(texts, "text")
        if pairs is not None:
            _check_texts(pairs, "second text")
            if len(pairs) != len(texts):
                raise InputError(f"there are {len(texts)} texts but {len(pairs)} second texts")
        if not len(texts):
            return Predictions(self.labels, torch.empty(0, len(self.labels)), 0)
        encoded = encode(self.classifier.tokenizer, texts, pairs, max_length=self.adapter.max_length)
        probabilities = predict_probabilities(self.classifier, encoded, batch_size=self.batch_size)
        return Predictions(self.labels, probabilities, encoded.truncated)


def trained_quantization(adapter: Adapter) -> Quantization:
    """How the base was quantised while the adapter was trained.

    Raises:
        InputError: In a way that is not known here.
    """
    found = adapter.provenance.get("compute", {}).get("quantization", "none")
    known_name(found, get_args(Quantization), "quantization")
    quantization: Quantization = found
    return quantization


def _compute(device: str, precision: str) -> Compute:
    known_name(device, get_args(BaseSettings.model_fields["device"].annotation), "device")
    known_name(precision, get_args(BaseSettings.model_fields["precision"].annotation), "precision")
    settings = {"device": device, "precision": precision, "threads": min(torch.get_num_threads(), 256)}
    return resolve_compute(BaseSettings.model_validate(settings))


def _find_base(adapter: Adapter, base: Path | str | None) -> BaseReference:
    if base is None and adapter.base_id.startswith("sha256:"):
        raise InputError(
            f"the adapter's base was a local folder, known by its hash alone ({adapter.base_id}); name the folder that "
            "holds it (base=PATH, or --base PATH), and its hash is checked"
        )
    reference = resolve_base(adapter.base_id if base is None else str(base))
    if reference.sha256 != adapter.base_sha256:
        raise InputError(
            f"{reference.folder if base is not None else reference.portable_id} is not the base of this adapter: its "
            f"sha256 is {reference.sha256[:12]}, the adapter was trained over {adapter.base_id} with sha256 "
            f"{adapter.base_sha256[:12]}. Name the right one (base=PATH, or --base PATH)"
        )
    return reference


def _check_texts(texts: Sequence[str], what: str) -> None:
    if isinstance(texts, str):
        raise InputError(f"predict takes a list of texts; got one {what}: put it into a list")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"row {row} has {text!r} for its {what}; it must be a string")
