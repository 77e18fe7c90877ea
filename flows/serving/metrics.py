"""What Prometheus reads at ``/metrics``. No label holds what a client sends, so there are as many series as now."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from beft.serving.batcher import BatchReport

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The server's counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "beft_requests",
            "Requests for answers, by protocol and HTTP status.",
            ("protocol", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "beft_request_seconds", "Time to answer a request.", ("protocol",), buckets=_SECONDS, registry=self.registry
        )
        self.rows = Counter("beft_rows", "Rows that were answered.", registry=self.registry)
        self.truncated = Counter("beft_rows_truncated", "Rows whose text was cut.", registry=self.registry)
        self.batches = Histogram("beft_batch_rows", "Rows of a batch.", buckets=_ROWS, registry=self.registry)
        self.batch_seconds = Histogram(
            "beft_batch_seconds", "Time to compute a batch.", buckets=_SECONDS, registry=self.registry
        )
        self.tokens = Counter("beft_tokens", "Tokens of all batches, without padding.", registry=self.registry)
        self.padded = Counter("beft_tokens_padded", "Tokens of all batches, with padding.", registry=self.registry)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when the metrics are."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def count_batch(self, report: BatchReport) -> None:
        """Count a batch."""
        self.batches.observe(report.rows)
        self.batch_seconds.observe(report.seconds)
        self.tokens.inc(report.tokens)
        self.padded.inc(report.padded)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
