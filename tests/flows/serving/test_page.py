"""The page of ``beft serve`` in a real browser."""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from beft.inference.questions import Questions
from tests.beft.serving.adapters import Kind, alone
from tests.flows.serving.conftest import Registry
from tests.flows.serving.test_serve import start

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
FILMS, THREE = "beft-tiny-films", "beft-tiny-three"


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
