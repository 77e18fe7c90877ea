"""Questions to any of the served adapters, and their answers: what stands between a protocol and the engines."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.errors import BeftError, InputError, RowError
from beft.inference.predictor import Answer, thresholds_of
from beft.problems.token_classification import TokenClassification
from beft.serving.batcher import Batcher, BatchReport
from beft.serving.canary import MAX_LENGTH, Canary, questions_of
from beft.serving.directory import Directory, Served
from beft.serving.engine import Engine
from beft.serving.served_adapter import EncodedRow, ServedAdapter


@dataclass(frozen=True)
class Question:
    """One row of a request.

    Attributes:
        adapter: The name of the adapter, as ``Directory.find`` takes it.
        version: A version or alias that is named apart.
        pair: The second text, for an adapter that reads pairs.
        choices: For an adapter that chooses among a row's own.
    """

    text: str
    adapter: str
    version: str | None = None
    pair: str | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RowAnswer:
    """The answer to one question.

    Attributes:
        served: Which adapter gave it.
        predicted: As ``beft.inference.predictor.Answer.rows`` describes.
        truncated: Whether the text was cut.
    """

    served: Served
    predicted: Mapping[str, Any]
    truncated: bool


@dataclass(frozen=True)
class PreparedRequest:
    """A request whose texts are tokens.

    Attributes:
        questions: Its rows.
        served: The adapter of each row.
        rows: Ready to be computed.
    """

    questions: Sequence[Question]
    served: Sequence[Served]
    rows: Sequence[EncodedRow]


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in the tables of an engine.

    Attributes:
        engine: The number of its engine.
        verified: Whether its canary was replayed; False where it has none.
    """

    engine: int
    adapter: ServedAdapter
    verified: bool


class Service:
    """Engines with their batchers, and the directory of what they serve.

    Args:
        engines: One a base.
        batch_tokens: Tokens of a batch, padding counted; None: what suits each device.
        on_batch: Called after each batch, in the thread of its batcher.

    Attributes:
        directory: The snapshot that new requests are answered by; it is replaced as a whole.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        batch_tokens: int | None = None,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self.engines = tuple(engines)
        self.batchers = tuple(Batcher(engine, batch_tokens=batch_tokens, on_batch=on_batch) for engine in engines)
        self.directory = Directory()

    def engine_of(self, adapter: Adapter) -> int:
        """The number of the engine whose base an adapter belongs to.

        Raises:
            InputError: None has it.
        """
        for number, engine in enumerate(self.engines):
            here = engine.compute.quantization
            if engine.reference.sha256 == adapter.base_sha256 and (adapter.quantization or here) == here:
                return number
        quantized = "" if adapter.quantization in (None, "none") else f", quantised as {adapter.quantization}"
        raise InputError(f"its base {adapter.base_id}{quantized} is not one of those that are served (--base)")

    def load(self, adapters: Sequence[Adapter], canaries: Sequence[Canary | None]) -> list[LoadedAdapter | InputError]:
        """Put adapters into their engines and replay their canaries, all of them in shared batches.

        Returns:
            For each adapter where it is, or why it is refused: it does not fit, answers its canary differently, or an
            unexpected error occurred.
        """
        found: list[LoadedAdapter | InputError] = []
        for adapter, canary in zip(adapters, canaries, strict=True):
            try:
                found.append(self._load(adapter, canary))
            except Exception as error:  # of any kind: the other adapters are served
                found.append(_refusal(error))
        # After the last one is loaded: while a batch runs, none can be.
        replays: dict[int, Future[list[Tensor]]] = {}
        for number, (adapter, loaded) in enumerate(zip(adapters, found, strict=True)):
            if isinstance(loaded, LoadedAdapter) and loaded.verified:
                try:
                    replays[number] = self._replay(adapter, loaded)
                except Exception as error:
                    found[number] = _refusal(error)
        for number, future in replays.items():
            replayed, canary = found[number], canaries[number]
            assert isinstance(replayed, LoadedAdapter) and canary is not None
            try:
                canary.check(future.result()[0], self.engines[replayed.engine].compute.precision)
            except Exception as error:
                found[number] = _refusal(error)
        return found

    def reserve(self, adapters: Sequence[Adapter]) -> None:
        """Make room for adapters at once; those that no engine takes are left out."""
        of_engine: dict[int, list[Adapter]] = {}
        for adapter in adapters:
            with suppress(InputError):
                of_engine.setdefault(self.engine_of(adapter), []).append(adapter)
        for number, like in of_engine.items():
            self.engines[number].reserve(like)

    def _replay(self, adapter: Adapter, loaded: LoadedAdapter) -> "Future[list[Tensor]]":
        row = questions_of(pairs=bool(adapter.pairs), choices=adapter.takes_choices)
        engine = self.engines[loaded.engine]
        rows = engine.encode(loaded.adapter, row.texts, row.pairs, row.choices, max_length=MAX_LENGTH)
        return self.batchers[loaded.engine].submit(rows)

    def _load(self, adapter: Adapter, canary: Canary | None) -> LoadedAdapter:
        number = self.engine_of(adapter)
        if canary is not None and canary.adapter_sha256 != adapter.sha256:
            raise InputError(f"its canary belongs to another adapter ({canary.adapter_sha256[:12]})")
        return LoadedAdapter(number, self.engines[number].load(adapter), canary is not None)

    def prepare(self, questions: Sequence[Question]) -> PreparedRequest:
        """Find the adapters of a request's rows and tokenize its texts.

        Raises:
            UnknownAdapterError: A row names an adapter that is not served.
            RowError: A row is not one that its adapter takes.
        """
        directory = self.directory  # one snapshot for the whole request
        served = [directory.find(question.adapter, question.version) for question in questions]
        groups: dict[Served, list[int]] = {}
        for number, one in enumerate(served):
            groups.setdefault(one, []).append(number)
        rows: dict[int, EncodedRow] = {}
        for one, numbers in groups.items():
            asked = [questions[number] for number in numbers]
            pairs, choices = (
                _column([row.pair for row in asked], numbers),
                _column([row.choices for row in asked], numbers),
            )
            try:
                encoded = self.engines[one.engine].encode(one.adapter, [row.text for row in asked], pairs, choices)
            except RowError as error:
                raise RowError(numbers[error.row], error.said) from None
            rows |= dict(zip(numbers, encoded, strict=True))
        return PreparedRequest(questions, served, [rows[number] for number in range(len(questions))])

    def submit(self, request: PreparedRequest, *, timeout: float = float("inf")) -> "list[Future[list[Tensor]]]":
        """Put a request into the queues of its engines; the outputs of the rows of each engine, by its number.

        Raises:
            ClosedError: The service is closing.
        """
        return [
            self.batchers[engine].submit(
                [row for row, one in zip(request.rows, request.served, strict=True) if one.engine == engine],
                timeout=timeout,
            )
            for engine in _engines_of(request)
        ]

    def answers(self, request: PreparedRequest, outputs: Sequence[Sequence[Tensor]]) -> list[RowAnswer]:
        """The answers to a request.

        Args:
            outputs: What the futures of ``submit`` gave.

        Raises:
            BeftError: An output is NaN or infinite.
        """
        of_engine = {engine: iter(found) for engine, found in zip(_engines_of(request), outputs, strict=True)}
        return [
            _answer(number, row, one, next(of_engine[one.engine]), request.questions[number])
            for number, (row, one) in enumerate(zip(request.rows, request.served, strict=True))
        ]

    def answer(self, questions: Sequence[Question], *, timeout: float = float("inf")) -> list[RowAnswer]:
        """Answer a request and wait for it."""
        request = self.prepare(questions)
        return self.answers(request, [future.result() for future in self.submit(request, timeout=timeout)])

    @property
    def waiting(self) -> int:
        """Rows in all queues."""
        return sum(batcher.waiting for batcher in self.batchers)

    @property
    def table_bytes(self) -> int:
        """Memory of the tables of all engines."""
        return sum(engine.table_bytes for engine in self.engines)

    def close(self) -> None:
        """Answer what waits, and give the bases back."""
        for batcher in self.batchers:
            batcher.close()
        for engine in self.engines:
            engine.close()


def _refusal(error: Exception) -> InputError:
    return error if isinstance(error, InputError) else InputError(f"{type(error).__name__}: {error}")


def _engines_of(request: PreparedRequest) -> list[int]:
    return sorted({one.engine for one in request.served})


def _column(values: Sequence[Any], numbers: Sequence[int]) -> list[Any] | None:
    """A column of rows, None where no row has it.

    Raises:
        RowError: Some rows have it and others do not.
    """
    if all(value is None for value in values):
        return None
    for number, value in zip(numbers, values, strict=True):
        if value is None:
            raise RowError(number, "lacks a second text or choices, which other rows for the same adapter have")
    return list(values)


def _answer(number: int, row: EncodedRow, served: Served, outputs: Tensor, question: Question) -> RowAnswer:
    adapter, problem_type = row.adapter, row.adapter.problem_type
    if not bool(outputs.isfinite().all()):
        raise BeftError(f"row {number}: the base gives NaN or infinite outputs; serve it with --precision fp32")
    if isinstance(problem_type, TokenClassification):
        spans = problem_type.spans(outputs, [row.words])
        [found] = Answer(adapter.labels, spans, 0, texts=[question.text]).rows()
        return RowAnswer(served, found, row.truncated)
    predicted = problem_type.predictions(outputs, torch.tensor([len(row.input_ids)]))
    assert not isinstance(predicted, list)  # nothing is generated here
    choices = None if question.choices is None else [question.choices]
    [found] = Answer(adapter.labels, predicted, 0, choices, thresholds_of(problem_type)).rows()
    return RowAnswer(served, found, row.truncated)
