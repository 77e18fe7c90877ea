"""Every fault of the matrix, made to happen: `make faults`. Writes benchmarks/operations/faults.json and .md.

It runs the tests and cases of ``benchmarks.operations.fault_matrix`` by pytest and reports what came of each.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from beft.files import read_json, write_json, write_text
from beft.models.device import resolve_compute
from beft.settings import BaseSettings
from benchmarks.common import machine
from benchmarks.common.prepared import ROOT
from benchmarks.operations.fault_matrix import MATRIX, Case

HERE = Path(__file__).parent
_FOLDER = re.compile(r"/\S*/pytest-of-[^/]+/pytest-\d+/[^/\s]+")
_SHOWN = 200  # characters of a message
_WORST_FIRST = ("failure", "error", "not run", "skipped", "passed")


def run(tests: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Run tests by their ids; for each id with its parameters the verdict, the seconds, and what the test told.

    Those of a folder run in a process of their own: what others leave on its Prefect server (results of the same
    data, the limit of a deployment) would show in them.
    """
    of_folder: dict[str, list[str]] = {}
    for test in dict.fromkeys(tests):
        of_folder.setdefault(test.partition(".py:")[0].rpartition("/")[0], []).append(test)
    found: dict[str, dict[str, Any]] = {}
    for ids in of_folder.values():
        with tempfile.TemporaryDirectory(prefix="beft-faults-") as kept:
            report = Path(kept) / "report.xml"
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short"]
            command += ["-o", "junit_family=xunit1", f"--junitxml={report}", *ids]
            subprocess.run(command, cwd=ROOT, check=False)
            found |= map(_read, ElementTree.parse(report).iter("testcase"))
    return found


def _read(case: ElementTree.Element) -> tuple[str, dict[str, Any]]:
    *path, last = str(case.get("classname")).split(".")
    classes = [last] if last[:1].isupper() else []
    file = "/".join(path if classes else [*path, last])
    bad = [kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None]
    told = {str(one.get("name")): _shortened(str(one.get("value"))) for one in case.iter("property")}
    name = "::".join([f"{file}.py", *classes, str(case.get("name"))])
    return name, {"verdict": bad[0] if bad else "passed", "seconds": float(case.get("time") or 0), **told}


def _shortened(text: str) -> str:
    """A message without the folders of this machine."""
    return _FOLDER.sub("…", text).replace(f"{ROOT}/", "")


def result(case: Case, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What came of a case: the worst verdict of its tests, and the words of the case or of its test."""
    its = [one for name, one in found.items() if name == case.test or name.startswith(f"{case.test}[")]
    verdicts = [str(one["verdict"]) for one in its] or ["not run"]
    told = {key: value for one in its for key, value in one.items()}
    return {
        "case": case.where,
        "test": case.test,
        "tests": len(its),
        "verdict": min(verdicts, key=_WORST_FIRST.index),
        "seconds": round(sum(float(one["seconds"]) for one in its), 1),
        **{key: getattr(case, key) or told.get(key, "") for key in ("message", "kept", "then")},
    }


def table(results: Mapping[str, list[dict[str, Any]]], described: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    every = [one for of_fault in results.values() for one in of_fault]
    minutes = sum(one["seconds"] for one in every) / 60
    passed = sum(one["verdict"] == "passed" for one in every)
    lines = [
        "# Faults",
        "",
        f"`make faults`, {described['date']}; {described['cpu']}; {minutes:.0f} minutes: {passed} of {len(every)} "
        "cases passed. A tiny base on made-up reviews; real Prefect and MLflow servers, real DVC remotes. Cases below "
        "`tests/faults` run here alone, the others in every test run. Each is described in its test; where a run is "
        "started again, its adapter and its registry are compared with those of a run that nothing struck.",
        "",
    ]
    for fault, of_fault in results.items():
        lines += [
            f"## {fault}",
            "",
            "| case | the user sees | kept | then | verdict | test |",
            "|---|---|---|---|---|---|",
        ]
        for one in of_fault:
            cells = [_cell(one[key]) for key in ("case", "message", "kept", "then")]
            lines.append(f"| {' | '.join(cells)} | {one['verdict']} | `{one['test']}` |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def main() -> int:
    """Run the matrix; the exit status is 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="faults whose name holds this; the others stay as they were measured")
    only = parser.parse_args().only
    chosen = {fault: cases for fault, cases in MATRIX.items() if not only or only.lower() in fault.lower()}
    found = run(case.test for cases in chosen.values() for case in cases)
    before = read_json(HERE / "faults.json")["faults"] if only and (HERE / "faults.json").is_file() else {}
    now = {fault: [result(case, found) for case in cases] for fault, cases in chosen.items()}
    results = {fault: (before | now)[fault] for fault in MATRIX if fault in before | now}
    described = machine.describe(resolve_compute(BaseSettings(device="cpu", precision="fp32", threads=1)))
    text = table(results, described)
    write_json(HERE / "faults.json", {"command": "make faults", "machine": described, "faults": results})
    write_text(HERE / "faults.md", text)
    sys.stdout.write(text)
    return int(any(one["verdict"] != "passed" for cases in now.values() for one in cases))


if __name__ == "__main__":
    sys.exit(main())
