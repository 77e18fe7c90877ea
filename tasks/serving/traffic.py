"""What was answered, kept in Parquet files by day: what feedback, monitoring and promotion on traffic read.

A text is kept as the hash that rows of data have (``beft.datasets.normalisation.text_key``), so that rows which were
trained on can be told; the text itself only where it is asked for. The files are capped in size: the oldest go.
"""

import logging
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beft.errors import BeftError, InputError

log = logging.getLogger("beft.serving")

ANSWERS, FEEDBACK, FEATURES = "answers", "feedback", "features"
Role = Literal["answer", "shadow"]

_ANSWER = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("request_id", pa.string()),
        ("row", pa.int32()),
        ("role", pa.string()),
        ("name", pa.string()),
        ("version", pa.string()),
        ("sha256", pa.string()),
        ("predicted", pa.string()),
        ("value", pa.float64()),
        ("confidence", pa.float64()),
        ("probabilities", pa.list_(pa.float32())),
        ("tokens", pa.int32()),
        ("unknown_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("text_key", pa.string()),
        ("text", pa.string()),
        ("text_pair", pa.string()),
    ]
)
_FEEDBACK = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("request_id", pa.string()),
        ("row", pa.int32()),
        ("label", pa.string()),
        ("source", pa.string()),
    ]
)
_FEATURES = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("request_id", pa.string()),
        ("row", pa.int32()),
        ("name", pa.string()),
        ("features", pa.binary()),
    ]
)
SCHEMAS: Mapping[str, pa.Schema] = {ANSWERS: _ANSWER, FEEDBACK: _FEEDBACK, FEATURES: _FEATURES}
_ORDER = ("time", "request_id", "row")


@dataclass(frozen=True)
class AnswerRecord:
    """One answer to one row.

    Attributes:
        role: ``answer``: the client got it; ``shadow``: another version answered the same row, and nobody saw it.
        predicted: The label, the labels as a JSON list where a row can have several, the spans as such a list, the
            number of the choice, or the value.
        value: Of a regression.
        confidence: The largest probability; of several labels the mean probability of what is answered of each;
            of spans the mean of their scores, 1 without any.
        tokens: Of its longest sequence.
        unknown_tokens: Of all its sequences, how many the tokenizer does not know.
        text_key: The hash of the row, as rows of data have it.
        text: The text, where texts are kept.
    """

    time: datetime
    request_id: str
    row: int
    role: Role
    name: str
    version: str
    sha256: str
    predicted: str
    value: float | None
    confidence: float | None
    probabilities: Sequence[float] | None
    tokens: int
    unknown_tokens: int
    truncated: bool
    text_key: str
    text: str | None = None
    text_pair: str | None = None


@dataclass(frozen=True)
class FeedbackRecord:
    """The true label of a row, told later.

    Attributes:
        row: The number of the row in its request.
        label: The label, the labels as a JSON list where a row can have several, or a value as text.
        source: How it was selected, in the caller's words.
    """

    time: datetime
    request_id: str
    row: int
    label: str
    source: str = ""


@dataclass(frozen=True)
class FeatureRecord:
    """The base's own features of a row that was answered.

    Attributes:
        name: The registered model that answered it.
        features: fp16, little endian.
    """

    time: datetime
    request_id: str
    row: int
    name: str
    features: bytes


Kept = AnswerRecord | FeatureRecord


class TrafficLog:
    """Writes records in a thread of its own; a request never waits for the disk.

    Args:
        folder: Where the files are: ``answers/DAY/…parquet`` and ``feedback/DAY/…parquet``.
        max_bytes: Of all files of answers, and of those of features; feedback is never removed.
        flush_seconds: A record is on the disk after so many seconds at most.
        flush_rows: Or once so many wait.
        max_waiting: Records that wait while the disk does not take them; further ones are dropped and counted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 1_000_000_000,
        flush_seconds: float = 30.0,
        flush_rows: int = 5_000,
        max_waiting: int = 100_000,
    ) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.dropped = 0
        self._flush_rows, self._max_waiting = flush_rows, max_waiting
        self._waiting: list[Kept] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, args=(flush_seconds,), name="beft-traffic", daemon=True)
        self._thread.start()

    def add(self, records: Iterable[Kept]) -> None:
        """Keep some answers or features."""
        with self._changed:
            for record in records:
                if len(self._waiting) >= self._max_waiting:
                    self.dropped += 1
                else:
                    self._waiting.append(record)
            if len(self._waiting) >= self._flush_rows:
                self._changed.notify()

    def close(self) -> None:
        """Write what waits and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(30)

    def _run(self, flush_seconds: float) -> None:
        while True:
            with self._changed:
                if not self._closing:
                    self._changed.wait(flush_seconds)
                records, self._waiting = self._waiting, []
                closing = self._closing
            self._write(ANSWERS, [record for record in records if isinstance(record, AnswerRecord)])
            self._write(FEATURES, [record for record in records if isinstance(record, FeatureRecord)])
            if closing:
                return

    def _write(self, kind: str, records: Sequence[Kept]) -> None:
        """Write records of one kind; whatever fails is told, and the thread lives on."""
        if not records:
            return
        try:
            write_records(self.folder, kind, records)
        except Exception as error:
            with self._changed:
                self.dropped += len(records)
            log.warning("%d %s could not be kept in %s: %s", len(records), kind, self.folder, _reason(error))
            return
        try:
            remove_oldest(self.folder / kind, self.max_bytes)
        except Exception as error:
            log.warning("the oldest %s in %s could not be removed: %s", kind, self.folder, _reason(error))


def _reason(error: Exception) -> str:
    """What a line of the log says of an error, which may be one that nobody thought of."""
    known = isinstance(error, OSError) and error.strerror
    return str(known or f"{type(error).__name__}: {error}")


def write_records(folder: Path, kind: str, records: Sequence[Kept] | Sequence[FeedbackRecord]) -> Path:
    """Write records as one file of today, whole or not at all; its path."""
    now = datetime.now(UTC)
    day = folder / kind / now.strftime("%Y-%m-%d")
    day.mkdir(parents=True, exist_ok=True)
    path = day / f"{now:%H%M%S}-{uuid.uuid4().hex[:12]}.parquet"
    table = pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMAS[kind])
    temporary = path.with_suffix(".writing")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
    return path


def read_records(
    folder: Path,
    kind: str,
    *,
    since: datetime | None = None,
    columns: Sequence[str] | None = None,
    filters: pc.Expression | None = None,
) -> pa.Table:
    """The records in the order of their times.

    Args:
        since: Those of before are left out.
        columns: The only ones that are wanted; None: all.
        filters: What is true of the wanted records; the others do not take memory.

    Raises:
        BeftError: A file is damaged.
    """
    schema = SCHEMAS[kind]
    wanted = schema.names if columns is None else list(columns)
    read = [*wanted, *(name for name in _ORDER if name not in wanted)]
    if since is not None:
        later = pc.field("time") >= pa.scalar(since, schema.field("time").type)
        filters = later if filters is None else filters & later
    parts = []
    for path in sorted((folder / kind).glob("*/*.parquet")):
        if since is not None and path.parent.name < since.astimezone(UTC).strftime("%Y-%m-%d"):
            continue
        try:
            parts.append(pq.read_table(path, schema=schema, columns=read, filters=filters))
        except (pa.ArrowInvalid, OSError) as error:
            raise BeftError(f"{path} cannot be read ({error}); remove it, the other files are whole") from None
    table = pa.concat_tables(parts) if parts else schema.empty_table()
    return table.sort_by([(name, "ascending") for name in _ORDER]).select(wanted)


def find_answer(folder: Path, request_id: str) -> list[dict[str, Any]]:
    """The records of one request, in the order of its rows.

    Raises:
        InputError: No answer of this id is kept.
        BeftError: A file is damaged.
    """
    found: list[dict[str, Any]] = read_records(
        folder, ANSWERS, filters=pc.field("request_id") == request_id
    ).to_pylist()
    if not found:
        raise InputError(
            f"no answer to a request {request_id!r} is kept in {folder}; name a request that a server of this project "
            "answered while it kept traffic"
        )
    return sorted(found, key=lambda record: (record["row"], record["role"]))


def remove_oldest(folder: Path, max_bytes: int) -> None:
    """Remove the oldest files until the others take so many bytes at most; the newest stays in any case."""
    files = sorted(folder.glob("*/*.parquet"))
    sizes = {path: path.stat().st_size for path in files}
    total = sum(sizes.values())
    for path in files[:-1]:
        if total <= max_bytes:
            return
        path.unlink(missing_ok=True)
        total -= sizes[path]
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def now() -> datetime:
    """The time, as records have it."""
    return datetime.now(UTC)
