"""``python -m benchmarks.serving.server PORT ADAPTERS``: random adapters behind the application of ``beft serve``."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from beft.adapters.adapter import Adapter
from beft.models.device import resolve_compute, set_threads
from beft.models.reference import resolve_base
from beft.serving.directory import Directory, Served
from beft.serving.engine import Engine
from beft.serving.service import LoadedAdapter, Service
from beft.settings import BaseSettings
from benchmarks.common.work import SOURCE
from benchmarks.serving.random_adapters import random_adapters
from flows.serving.app import Server, create_app
from flows.serving.limits import Limits
from flows.serving.metrics import Metrics
from flows.serving.tokens import Tokens


def main(port: int, adapters: int, precision: str) -> None:
    """Serve until killed. Adapter N is called ``bench-N``."""
    compute = resolve_compute(BaseSettings(source=SOURCE, precision=precision))
    set_threads(compute)
    reference = resolve_base(SOURCE)
    metrics = Metrics()
    service = Service([Engine(reference, compute)], on_batch=metrics.count_batch)
    made = list(random_adapters(reference, adapters))
    service.reserve(made)
    served = []
    for number, loaded in enumerate(service.load(made, [None] * len(made))):
        assert isinstance(loaded, LoadedAdapter), loaded
        served.append(Served(f"bench-{number}", "1", ("champion",), loaded.adapter, 0, time.time(), False))
    service.directory = Directory(served, ("champion",))
    metrics.watch("beft_forwards", "Forward passes of the base.", lambda: service.engines[0].forwards)
    app = create_app(Server(service, limits=Limits(), tokens=Tokens(), metrics=metrics))
    _add_reload(app, service, made)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def _add_reload(app: FastAPI, service: Service, made: Sequence[Adapter]) -> None:
    """A route that loads an adapter anew and puts it in the place of another, as a moved alias does."""
    turn = threading.Lock()
    state = {"number": 0}

    @app.post("/bench/reload")
    def reload() -> dict[str, int]:
        with turn:
            number = state["number"] = (state["number"] + 1) % len(made)
            [loaded] = service.load([made[number]], [None])
            assert isinstance(loaded, LoadedAdapter), loaded
            others = [one for one in service.directory.served if one.name != f"bench-{number}"]
            fresh = Served(f"bench-{number}", "1", ("champion",), loaded.adapter, 0, time.time(), False)
            service.directory = Directory([*others, fresh], ("champion",))
            return {"number": number}

    @app.get("/bench/memory")
    def memory() -> dict[str, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {"rss": 4096 * pages, "tables": service.table_bytes}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "fp32")
