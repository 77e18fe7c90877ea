"""What an adapter was made for: the features and lengths of its training rows, and what it answered on dev."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from beft.encoding.examples import AnyRows
from beft.encoding.tokenization import Encoded
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


@dataclass(frozen=True, eq=False)
class DriftReference:
    """What later traffic is compared with.

    Attributes:
        features: The base's own pooled features (mean) of training rows, without the adapter, fp16 [rows, hidden].
        lengths: Tokens of these rows.
        unknown: The share of the tokens of each that the tokenizer does not know.
        answers: The adapter's answers to dev rows: numbers of labels, or values; where a row can have several labels,
            1 or 0 for each [rows, labels]; where spans are answered, whether one has the label [rows, labels].
        confidence: The largest probability of each of them; of label sets the mean probability of what is answered of
            each label; of spans as ``span_confidence``; none of values.
    """

    features: NDArray[np.float16]
    lengths: NDArray[np.int32]
    unknown: NDArray[np.float32]
    answers: NDArray[np.float32]
    confidence: NDArray[np.float32]

    @classmethod
    def of(cls, predictor: Predictor, train: AnyRows, dev: AnyRows) -> Self:
        """The reference of an adapter.

        Args:
            train: Rows that it was trained on; the first are taken.
            dev: Rows that it was not trained on.
        """
        classifier, adapter = predictor.classifier, predictor.adapter
        encoded = classifier.examples(train, adapter.max_length).encoded
        encoded = encoded.take(np.flatnonzero(np.cumsum(encoded.lengths) <= _MAX_TOKENS)[:_MAX_ROWS])
        encoded = replace(encoded, positions=None)  # of texts, not of their words
        with predictor.without_adapter():
            features = extract_features(classifier, encoded, "pooled")
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
            encoded.lengths.astype(np.int32),
            unknown_shares(encoded, classifier.tokenizer.unk_token_id),
            answers.astype(np.float32),
            confidence.astype(np.float32),
        )

    def write(self, path: Path) -> None:
        """Write it as safetensors."""
        save_file({name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES}, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote.

        Raises:
            InputError: The file is damaged.
        """
        try:
            tensors = load_file(path)
            return cls(**{name: tensors[name] for name in _NAMES})
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path} is no reference of an adapter ({error}); register the adapter again") from None


def unknown_shares(encoded: Encoded, unknown: int | None) -> NDArray[np.float32]:
    """The share of the tokens of each text that the tokenizer does not know; 0 where it knows all."""
    if unknown is None:
        return np.zeros(len(encoded), dtype=np.float32)
    return np.array([ids.count(unknown) / len(ids) for ids in encoded.input_ids], dtype=np.float32)
