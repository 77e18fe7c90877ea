"""``beft serve``: load the base, load every adapter that the registry names, answer until Ctrl-C."""

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import typer
import uvicorn

from beft.inference.predictor import named_compute
from beft.limits import usable_cores
from beft.models.device import set_threads
from beft.models.reference import resolve_base
from beft.serving.engine import Engine
from beft.serving.service import Service
from flows.servers.mlflow_server import is_loopback, network_location, require_free
from flows.serving.app import LOOPBACK_HOSTS, Server, create_app
from flows.serving.limits import Limits
from flows.serving.metrics import Metrics
from flows.serving.recorder import Recorder
from flows.serving.tokens import Tokens
from flows.serving.updater import Updater
from tasks.environment import configure_environment
from tasks.registry.aliases import CHAMPION
from tasks.serving.registry_source import RegistrySource
from tasks.serving.traffic import TrafficLog
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, require_registry

POLL_SECONDS = 2.0
_DRAIN_SECONDS = 30.0
_LOOK_AGAIN = 0.05


@dataclass(frozen=True)
class ServeRequest:
    """What is served, where, and how it is computed.

    Attributes:
        models: Patterns of names of registered models; empty: every model with the settings' prefix.
        aliases: Which versions of them, by rank; empty: the champion.
        bases: Where the bases are, as in ``base.source``; empty: the base of the settings.
        device: As in ``base.device``.
        precision: As in ``base.precision``.
        threads: CPU threads; None: every core.
        host: Where to listen.
        port: Where to listen.
        hosts: Host names that are accepted beside those of this machine; empty, on other addresses: any.
        certificate: Of TLS, and its key.
        limits: How much is taken at once.
        poll_seconds: Seconds between two looks at the registry.
        traffic: The folder where answers are kept; None: nowhere.
        traffic_bytes: Of these files at most.
        keep_texts: Whether texts are kept, beside their hashes.
        shadow: The share of the requests that the challenger answers as well.
        features: The share of the requests whose base features are kept, for monitoring.
    """

    models: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    device: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()
    certificate: tuple[Path, Path] | None = None
    limits: Limits = field(default_factory=Limits)
    poll_seconds: float = POLL_SECONDS
    traffic: Path | None = None
    traffic_bytes: int = 1_000_000_000
    keep_texts: bool = False
    shadow: float = 0.0
    features: float = 0.0


def serve(settings: PipelineSettings, root: Path, request: ServeRequest) -> None:
    """Serve the registry's adapters until Ctrl-C or SIGTERM; what was accepted is answered before it ends.

    Raises:
        InputError: Nothing is registered, a base cannot be found, the port is taken, or a token is missing.
        BeftError: MLflow cannot be reached.
    """
    tokens = Tokens.for_host(request.host)
    require_free(request.host, request.port, "beft serve", "serve --port …")
    configure_environment(root)
    logging.getLogger("beft").setLevel(logging.INFO)
    require_registry(settings, root)
    connection = connect(settings, root)
    source = RegistrySource(
        connection, request.models or (f"{settings.tracking.model_prefix}-*",), request.aliases or (CHAMPION,)
    )
    metrics = Metrics()
    service = Service(
        engines(settings, request), batch_tokens=request.limits.batch_tokens, on_batch=metrics.count_batch
    )
    updater = Updater(service, source)
    began = time.perf_counter()
    report = updater.update(progress=_progress)
    names = ", ".join(report.loaded[:5]) + (" …" if len(report.loaded) > 5 else "")
    typer.echo(f"{len(report.loaded)} adapters in {time.perf_counter() - began:.1f} s: {names or 'none yet'}")
    if report.refused:
        typer.echo(f"{len(report.refused)} cannot be served; GET /v1/adapters says why")
    recorder = None
    if request.traffic is not None:
        traffic = TrafficLog(request.traffic, max_bytes=request.traffic_bytes)
        recorder = Recorder(
            service, traffic, shadow=request.shadow, features=request.features, keep_texts=request.keep_texts
        )
        metrics.watch("beft_traffic_dropped", "Answers that could not be kept.", lambda: traffic.dropped)
    server = Server(service, limits=request.limits, tokens=tokens, metrics=metrics, updater=updater, recorder=recorder)
    with updater.running(request.poll_seconds):
        try:
            run(server, request)
        finally:
            server.close()


def engines(settings: PipelineSettings, request: ServeRequest) -> list[Engine]:
    """An engine for each base, quantised as the settings say; the cost is told before."""
    compute = replace(
        named_compute(request.device, request.precision),
        threads=request.threads or min(usable_cores(), 256),
        quantization=settings.base.quantization,
    )
    set_threads(compute)
    found = []
    for base in request.bases or (settings.base.source,):
        reference = resolve_base(base)
        typer.echo(f"loading {reference.portable_id} in {compute.precision} on {compute.device}")
        found.append(Engine(reference, compute))
    return found


def run(server: Server, request: ServeRequest) -> None:
    """Listen until a signal, then answer what was accepted."""
    hosts = (*LOOPBACK_HOSTS, *request.hosts) if is_loopback(request.host) or request.hosts else None
    certificate, key = request.certificate or (None, None)
    config = uvicorn.Config(
        create_app(server, hosts=hosts),
        host=request.host,
        port=request.port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=30,
        ssl_certfile=None if certificate is None else str(certificate),
        ssl_keyfile=None if key is None else str(key),
        server_header=False,
    )
    listener = _Listener(config, server)
    scheme = "http" if certificate is None else "https"
    typer.echo(f"{scheme}://{network_location(request.host, request.port)} answers; /docs describes it; Ctrl-C stops")
    listener.run()
    typer.echo("stopped")


class _Listener(uvicorn.Server):
    """uvicorn, which upon the first signal refuses what comes (503), answers what it has, and only then closes."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._admission = server.admission

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain upon the first signal, stop at once upon the second."""
        if self._admission.draining:
            super().handle_exit(sig, frame)
            return
        self._admission.draining = True
        typer.echo("stopping: what was accepted is answered; again to stop at once", err=True)
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._admission.requests and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
        self.should_exit = True


def _progress(done: int, of: int) -> None:
    if of > 64:
        typer.echo(f"  {done} of {of} adapters", err=True)
