"""A fixed text with the outputs that an adapter gave for it when it was registered, replayed where it is served.

An adapter that answers it differently is computed wrongly here: another base, another tokenizer, another version of a
library, a head of another adapter.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from beft.errors import InputError
from beft.files import read_json, write_json
from beft.inference.predictions import sequence_outputs
from beft.inference.predictor import Predictor
from beft.inference.questions import Questions

CANARY_FILE = "canary.json"
TEXT = "A fine, touching film; the second half is slow, and 42 of us left early, it was not that bad."
PAIR = "It was not bad: most of us stayed until the end."
CHOICES = ("We left.", "We stayed until the end.")
MAX_LENGTH = 16
"""Tokens of each sequence."""

_TOLERANCES = {"fp64": 1e-4, "fp32": 1e-4, "bf16": 0.1}
"""How far an output may be off, by the less precise of the two precisions; and, of its size, ten times less."""


@dataclass(frozen=True)
class Canary:
    """The outputs of an adapter for the fixed text.

    Attributes:
        adapter_sha256: Of the adapter's tensor file.
        precision: That it was computed in.
        outputs: [sequences, outputs].
    """

    adapter_sha256: str
    precision: str
    outputs: list[list[float]]

    @classmethod
    def of(cls, predictor: Predictor) -> Self:
        """The canary of an adapter that is attached to its base."""
        adapter, classifier = predictor.adapter, predictor.classifier
        questions = questions_of(pairs=bool(adapter.pairs), choices=adapter.takes_choices)
        rows = classifier.examples(questions, min(MAX_LENGTH, adapter.max_length))
        [outputs] = sequence_outputs(classifier, rows.encoded)
        return cls(adapter.sha256, predictor.compute.precision, outputs.tolist())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote.

        Raises:
            InputError: The file is damaged.
        """
        try:
            return TypeAdapter(cls).validate_python(read_json(path))
        except (OSError, ValueError, ValidationError) as error:
            raise InputError(f"{path} is no record of a canary ({error}); register the adapter again") from None

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    def check(self, outputs: Tensor, precision: str) -> None:
        """Compare with the outputs that the adapter gives here.

        Args:
            outputs: [sequences, outputs].
            precision: That they were computed in.

        Raises:
            InputError: They differ by more than the precision explains.
        """
        expected = torch.tensor(self.outputs, dtype=torch.float64)
        if tuple(outputs.shape) != tuple(expected.shape):
            raise InputError(f"the canary has outputs of shape {list(expected.shape)}, here {list(outputs.shape)}")
        tolerance = max(_TOLERANCES[self.precision], _TOLERANCES[precision])
        off = (outputs.double() - expected).abs()
        if not bool((off <= tolerance * (1 + expected.abs() / 10)).all()):
            raise InputError(
                f"the adapter answers its canary differently here: an output is off by {float(off.max()):.2g} (at most "
                f"{tolerance:.0e} is allowed in {precision}). The base, its tokenizer or a library is not the one "
                "that it was registered with"
            )


def questions_of(*, pairs: bool, choices: bool) -> Questions:
    """The fixed row, in the form that an adapter takes."""
    return Questions([TEXT], [PAIR] if pairs else None, [list(CHOICES)] if choices else None)
