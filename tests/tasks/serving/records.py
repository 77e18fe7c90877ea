"""Records of answers for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.serving.traffic import AnswerRecord

START = datetime(2026, 11, 28, 12, tzinfo=UTC)
SHA256 = "a" * 64


def answer(number: int = 0, **values: Any) -> AnswerRecord:
    """The answer to a request of one row."""
    usual: dict[str, Any] = {
        "time": START + timedelta(seconds=number),
        "request_id": f"request-{number}",
        "row": 0,
        "role": "answer",
        "name": "beft-films",
        "version": "1",
        "sha256": SHA256,
        "predicted": "good",
        "value": None,
        "confidence": 0.75,
        "probabilities": [0.25, 0.75],
        "tokens": 5,
        "unknown_tokens": 0,
        "truncated": False,
        "text_key": f"{number:020x}",
    }
    return AnswerRecord(**{**usual, **values})
