"""Places to compute: one step a GPU, given back by whatever ends it; without a GPU, shares of the cores."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import beft.limits
from beft.files import read_json, write_text
from beft.settings import BaseSettings
from tasks.engine.compute_slots import GPUS, acquire_slot, slots_here
from tasks.engine.execution import run_step
from tasks.engine.isolated_step import run_in_subprocess
from tasks.engine.store import StepRun
from tasks.environment import configure_environment
from tasks.settings import PipelineSettings
from tests.support.small_steps import occupy_step
from tests.support.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[3]
SETTINGS = PipelineSettings.from_mapping({"datasets": {name: {} for name in ("first", "second", "third")}})


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks of this machine's GPUs, for this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


class TestWhichPlaces:
    def test_the_gpus_that_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(GPUS, "0, 3")
        assert slots_here(BaseSettings()) == ["gpu 0", "gpu 3"]
        assert slots_here(BaseSettings(device="cpu", threads=256)) == ["cpu 0"]

    def test_a_share_of_the_cores_for_each_without_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(GPUS, "")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
        assert slots_here(BaseSettings(threads=3)) == ["cpu 0", "cpu 1"]
        assert slots_here(BaseSettings(threads=8)) == slots_here(BaseSettings(threads=16)) == ["cpu 0"]

    def test_no_more_than_the_quota_of_a_container_allows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(GPUS, "")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
        write_text(tmp_path / "proc/self/cgroup", "0::/\n")
        write_text(tmp_path / "proc/self/mountinfo", "30 23 0:28 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n")
        write_text(tmp_path / "sys/fs/cgroup/cpu.max", "400000 100000\n")
        monkeypatch.setattr(beft.limits, "_ROOT", tmp_path)
        assert slots_here(BaseSettings(threads=2)) == ["cpu 0", "cpu 1"]

        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(os, "environ", {})
        configure_environment(tmp_path)
        assert os.environ["OMP_NUM_THREADS"] == "4"


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(GPUS, "")
    with caplog.at_level("INFO"), acquire_slot("train/imdb", BaseSettings(threads=2), tmp_path) as place:
        assert place.environment == {}
    assert caplog.messages == ["train/imdb: on the CPU, with 2 threads (there is no GPU here)"]


def test_threads_wait_passively_only_where_more_compute_than_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in said})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(4)))
    configure_environment(tmp_path)

    def environment(threads: int, **variables: str) -> dict[str, str]:
        os.environ.update(variables)
        with acquire_slot("train/imdb", BaseSettings(threads=threads), tmp_path) as place:
            return place.environment

    assert "OMP_WAIT_POLICY" not in os.environ
    assert environment(1, BEFT_GPUS="") == environment(2) == environment(3) == environment(4) == {}
    passive = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    assert environment(5) == passive
    assert environment(2, BEFT_GPUS="0,1") == {"CUDA_VISIBLE_DEVICES": "0"}
    assert environment(2, BEFT_GPUS="0,1,2") == {"CUDA_VISIBLE_DEVICES": "0", **passive}
    assert environment(5, BEFT_GPUS="", GOMP_SPINCOUNT="100") == {}
    assert environment(5, GOMP_SPINCOUNT="3000", OMP_WAIT_POLICY="ACTIVE") == {}


def test_a_spread_base_takes_every_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS, "0,1")
    with acquire_slot("train/imdb", BaseSettings(device_map="auto"), tmp_path) as place:
        assert place.environment == {"CUDA_VISIBLE_DEVICES": "0,1"}
        assert len(place.descriptors) == 2


def test_no_more_steps_at_once_than_gpus_and_each_sees_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS, "4,7")
    raw = tmp_path / "raw"
    raw.mkdir()
    inputs = {"raw": raw}

    def occupied(name: str) -> dict[str, Any]:
        call = StepRun(occupy_step, SETTINGS, inputs, tmp_path, name)
        with acquire_slot(call.key, call.settings.base, tmp_path) as place:
            out = tmp_path / f"out-{name}"
            out.mkdir()
            return run_in_subprocess(call, out, place=place)

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(occupied, name) for name in SETTINGS.datasets]
        wait_until(lambda: len(list(raw.glob("*.json"))) == 2, 60)
        time.sleep(0.5)  # the third would have begun
        first = sorted(raw.glob("*.json"))
        assert len(first) == 2
        assert {read_json(path)["seen"] for path in first} == {"4", "7"}
        write_text(raw / "end", "")
        assert {future.result(60)["seen"] for future in running} == {"4", "7"}


def test_a_killed_holder_gives_its_gpu_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(GPUS, "0")
    raw = tmp_path / "raw"
    raw.mkdir()
    program = f"""
        from pathlib import Path
        from tasks.engine.execution import run_step
        from tasks.engine.store import StepRun
        from tests.support.small_steps import occupy_step
        from tests.tasks.engine.test_compute_slots import SETTINGS
        root = Path({str(tmp_path)!r})
        run_step(StepRun(occupy_step, SETTINGS, {{"raw": root / "raw"}}, root, "first"))
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stderr=subprocess.DEVNULL,
    )
    with holder, ThreadPoolExecutor(1) as pool, caplog.at_level("INFO"):
        wait_until((raw / "first.json").is_file, 60)
        (tmp_path / "raw2").mkdir()
        write_text(tmp_path / "raw2" / "end", "")
        call = StepRun(occupy_step, SETTINGS, {"raw": tmp_path / "raw2"}, tmp_path, "second")
        following = pool.submit(run_step, call)
        wait_until(lambda: "occupy/second: waiting for gpu 0" in caplog.messages, 60)
        assert not (tmp_path / "raw2" / "second.json").exists()
        holder.send_signal(signal.SIGKILL)
        # Its input changed while it ran, as this step writes there; what counts is that it ran, on the GPU.
        following.exception(60)
        assert read_json(tmp_path / "raw2" / "second.json")["seen"] == "0"
