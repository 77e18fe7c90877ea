"""The measurement of serving: what its clients count, the choice of parts, and its committed table."""

from pathlib import Path

import pytest

from beft.files import read_json
from benchmarks.serving import __main__ as program
from benchmarks.serving.client import measured
from benchmarks.serving.table import table

HERE = Path(program.__file__).parent


def test_a_rate_counts_every_answer_of_the_measured_time() -> None:
    """Four connections whose requests take a second each give four answers a second, wherever the time is cut."""
    latencies = [(at / 4, 1.0) for at in range(48)]
    answers, counted = measured(latencies, 2.1, 8.1)
    assert answers / 6 == pytest.approx(4)
    assert counted == [1.0] * 24


def test_a_late_answer_is_no_answer_of_the_time_and_its_latency_counts() -> None:
    assert measured([(0.0, 1.0), (0.5, 9.0), (5.0, 1.0)], 0.25, 2.0) == (1, [9.0])


def test_a_part_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--only", "pefft"])
    assert "choose from" in capsys.readouterr().err


def test_the_committed_table_is_that_of_the_results() -> None:
    results = read_json(HERE / "results.json")
    assert table(results) == (HERE / "README.md").read_text(encoding="utf-8")
