"""What an adapter was made for: the features and lengths of its training rows, and what it answered on dev."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from beft.encoding.examples import AnyRows, LabelledRows
from beft.errors import InputError
from beft.inference.features import extract_features
from beft.inference.predictions import predict_rows
from beft.inference.predictor import Predictor, thresholds_of
from beft.metrics.label_sets import SET_FROM, probabilities_from, set_confidence
from beft.metrics.spans import span_confidence

REFERENCE_FILE = "drift_reference.safetensors"
_MAX_ROWS = 500
_MAX_TOKENS = 40_000
"""Of the rows whose features are kept: so many rows, or as many as have these tokens."""
_NAMES = ("features", "lengths", "unknown", "answers", "confidence")
_OF_ROWS = {"of": "rows"}
"""What the metadata of a file say whose features, lengths and unknown tokens are those of rows."""


@dataclass(frozen=True, eq=False)
class DriftReference:
    """What later traffic is compared with.

    Attributes:
        features: The base's own pooled features (mean) of training rows, without the adapter, fp16 [rows, hidden]; of a
            row of several sequences (its choices, or the windows of a long text) their mean.
        lengths: Tokens of the longest sequence of each of these rows.
        unknown: The tokens of each, in all its sequences, that the tokenizer does not know, as a share of ``lengths``.
        answers: The adapter's answers to dev rows: numbers of labels, or values; where a row can have several labels,
            1 or 0 for each [rows, labels]; where spans are answered, whether one has the label [rows, labels].
        confidence: The largest probability of each of them; of label sets the mean probability of what is answered of
            each label; of spans as ``span_confidence``; none of values.
        of_rows: Whether features, lengths and unknown tokens are those of rows; False: an older beft kept them for each
            sequence.
    """

    features: NDArray[np.float16]
    lengths: NDArray[np.int32]
    unknown: NDArray[np.float32]
    answers: NDArray[np.float32]
    confidence: NDArray[np.float32]
    of_rows: bool = True

    @classmethod
    def of(cls, predictor: Predictor, train: AnyRows, dev: AnyRows) -> Self:
        """The reference of an adapter.

        Args:
            train: Rows that it was trained on; the first are taken.
            dev: Rows that it was not trained on.
        """
        classifier, adapter = predictor.classifier, predictor.adapter
        seen = classifier.examples(train, adapter.max_length)
        fitting = int((np.cumsum(seen.tokens) <= _MAX_TOKENS).sum())
        seen = seen.take(np.arange(max(1, min(fitting, _MAX_ROWS))))
        with predictor.without_adapter():
            # Of texts, not of their words.
            features = extract_features(classifier, replace(seen.encoded, positions=None), "pooled")
        features = torch.stack([of_row.mean(0) for of_row in features.split(_sizes(seen))])
        predicted = predict_rows(classifier, classifier.examples(dev, adapter.max_length))
        if isinstance(predicted, list):  # an adapter that generates is not served: these are spans
            rows = [[span for span in of_row if not isinstance(span, str)] for of_row in predicted]
            labels = [{span.label for span in spans} for spans in rows]
            answers = np.array([[number in found for number in range(len(adapter.labels))] for found in labels])
            confidence = np.array([span_confidence([span.score for span in spans]) for spans in rows])
        elif predicted.ndim == 2:
            answers, confidence = predicted.argmax(-1), predicted.max(-1)
        else:
            answers, confidence = predicted, np.empty(0)
        if not isinstance(predicted, list) and (thresholds := thresholds_of(adapter.problem_type)) is not None:
            answers = predicted >= SET_FROM
            confidence = set_confidence(probabilities_from(predicted, np.array(thresholds)), answers)
        return cls(
            features.to(torch.float16).numpy(),
            seen.lengths.astype(np.int32),
            unknown_shares(seen, classifier.tokenizer.unk_token_id),
            answers.astype(np.float32),
            confidence.astype(np.float32),
        )

    def write(self, path: Path) -> None:
        """Write it as safetensors."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES}
        save_file(tensors, path, metadata=_OF_ROWS if self.of_rows else None)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote.

        Raises:
            InputError: The file is damaged.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in _NAMES}
                return cls(**tensors, of_rows=file.metadata() == _OF_ROWS)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} is no reference of an adapter ({error}); register the adapter again") from None


def unknown_shares(rows: LabelledRows, unknown: int | None) -> NDArray[np.float32]:
    """For each row the tokens of all its sequences that the tokenizer does not know, as a share of the longest's.

    Args:
        unknown: The number of the tokenizer's unknown token; None: it knows every text.
    """
    if unknown is None:
        return np.zeros(len(rows), dtype=np.float32)
    counts = np.array([ids.count(unknown) for ids in rows.encoded.input_ids])
    starts = np.cumsum([0, *_sizes(rows)[:-1]])
    found: NDArray[np.float32] = (np.add.reduceat(counts, starts) / rows.lengths).astype(np.float32)
    return found


def _sizes(rows: LabelledRows) -> list[int]:
    """How many sequences each row has."""
    found: list[int] = rows.sizes_of(np.arange(len(rows))).tolist()
    return found
