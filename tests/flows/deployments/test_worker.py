"""Workers, one for each pool that is named."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from flows.deployments import worker


def test_a_pool_that_is_named_twice_has_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two, nobody would end the first."""
    started: list[str] = []

    def start(pool: str, *_: object) -> Mock:
        started.append(pool)
        process = Mock()
        process.poll.side_effect = [KeyboardInterrupt, 0, 0]
        return process

    monkeypatch.setattr(worker, "server_address", lambda: "http://prefect/api")
    monkeypatch.setattr(worker, "configure_environment", lambda root: None)
    monkeypatch.setattr(worker, "_start", start)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    worker.work(tmp_path, ["cpu", "cpu"])
    assert started == ["cpu"]
