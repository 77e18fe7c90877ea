"""Predict with a saved adapter: find its base, check it, attach the adapter, answer in the order of the texts.

Needs torch, transformers, tokenizers, safetensors, pydantic, PyYAML and the base; nothing of the training.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.adapters.checks import check_contents
from beft.encoding.examples import Predictions
from beft.errors import BeftError, InputError, RowError
from beft.inference.generation import generate_answers
from beft.inference.predictions import predict_rows, sequence_outputs
from beft.inference.questions import Questions, check_questions
from beft.limits import usable_cores
from beft.metrics.label_sets import SET_FROM, probabilities_from
from beft.metrics.spans import Span
from beft.models.base import load_classifier
from beft.models.device import Compute, resolve_compute
from beft.models.reference import BaseReference, resolve_base
from beft.models.tokenizer_loading import check_token_ids
from beft.names import known_name
from beft.problems.language_model import LanguageModeling
from beft.problems.multi_label import MultiLabel
from beft.problems.problem_type import ProblemType
from beft.settings import BaseSettings


@dataclass(frozen=True)
class Answer:
    """The answers for a list of texts, in its order.

    Attributes:
        labels: Names of the classes; none where there are none.
        predicted: Probabilities [rows, labels or choices], values [rows], or texts; of an adapter that gives a row
            several labels, the score of each, which is given from 0.5 on; of one that tags words, the spans of each
            text.
        truncated: How many texts were longer than the adapter's maximal length, and so were cut.
        choices: The choices of each row, where rows have choices.
        thresholds: Where a row can have several labels, the probability from which each is given; else None.
        texts: The texts, where spans of them are predicted; else None.
    """

    labels: tuple[str, ...]
    predicted: Predictions
    truncated: int
    choices: Sequence[Sequence[str]] | None = None
    thresholds: tuple[float, ...] | None = None
    texts: Sequence[str] | None = None

    @property
    def probabilities(self) -> Tensor:
        """Of every label or choice, fp32, [rows, labels or choices].

        Raises:
            InputError: The adapter predicts values, texts or spans.
        """
        if isinstance(self.predicted, list) or self.predicted.ndim != 2:
            raise InputError("this adapter predicts values, texts or spans, which have no probabilities; read rows()")
        return torch.from_numpy(self._probabilities(self.predicted)).float()

    def _probabilities(self, predicted: np.ndarray) -> np.ndarray:
        return predicted if self.thresholds is None else probabilities_from(predicted, np.array(self.thresholds))

    def rows(self) -> list[dict[str, Any]]:
        """One record a text.

        Classification: ``label``, and ``probabilities`` by label. Multi-label classification: ``labels`` (a list of
        those whose probability reaches their threshold), and ``probabilities`` by label. Token classification:
        ``spans``, a list of which each has ``start`` and ``end`` (characters from 0; the end is behind the last one),
        ``label``, ``text`` and ``score`` (the mean probability of its words' tags). Choices: ``choice``, its
        ``index``, and the ``probabilities`` of all. Regression: ``value``. Generation: ``answer``.
        """
        if self.texts is not None:
            rows = zip(self.texts, self.predicted, strict=True)
            return [{"spans": [self._span(text, span) for span in spans]} for text, spans in rows]
        if isinstance(self.predicted, list):
            return [{"answer": text} for text in self.predicted]
        if self.predicted.ndim == 1:
            return [{"value": value} for value in self.predicted.tolist()]
        if self.thresholds is not None:
            return [
                {
                    "labels": [label for label, score in zip(self.labels, scores, strict=True) if score >= SET_FROM],
                    "probabilities": dict(zip(self.labels, row, strict=True)),
                }
                for scores, row in zip(
                    self.predicted.tolist(), self._probabilities(self.predicted).tolist(), strict=True
                )
            ]
        best = self.predicted.argmax(1).tolist() if len(self.predicted) else []
        if self.choices is None:
            return [
                {"label": self.labels[at], "probabilities": dict(zip(self.labels, row, strict=True))}
                for at, row in zip(best, self.predicted.tolist(), strict=True)
            ]
        return [
            {"choice": choices[at], "index": at, "probabilities": row[: len(choices)]}
            for at, row, choices in zip(best, self.predicted.tolist(), self.choices, strict=True)
        ]

    def _span(self, text: str, span: Span) -> dict[str, Any]:
        start, end, label, score = span
        return {"start": start, "end": end, "label": self.labels[label], "text": text[start:end], "score": score}


_LOADING = threading.Lock()
"""Held while a base is loaded: transformers sets types and devices of the whole process for it."""


class Predictor:
    """A saved adapter on its base, ready to predict, from any thread. It computes in fp32 unless told otherwise.

    A base that was quantised for the training is quantised here too: the adapter has learnt to make up for that.

    Args:
        folder: The adapter's folder.
        base: Where the base is, as in ``base.source``; None: found by the portable id that the adapter holds. Its hash
            is checked either way.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16``, ``fp64``, or ``auto`` as in training.
        batch_tokens: Tokens computed at once, padding counted; None: what suits the device.

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
        batch_tokens: int | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch_tokens is {batch_tokens}; it must be at least 1")
        self.batch_tokens = batch_tokens
        self._lock = threading.Lock()
        self.adapter = Adapter.load(Path(folder))
        self.compute = replace(named_compute(device, precision), quantization=self.adapter.quantization or "none")
        reference = find_base(self.adapter, base)
        with _LOADING:
            self.classifier = load_classifier(
                reference,
                self.adapter.labels,
                compute=self.compute,
                pooling=self.adapter.pooling,
                problem_type=self.adapter.problem_type,
            )
        self.classifier.threads = self.compute.threads if self.compute.threads < torch.get_num_threads() else None
        self._bank = self.adapter.bank(self.classifier).attach()

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Within the context, the base computes as it is."""
        with self._lock:
            self._bank.detach()
            try:
                yield
            finally:
                self._bank.attach()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.adapter.labels

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        choices: Sequence[Sequence[str]] | None = None,
    ) -> list[dict[str, Any]]:
        """What is predicted of each text, in their order; see ``Answer.rows``.

        Args:
            pairs: The second text of each, for an adapter that was trained on two; such an adapter takes nothing else.
            choices: The choices of each, for an adapter that chooses among a row's own.

        Raises:
            InputError: Something among the texts is no text, or the pairs or choices are not as many, or are missing,
                or the adapter does not take them.
        """
        return self.answer(texts, pairs, choices).rows()

    def answer(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        choices: Sequence[Sequence[str]] | None = None,
        *,
        first_row: int = 0,
    ) -> Answer:
        """The same as arrays, with the number of texts that were cut.

        Args:
            first_row: The number of the first text in messages, where it is one of many parts.

        Raises:
            InputError: Something among the texts is no text, or the pairs or choices are not as many, or are missing,
                or the adapter does not take them.
        """
        try:
            return self._checked(texts, pairs, choices, first_row)
        except RowError as error:
            raise RowError(first_row + error.row, error.said) from None

    def _checked(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        choices: Sequence[Sequence[str]] | None,
        first_row: int,
    ) -> Answer:
        question = check_questions(self.adapter, texts, pairs, choices)
        if not question.texts:
            empty = np.empty((0, len(self.labels)) if self.labels else 0)
            problem_type = self.adapter.problem_type
            nothing: Predictions = [] if problem_type.generates or problem_type.reads_words else empty
            no_texts: list[str] | None = [] if problem_type.reads_words else None
            return Answer(self.labels, nothing, 0, thresholds=thresholds_of(problem_type), texts=no_texts)
        # One call at a time: some models keep state while they compute (rotary tables of the longest text so far,
        # weights that are read from disk for each use), and a base is computed by all threads of torch anyway.
        with self._lock:
            return self._answer(question, first_row)

    def _answer(self, question: Questions, first_row: int) -> Answer:
        problem_type, batch_tokens, choices = self.adapter.problem_type, self.batch_tokens, question.choices
        if isinstance(problem_type, LanguageModeling) and problem_type.generates:
            prompts = problem_type.to_continue(self.classifier.tokenizer, question, self.adapter.max_length)
            check_token_ids(self.classifier.tokenizer, self.classifier.model, prompts)
            [found] = generate_answers(
                self.classifier, prompts, max_new_tokens=problem_type.new_tokens, batch_tokens=batch_tokens
            )
            _check_none_lost([answer is None for answer in found], self.compute, first_row)
            return Answer(self.labels, [answer for answer in found if answer is not None], prompts.truncated)
        rows = self.classifier.examples(question, self.adapter.max_length)
        if problem_type.reads_words:
            [outputs] = sequence_outputs(self.classifier, rows.encoded, batch_tokens=batch_tokens)
            of_rows = outputs.split(rows.output_sizes.tolist())
            _check_none_lost([not bool(of_row.isfinite().all()) for of_row in of_rows], self.compute, first_row)
            return Answer(self.labels, problem_type.predictions_of(outputs, rows), 0, texts=list(question.texts))
        predicted = predict_rows(self.classifier, rows, batch_tokens=batch_tokens)
        assert not isinstance(predicted, list)  # nothing is generated here
        _check_none_lost([not np.isfinite(of_row).all() for of_row in predicted], self.compute, first_row)
        return Answer(self.labels, predicted, rows.encoded.truncated, choices, thresholds_of(problem_type))


def thresholds_of(problem_type: ProblemType) -> tuple[float, ...] | None:
    """The probability from which each label is given, where a row can have several; else None."""
    return problem_type.thresholds if isinstance(problem_type, MultiLabel) else None


def named_compute(device: str, precision: str) -> Compute:
    """Device and precision by their names, resolved for this machine, with the threads of this process.

    Raises:
        InputError: A name is unknown, or the device is not here.
    """
    known_name(device, get_args(BaseSettings.model_fields["device"].annotation), "device")
    known_name(precision, get_args(BaseSettings.model_fields["precision"].annotation), "precision")
    settings = {"device": device, "precision": precision, "threads": min(torch.get_num_threads(), usable_cores(), 256)}
    return resolve_compute(BaseSettings.model_validate(settings))


def find_base(adapter: Adapter, base: Path | str | None = None) -> BaseReference:
    """The base of an adapter on this machine.

    Args:
        base: Where it is, as in ``base.source``; None: it is found by its portable id.

    Raises:
        InputError: It cannot be reached, must be named, or is another base than the adapter's.
    """
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
    check_contents(adapter, reference)
    return reference


def _check_none_lost(lost: Sequence[bool], compute: Compute, first_row: int) -> None:
    """Refuse what is NaN or infinite: it would pass for the first label, or for an empty answer."""
    rows = np.flatnonzero(lost)
    if len(rows):
        others = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise BeftError(
            f"row {first_row + rows[0]}{others}: the base gives NaN or infinite outputs in {compute.precision} on "
            f"{compute.device}; use precision fp32, or check the weights of the base"
        )
