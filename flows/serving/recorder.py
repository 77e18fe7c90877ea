"""What is kept of answers: for feedback, monitoring and tracing; and what a challenger would have answered."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from beft.datasets.normalisation import text_key
from beft.errors import BeftError
from beft.metrics.label_sets import set_confidence
from beft.metrics.spans import span_confidence
from beft.serving.directory import UnknownAdapterError
from beft.serving.service import PreparedRequest, Question, RowAnswer, Service
from tasks.registry.aliases import CHALLENGER
from tasks.serving.traffic import AnswerRecord, FeatureRecord, Role, TrafficLog, now

log = logging.getLogger("beft.serving")

_MAX_SHADOW_ROWS = 256
"""Rows that wait: with more, the server has no time for answers that nobody gets."""


class Recorder:
    """Keeps answers, and has a share of them answered by the challenger as well.

    Args:
        shadow: The share of the requests whose rows the challenger of the same model answers too, in the same batches.
        keep_texts: Whether texts are kept, beside their hashes.
        features: The share of the requests whose rows the base itself answers with its features, in the same batches.
    """

    def __init__(
        self,
        service: Service,
        traffic: TrafficLog,
        *,
        shadow: float = 0.0,
        features: float = 0.0,
        keep_texts: bool = False,
    ) -> None:
        self.service, self.traffic = service, traffic
        self.shadow, self.features, self.keep_texts = shadow, features, keep_texts

    def record(
        self, request_id: str, request: PreparedRequest, answers: Sequence[RowAnswer], role: Role = "answer"
    ) -> None:
        """Keep the answers to a request.

        Args:
            role: ``shadow`` where nobody gets them.
        """
        self.traffic.add(self._records(request_id, request, answers, role, range(len(answers))))

    def observe(self, request_id: str, request: PreparedRequest) -> None:
        """Put the rows of a request into the queue once more, for challengers and features; what comes of it is kept.

        Which requests are chosen follows from their ids, evenly.
        """
        if self.service.waiting > _MAX_SHADOW_ROWS:
            return
        if _is_chosen(f"shadow {request_id}", self.shadow):
            self._ask_challengers(request_id, request)
        if _is_chosen(f"features {request_id}", self.features):
            self._ask_base(request_id, request)

    def _ask_base(self, request_id: str, request: PreparedRequest) -> None:
        for number, (row, served) in enumerate(zip(request.rows, request.served, strict=True)):
            base = replace(row, adapter=self.service.engines[served.engine].features())
            try:
                future = self.service.batchers[served.engine].submit([base])
            except BeftError:
                return  # the server is stopping
            future.add_done_callback(partial(self._described, request_id, number, served.name))

    def _described(self, request_id: str, number: int, name: str, done: "Future[list[Tensor]]") -> None:
        if done.cancelled() or done.exception():
            return
        features = done.result()[0].mean(0).numpy().astype("<f2").tobytes()
        self.traffic.add([FeatureRecord(now(), request_id, number, name, features)])

    def _ask_challengers(self, request_id: str, request: PreparedRequest) -> None:
        numbers, questions = [], []
        for number, (question, served) in enumerate(zip(request.questions, request.served, strict=True)):
            if CHALLENGER in served.aliases:
                continue
            numbers.append(number)
            questions.append(Question(question.text, served.name, CHALLENGER, question.pair, question.choices))
        rows: dict[int, Question] = {}
        for number, question in zip(numbers, questions, strict=True):
            try:
                self.service.directory.find(question.adapter, question.version)
            except UnknownAdapterError:
                continue  # this model has no challenger here
            rows[number] = question
        if not rows:
            return
        try:
            shadowed = self.service.prepare(list(rows.values()))
            futures = self.service.submit(shadowed)
        except BeftError as error:
            log.warning("the challenger cannot answer: %s", error)
            return
        waiting = [len(futures)]
        for future in futures:
            future.add_done_callback(partial(self._answered, request_id, shadowed, list(rows), futures, waiting))

    def close(self) -> None:
        """Write what waits."""
        self.traffic.close()

    def _answered(
        self,
        request_id: str,
        request: PreparedRequest,
        numbers: Sequence[int],
        futures: Sequence["Future[list[Tensor]]"],
        waiting: list[int],
        done: "Future[list[Tensor]]",
    ) -> None:
        waiting[0] -= 1
        if waiting[0] or any(future.cancelled() or future.exception() for future in futures):
            return
        answers = self.service.answers(request, [future.result() for future in futures])
        self.traffic.add(self._records(request_id, request, answers, "shadow", numbers))

    def _records(
        self,
        request_id: str,
        request: PreparedRequest,
        answers: Sequence[RowAnswer],
        role: Role,
        numbers: Sequence[int],
    ) -> list[AnswerRecord]:
        time = now()
        found = []
        for number, question, row, answer in zip(numbers, request.questions, request.rows, answers, strict=True):
            predicted, served = answer.predicted, answer.served
            probabilities = predicted.get("probabilities")
            values = list(probabilities.values()) if isinstance(probabilities, dict) else probabilities
            unknown = self.service.engines[served.engine].classifier.tokenizer.unk_token_id
            told = predicted.get("label", predicted.get("index", predicted.get("value")))
            confidence = max(values) if values else None
            if isinstance(probabilities, dict) and "labels" in predicted:
                told = json.dumps(predicted["labels"], ensure_ascii=False)
                given = np.array([label in predicted["labels"] for label in probabilities])
                confidence = float(set_confidence(np.array(values), given))
            if "spans" in predicted:
                parts = [{name: span[name] for name in ("start", "end", "label")} for span in predicted["spans"]]
                told = json.dumps(parts, ensure_ascii=False)
                confidence = span_confidence([span["score"] for span in predicted["spans"]])
            found.append(
                AnswerRecord(
                    time=time,
                    request_id=request_id,
                    row=number,
                    role=role,
                    name=served.name,
                    version=served.version,
                    sha256=served.adapter.sha256,
                    predicted=str(told),
                    value=predicted.get("value"),
                    confidence=confidence,
                    probabilities=values,
                    tokens=row.length,
                    unknown_tokens=sum(ids.count(unknown) for ids in row.input_ids) if unknown is not None else 0,
                    truncated=answer.truncated,
                    text_key=text_key(question.text, question.pair, question.choices or ()),
                    text=question.text if self.keep_texts else None,
                    text_pair=question.pair if self.keep_texts else None,
                )
            )
        return found


def _is_chosen(text: str, share: float) -> bool:
    return share > 0 and int(text_key(text)[:8], 16) < share * 16**8
