"""The page of ``beft serve`` in a real browser."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from beft.inference.questions import Questions
from flows.serving.app import PAGE, create_app
from tests.beft.serving.adapters import Kind, alone
from tests.flows.serving.conftest import Registry, Running
from tests.flows.serving.test_serve import start
from tests.support.servers.postgresql import free_port
from tests.support.waiting import wait_until

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
FILMS, THREE, CHOICE = "beft-tiny-films", "beft-tiny-three", "beft-tiny-choice"
NOTHING: Mapping[str, list[Response | None]] = {}
TROUBLE = HTMLResponse("<h1>Bad Gateway</h1>", 502)


def seen(address: str, profile: Path) -> str:
    """The page as the browser has it once its scripts have run."""
    assert CHROMIUM is not None
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--disable-gpu", "--disable-background-networking", *sandbox),
            *(f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--dump-dom", address),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_a_link_to_a_comparison(registry: Registry, tmp_path: Path) -> None:
    registry.add(FILMS, Kind())
    registry.add(THREE, Kind(("x", "y", "z"), ("query",), seed=1))
    served = start(registry)
    text = "a good <b>film</b>"
    link = urlencode([("text", text), ("adapter", f"{FILMS}/1"), ("adapter", f"{THREE}/1")])
    page = seen(f"{served.address}/?{link}", tmp_path / "profile")
    served.stop()
    for name in (FILMS, THREE):
        adapter = registry.adapters[name, "1"]
        probabilities = alone(registry.base, adapter, Questions([text]))[0].softmax(-1)[0].tolist()
        for label, probability in zip(adapter.labels, probabilities, strict=True):
            assert f"{label} {100 * probability:.1f} %" in page
    assert "2 answers in" in page and "2 adapters" in page and "verified" in page


def test_names_are_text_and_no_markup(registry: Registry, tmp_path: Path) -> None:
    registry.add(FILMS, Kind(("<img src=x onerror=alert(1)>", "good")))
    served = start(registry)
    page = seen(f"{served.address}/?text=fine", tmp_path / "profile")
    served.stop()
    assert "&lt;img src=x" in page and "<img" not in page


def acted(
    app: Running, profile: Path, script: str, query: str = "", instead: Mapping[str, list[Response | None]] = NOTHING
) -> str:
    """The page once a script has acted on it as a user would.

    Args:
        script: May use ``wait`` (for milliseconds) and ``say``, which adds a line to the page.
        instead: Path to what is answered there the first time, the second, and so on; None: what the server answers.
    """
    tools = """
      const wait = time => new Promise(done => setTimeout(done, time));
      const say = text => document.body.append(element("p", `said: ${text}`));
      await wait(500);
    """
    page = HTMLResponse(PAGE.read_text().replace("</body>", f'<script type="module">{tools}{script}</script></body>'))
    given = {"/": [page], **instead}
    served = create_app(app.server)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        waiting = given.get(scope.get("path", ""))
        await ((waiting.pop(0) if waiting else None) or served)(scope, receive, send)

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(answer, host="127.0.0.1", port=port, log_level="error"))
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        wait_until(lambda: server.started)
        return seen(f"http://127.0.0.1:{port}/{query}", profile)
    finally:
        server.should_exit = True
        serving.join(20)


def said(page: str) -> list[str]:
    """What a script said."""
    return re.findall("<p>said: (.*?)</p>", page)


def test_blank_lines_are_no_choices(app: Running, filled: Registry, tmp_path: Path) -> None:
    script = """
      by("choices").value = "a film\\n\\n  \\ndull\\n";
      by("form").requestSubmit();
    """
    page = acted(app, tmp_path / "profile", script, f"?adapter={CHOICE}/1")
    text = "A gripping film, and a fine one."
    [outputs] = alone(filled.base, filled.adapters[CHOICE, "1"], Questions([text], choices=[["a film", "dull"]]))
    probabilities = outputs.flatten().softmax(-1).tolist()
    found = re.findall(r'<span class="small">(.*?) ([0-9.]+) %</span>', page)
    assert found == [
        (choice, f"{100 * value:.1f}") for choice, value in zip(("a film", "dull"), probabilities, strict=True)
    ]


def test_the_focus_stays_while_the_list_does(app: Running, tmp_path: Path) -> None:
    script = """
      const focused = () => document.activeElement.getAttribute("aria-label");
      document.querySelector('[aria-label*="three"]').focus();
      await load();
      say(focused());
      await wait(6000);
      say(focused());
    """
    page = acted(app, tmp_path / "profile", script)
    assert said(page) == [f"use {THREE} version 1"] * 2


def test_a_list_that_changes_is_drawn(app: Running, tmp_path: Path) -> None:
    nothing = JSONResponse({"adapters": [], "refused": [], "registry_error": None})
    script = """
      say(by("more").textContent);
      await load();
      say(by("more").textContent);
    """
    page = acted(app, tmp_path / "profile", script, instead={"/v1/adapters": [nothing]})
    assert said(page) == ["0 adapters", "4 adapters"]


def test_a_list_that_cannot_be_read_is_told(app: Running, tmp_path: Path) -> None:
    script = """
      for (let time = 0; time < 2; time++) {
        say(by("trouble").textContent);
        say(by("more").textContent);
        await load();
      }
      say(by("trouble").textContent);
    """
    page = acted(app, tmp_path / "profile", script, instead={"/v1/adapters": [None, TROUBLE]})
    told = said(page)
    assert told[:2] == ["", "4 adapters"] and told[3:] == ["4 adapters", ""]
    assert "(status 502) cannot be read" in told[2]


def test_a_server_that_has_stopped_is_told(app: Running, tmp_path: Path) -> None:
    script = f"""
      const reached = fetch;
      window.fetch = (path, options) => reached(`http://127.0.0.1:{free_port()}/${{path}}`, options);
      await load();
      await compare();
    """
    page = acted(app, tmp_path / "profile", script, f"?adapter={FILMS}/1&adapter={THREE}/1")
    assert page.count("The server does not answer: Failed to fetch") == 3
    assert "0 answers in" in page and ", 2 failed" in page and "4 adapters" in page


def test_an_answer_that_is_no_json_is_told(app: Running, tmp_path: Path) -> None:
    query = f"?text=fine&adapter={FILMS}/1&adapter={THREE}/1"
    page = acted(app, tmp_path / "profile", "", query, {"/invocations": [TROUBLE]})
    assert page.count("The server's answer (status 502) cannot be read") == 1
    assert "1 answers in" in page and ", 1 failed" in page
