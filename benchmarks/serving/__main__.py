"""Measure serving: `make bench-serving`. Writes benchmarks/serving/results.json and README.md; about 25 minutes.

Everything listens on the loopback only and ends with the measurement. `--only PART` measures one part again and keeps
the others.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from mlflow.models import Model

from beft.adapters.adapter import Adapter
from beft.datasets.prepared import load_split
from beft.files import read_json, write_json, write_text
from beft.models.device import resolve_compute, set_threads
from beft.models.machine import load_average
from beft.models.reference import resolve_base
from beft.settings import BaseSettings, SplitSettings
from benchmarks.common import machine
from benchmarks.common.prepared import prepared_data
from benchmarks.common.served import canary_of, register_adapter
from benchmarks.common.work import SOURCE
from benchmarks.serving.client import Load
from benchmarks.serving.in_process import against_peft, largest_difference, memory
from benchmarks.serving.processes import ask, counters, free_port, get, server, start_clients
from benchmarks.serving.random_adapters import random_adapters
from benchmarks.serving.table import table
from tasks.registry.package import save_model
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect

HERE = Path(__file__).parent
MIXES = ("identical", "distinct", "uniform", "skewed")
PARTS = ("difference", "memory", "peft", "mixes", "mlflow", "registry", "soak")
log = logging.getLogger("beft.bench")


def own_server(port: int, adapters: int) -> list[str]:
    """The command of a server of random adapters."""
    return [sys.executable, "-m", "benchmarks.serving.server", str(port), str(adapters)]


def mixes(options: argparse.Namespace, texts: str) -> dict[str, Any]:
    """Answers a second of the four mixes, in turns; then the latencies at half of the greatest rate."""
    port = free_port()
    found: dict[str, list[float]] = {mix: [] for mix in MIXES}
    with server(own_server(port, options.adapters), port, health="/ping") as process:
        load = Load(port, "identical", options.adapters, options.connections, options.seconds, texts)
        processors = []
        for repetition in range(options.repetitions):
            for mix in MIXES:
                began, spent = time.perf_counter(), _processor_seconds(process.pid)
                before = counters(port)
                seen = ask(replace(load, mix=mix, seed=repetition))
                after = counters(port)
                batches = after["beft_batch_rows_count"] - before["beft_batch_rows_count"]
                assert after["beft_forwards"] - before["beft_forwards"] == batches  # one forward pass a batch
                assert not seen["failures"], seen["first_failure"]
                found[mix].append(seen["answers"] / seen["seconds"])
                served = _processor_seconds(process.pid) - spent
                processors.append(seen["processor_seconds"] / (served + seen["processor_seconds"]))
                log.info("%s: %.0f answers/s (%.0f s)", mix, found[mix][-1], time.perf_counter() - began)
        after = counters(port)
        batch = after["beft_batch_seconds_sum"] / after["beft_batch_seconds_count"]
        greatest = median(found["distinct"])
        seen = ask(replace(load, mix="distinct", rate=greatest / 2, seconds=2 * options.seconds))
        latencies = np.array(seen["latencies"]) / 1000
    return {
        "adapters": options.adapters,
        "connections": options.connections,
        "rates": found,
        "clients_share": median(processors),
        "rows_a_batch": after["beft_batch_rows_sum"] / after["beft_batch_rows_count"],
        "batch_seconds": batch,
        "half": {
            "rate": greatest / 2,
            "failures": seen["failures"],
            "p50": float(np.quantile(latencies, 0.5)),
            "p99": float(np.quantile(latencies, 0.99)),
        },
    }


def against_mlflow(options: argparse.Namespace, texts: str) -> dict[str, Any]:
    """Answers a second of MLflow's server with one model, and of beft's with many adapters, in turns."""
    found: dict[str, Any] = {"beft": [], "mlflow": []}
    with tempfile.TemporaryDirectory(prefix="beft-bench-") as name:
        folder, base = Path(name), resolve_base(SOURCE)
        [adapter] = random_adapters(base, 1)
        adapter.save(folder / "adapter")
        save_model(
            folder / "model",
            folder / "adapter",
            Adapter.load(folder / "adapter"),
            Model(),
            base=base.folder,
            pairs=False,
            seen=[],
            metadata={},
        )
        theirs, ours = free_port(), free_port()
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder / "model")]
        command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(theirs), "--workers", "1"]
        for _ in range(options.repetitions):
            for side, port, start, health in (
                ("mlflow", theirs, command, "/ping"),
                ("beft", ours, own_server(ours, options.adapters), "/ping"),
            ):
                with server(start, port, health=health):
                    adapters = options.adapters if side == "beft" else 0
                    load = Load(port, "identical", adapters, options.connections, options.seconds, texts)
                    if side == "beft":
                        load = replace(load, mix="distinct")
                    seen = ask(load)
                    assert not seen["failures"], seen["first_failure"]
                    found[side].append(seen["answers"] / seen["seconds"])
                    log.info("%s: %.1f answers/s", side, found[side][-1])
    return found


def start_and_alias(options: argparse.Namespace, texts: str) -> dict[str, Any]:
    """Seconds to readiness with many registered adapters, and from a moved alias until the server names its version."""
    with tempfile.TemporaryDirectory(prefix="beft-bench-") as name:
        folder, base = Path(name), resolve_base(SOURCE)
        connection = connect(PipelineSettings(), folder)
        few = list(random_adapters(base, 50))
        for number, adapter in enumerate(few):
            adapter.save(folder / "adapters" / str(number))
        canaries = [canary_of(folder / "adapters" / str(number), base.folder) for number in range(len(few))]
        for number in range(options.adapters):
            one = number % len(few)
            register_adapter(connection, f"beft-{number}", folder / "adapters" / str(one), canary=canaries[one])
            if number % 100 == 99:
                log.info("registered %d adapters", number + 1)
        register_adapter(connection, "beft-0", folder / "adapters" / "1", canary=canaries[1], alias=None)
        write_text(folder / "params.yaml", f"base:\n  source: {SOURCE}\n")
        port = free_port()
        command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(port)]
        began = time.perf_counter()
        with server(command, port, health="/ping", cwd=folder):
            started = time.perf_counter() - began
            served = len(get(port, "/v1/adapters")["adapters"])
            assert served == options.adapters, served
            moves = []
            for version in ("2", "1", "2"):
                began = time.perf_counter()
                connection.client.set_registered_model_alias("beft-0", "champion", version)
                while get(port, "/v2/models/beft-0")["parameters"]["version"] != version:
                    time.sleep(0.02)
                moves.append(time.perf_counter() - began)
    return {"adapters": options.adapters, "start": started, "moves": moves}


def soak(options: argparse.Namespace, texts: str) -> dict[str, Any]:
    """Load with a reload a second: failures, and the memory of the server over time."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="beft-bench-") as folder,
        server(own_server(port, options.adapters), port, health="/ping"),
    ):
        load = Load(port, "distinct", options.adapters, options.connections, options.soak, texts)
        printed = Path(folder) / "clients.json"
        clients = start_clients(load, printed)
        began, sizes, reloads = time.perf_counter(), [], 0
        while clients.poll() is None:
            get(port, "/bench/reload", post=True)
            reloads += 1
            sizes.append((time.perf_counter() - began, get(port, "/bench/memory")))
            time.sleep(max(0.0, reloads - (time.perf_counter() - began)))
        seen = json.loads(printed.read_text())
    third = len(sizes) // 3
    first, last = ([size["rss"] for _, size in part] for part in (sizes[third : 2 * third], sizes[2 * third :]))
    return {
        "seconds": options.soak,
        "reloads": reloads,
        "answers": seen["answers"],
        "failures": seen["failures"],
        "first_failure": seen["first_failure"],
        "memory_second_third": median(first),
        "memory_last_third": median(last),
        "tables_first": sizes[0][1]["tables"],
        "tables_last": sizes[-1][1]["tables"],
    }


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--soak", type=float, default=180.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compute = resolve_compute(BaseSettings(source=SOURCE, precision="fp32"))
    set_threads(compute)
    base = resolve_base(SOURCE)
    with prepared_data("rotten_tomatoes", "low", SplitSettings()) as prepared:
        rows = [text.replace("\n", " ") for text in load_split(prepared, "test").texts]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(rows))
        file.flush()
        parts: dict[str, Callable[[], Any]] = {
            "difference": lambda: largest_difference(base, compute, rows[:400], 40),
            "memory": lambda: memory(base, compute, 10_000),
            "peft": lambda: against_peft(base, compute, rows[:256], adapters=64, repetitions=options.repetitions),
            "mixes": lambda: mixes(options, file.name),
            "mlflow": lambda: against_mlflow(options, file.name),
            "registry": lambda: start_and_alias(options, file.name),
            "soak": lambda: soak(options, file.name),
        }
        path = options.out / "results.json"
        results = read_json(path) if path.is_file() else {}
        for name in options.only:
            log.info("=== %s", name)
            about = {**machine.describe(compute), "load": load_average() or 0.0}
            results[name] = {"about": about, "found": parts[name]()}
            write_json(path, results)
            write_text(options.out / "README.md", table(results))


if __name__ == "__main__":
    main()
