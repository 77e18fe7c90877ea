"""The matrix of faults names tests that are there, and reports what came of them."""

from pathlib import Path

import pytest

from benchmarks.operations.fault_matrix import MATRIX, Case
from benchmarks.operations.faults import result, run

ROOT = Path(__file__).parent.parent.parent
CASES = [case for cases in MATRIX.values() for case in cases]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.test)
def test_it_names_a_test_that_is_there(case: Case) -> None:
    file, *_, name = case.test.partition("[")[0].split("::")
    assert f"def {name}(" in (ROOT / file).read_text()
    told_by_itself = file.startswith("tests/faults/")
    assert told_by_itself or (case.message and case.kept and case.then)


def test_verdicts_and_words_are_those_of_the_tests(tmp_path: Path) -> None:
    cases = tmp_path / "cases_of_its_own.py"
    cases.write_text(
        "import pytest\n"
        "def test_told(record_property):\n    record_property('message', 'full')\n"
        "@pytest.mark.parametrize('one', ['skipped', 'wrong', 'right'])\n"
        "def test_half(one):\n    if one == 'skipped':\n        pytest.skip('no root')\n    assert one == 'right'\n"
        "def test_left_out():\n    pytest.skip('no root')\n"
    )
    found = {name.rpartition("/")[2]: one for name, one in run([str(cases)]).items()}
    ids = [f"cases_of_its_own.py::{name}" for name in ("test_told", "test_half", "test_left_out", "test_none")]
    told, half, skipped, none = (result(Case("once", test, kept="all"), found) for test in ids)
    assert (told["verdict"], told["message"], told["kept"]) == ("passed", "full", "all")
    assert (half["verdict"], half["tests"]) == ("failure", 3)
    assert (skipped["verdict"], none["verdict"]) == ("skipped", "not run")
