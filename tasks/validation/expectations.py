"""Check data by Great Expectations, which only this module knows; keep the results as JSON and as Data Docs."""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from beft.datasets.description import DatasetError
from beft.errors import InputError
from beft.files import atomic_directory, write_json
from beft.names import unknown_name
from tasks.environment import QUIET
from tasks.validation.expectation_files import JSON, SPLIT, Expectation, Stage, Subject, expectations_of

_KEPT_ROWS = 10
_SHOWN_ROWS = 5
_DIVERGENCE = "expect_column_kl_divergence_to_be_less_than"
"""Its figures say little to whom they are shown: where there is advice, that stands in their place."""


class ExpectationsFailed(InputError):
    """The data is not what it must be.

    Args:
        checked: How many expectations were checked.
        failures: Of each failing one: expectation, column, split, and the offending rows or what was observed.
        kept: The folder with ``validation.json`` and ``data_docs``, where it could be kept.
    """

    def __init__(
        self, dataset: str, stage: Stage, checked: int, failures: Sequence[Mapping[str, JSON]], kept: Path | None
    ) -> None:
        self.failures = list(failures)
        lines = [f"dataset {dataset!r}: its {stage} data fails {len(self.failures)} of {checked} expectations:"]
        lines += [f"  - {_sentence(failure)}" for failure in self.failures]
        if kept is not None:
            lines.append(f"All results, in pictures: {kept / 'data_docs' / 'index.html'}")
        super().__init__("\n".join(lines))


def check(stage: Stage, subject: Subject, out: Path, *, root: Path) -> dict[str, JSON]:
    """Check the data, and write ``validation.json`` and the Data Docs (``data_docs/index.html``) to a folder.

    Args:
        root: The workspace's folder; when the data fails, the results are kept below ``runs/failed`` in it.

    Returns:
        The content of ``validation.json``: dataset, stage, success, rows, and of each expectation its name, column,
        split, success, how many of how many rows are unexpected (and some of them), or what was observed.

    Raises:
        ExpectationsFailed: The data is not as expected.
        DatasetError: The expectations themselves are wrong.
    """
    expectations = expectations_of(stage, subject, root)
    results = _run(stage, subject, expectations, out / "data_docs")
    failures = [result for result in results if not result["success"]]
    for failure in failures:
        if "error" not in failure and (advice := subject.advice(failure)) is not None:
            failure["advice"] = advice
    validation = {
        "dataset": subject.dataset,
        "stage": stage,
        "success": not failures,
        "rows": len(subject.frame),
        "expectations": results,
    }
    write_json(out / "validation.json", validation)
    if failures:
        kept = _keep(out, root / "runs" / "failed" / f"{stage}-{subject.dataset}")
        raise ExpectationsFailed(subject.dataset, stage, len(results), failures, kept)
    return validation


def _run(stage: Stage, subject: Subject, expectations: Sequence[Expectation], docs: Path) -> list[dict[str, JSON]]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", QUIET["GX_ANALYTICS_ENABLED"])
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    possible = _possible(subject, expectations)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for site in context.get_site_names():
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        "data_docs",
        {
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    name = f"{subject.dataset} {stage}"
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=_domain_objects(subject, possible)))
    rows = context.data_sources.add_pandas(subject.dataset).add_dataframe_asset(stage)
    definition = gx.ValidationDefinition(name=name, data=rows.add_batch_definition_whole_dataframe("all"), suite=suite)
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add(definition)],
        actions=[UpdateDataDocsAction(name="data_docs")],
        result_format={
            "result_format": "SUMMARY",
            "unexpected_index_column_names": list(subject.places),
            "partial_unexpected_count": _KEPT_ROWS,
        },
    )
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": subject.frame})
    for picture in docs.rglob("*.gif"):
        picture.unlink()  # how-to animations of 3 MB that no page of the results shows
    (results,) = outcome.run_results.values()
    found: list[Any] = [result.to_json_dict() for result in results.results]
    by_number = {result["expectation_config"]["meta"]["number"]: result for result in found}
    return [_result(expectation, by_number[number], subject) for number, expectation in enumerate(possible)]


def _possible(subject: Subject, expectations: Sequence[Expectation]) -> list[Expectation]:
    """Those that can be checked: the rest is about a column that is not there, which expect_column_to_exist says alone.

    What is about the columns themselves, not about rows, loses its split.
    """
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    possible: list[Expectation] = []
    for expectation in expectations:
        if expectation.column not in (None, *subject.frame.columns) and expectation.name != "expect_column_to_exist":
            continue
        with suppress(ExpectationNotFoundError):  # named among all problems later
            if "row_condition" not in get_expectation_impl(expectation.name).__fields__:
                expectation = replace(expectation, split=None)
        if expectation not in possible:  # the splits that it lost are no longer told apart
            possible.append(expectation)
    return possible


def _domain_objects(subject: Subject, expectations: Sequence[Expectation]) -> list[Any]:
    """Great Expectations' own objects; every wrong name or argument is reported at once."""
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import list_registered_expectation_implementations
    from great_expectations.expectations.row_conditions import Column

    objects, problems = [], []
    for number, expectation in enumerate(expectations):
        arguments = dict(expectation.arguments)
        if expectation.column is not None:
            arguments["column"] = expectation.column
        if expectation.split is not None:
            arguments["row_condition"] = Column(SPLIT) == expectation.split
        try:
            configuration = ExpectationConfiguration(type=expectation.name, kwargs=arguments, meta={"number": number})
            objects.append(configuration.to_domain_obj())
        except ExpectationNotFoundError:
            problems.append(
                unknown_name(expectation.name, list_registered_expectation_implementations(), "expectation")
            )
        except (ValueError, TypeError) as error:
            problems.append(f"{expectation.name}: {' '.join(str(error).split())}")
    if problems:
        raise DatasetError(subject.dataset, list(dict.fromkeys(problems)))
    return objects


def _result(expectation: Expectation, found: dict[str, Any], subject: Subject) -> dict[str, JSON]:
    """What is kept of the result of one expectation."""
    result = found["result"]
    kept: dict[str, JSON] = {
        "expectation": expectation.name,
        "column": expectation.column,
        "split": expectation.split,
        "arguments": expectation.arguments,
        "success": bool(found["success"]),
    }
    if "unexpected_count" in result:
        offending = result.get("partial_unexpected_index_list") or []
        kept |= {
            "checked": int(result["element_count"]),
            "unexpected": int(result["unexpected_count"]),
            "rows": [
                {place.strip("()"): row.get(place) for place in subject.places}
                | {"value": _short(row.get(str(expectation.column)))}
                for row in offending[:_KEPT_ROWS]
            ],
        }
    elif "observed_value" in result:
        kept["observed"] = _plain(result["observed_value"])
    if expectation.name == "expect_column_to_exist" and not kept["success"]:
        counted = subject.roles.get("label_name")
        kept["known"] = [name for name in subject.frame.columns if not name.startswith("(") and name != counted]
    raised = found.get("exception_info") or {}
    if raised.get("raised_exception") or any(isinstance(one, dict) for one in raised.values()):
        one = next((value for value in raised.values() if isinstance(value, dict)), raised)
        kept["error"] = str(one.get("exception_message"))
    return kept


def _sentence(failure: Mapping[str, JSON]) -> str:
    about = f", column {failure['column']!r}" if failure["column"] else ""
    of = f", {failure['split']}" if failure["split"] else ""
    where = f"{failure['expectation']}{about}{of}"
    advice = f"; {failure['advice']}" if "advice" in failure else ""
    if "error" in failure:
        return f"{where}: it could not be checked: {failure['error']}"
    if "unexpected" in failure:
        shown = [
            f"{_place(row)} ({row['value']!r})" if isinstance(row["value"], str) else f"{_place(row)} ({row['value']})"
            for row in failure["rows"][:_SHOWN_ROWS]
        ]
        more = ["…"] if failure["unexpected"] > len(shown) else []
        rows = f"{where}: {failure['unexpected']:,} of {failure['checked']:,} rows: {', '.join([*shown, *more])}"
        return rows + advice
    if failure["expectation"] == "expect_column_to_exist":
        known = unknown_name(str(failure["column"]), failure["known"], "column").partition(". ")[2]
        return f"{where}: there is no such column. {known}"
    if failure["expectation"] == _DIVERGENCE and "advice" in failure:
        return f"{where}: {failure['advice']}"
    asked = ", ".join(f"{name}={value}" for name, value in failure["arguments"].items())
    return f"{where}: observed {failure.get('observed')}, expected {asked}{advice}"


def _place(row: Mapping[str, JSON]) -> str:
    for unit in ("line", "row"):
        if row.get(unit) is not None:
            return f"{row['file']} {unit} {row[unit]:,}"
    return " ".join(str(row[place]) for place in ("split", "id") if place in row)


def _short(value: Any) -> JSON:
    value = _plain(value)
    return value if not isinstance(value, str) or len(value) <= 80 else f"{value[:79]}…"


def _plain(value: Any) -> JSON:
    """A JSON value of what may be a scalar of numpy."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _keep(out: Path, folder: Path) -> Path | None:
    try:
        with atomic_directory(folder) as kept:
            shutil.copytree(out, kept, dirs_exist_ok=True)
    except OSError:
        return None  # what the user must know is in the message
    return folder
