"""What came of a run: a table on the terminal and in Prefect, and where to look next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beft.commands import predict_command
from beft.evaluation.records import Evaluation, MetricScore
from beft.files import read_json
from flows.runs.links import LOCAL_PREFECT, flow_run_page, mlflow_page
from flows.terminal.commands import server_command
from tasks.registry.aliases import CHAMPION
from tasks.reporting.formatting import TITLES, percent
from tasks.settings import PipelineSettings
from tasks.tracking.address import pages_of
from tasks.tracking.connection import tracking_uri

_COLUMNS = ("dataset", "target term", "test", *TITLES.values(), "gain certain", "adapter", "registered as")


def rows(record: Mapping[str, Any], root: Path) -> list[dict[str, str]]:
    """One row a dataset: the target beside the other methods on test, the gate's verdict, sizes, the version.

    Args:
        record: The ``run.json`` of a finished run.
    """
    models = {model["dataset"]: model for model in record["models"]}
    return [_row(dataset, record, models[dataset], root) for dataset in record["datasets"]]


def _row(dataset: str, record: Mapping[str, Any], model: Mapping[str, Any], root: Path) -> dict[str, str]:
    folder = root / record["steps"][f"evaluate/{dataset}"]["folder"]
    stored = read_json(folder / "evaluation.json")
    found = Evaluation.from_json({name: stored[name] for name in Evaluation.model_fields})
    metric = found.metrics[0]
    scores = {method: by_metric[metric] for method, by_metric in found.splits["test"].scores.items()}
    cost = found.costs[found.target]
    aliases = ", ".join(model["aliases"])
    return {
        "dataset": dataset,
        "target term": found.target,
        "test": f"{_interval(scores[found.target])} {metric}",
        **{title: percent(scores[name].value) for name, title in TITLES.items() if name in scores},
        "gain certain": ("yes" if found.decision("gate").passed else "no") if found.has_gate else "no gate",
        "adapter": f"{_kilobytes(cost.bias_bytes)} bias + {_kilobytes(cost.head_bytes)} head",
        "model": str(model["name"]),
        "registered as": f"version {model['version']}" + (f" ({aliases})" if aliases else ""),
    }


def show(record: Mapping[str, Any], settings: PipelineSettings, root: Path) -> None:
    """Write the table and the last lines to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    found = rows(record, root)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("dataset")
    for row in found:
        table.add_column(row["dataset"], overflow="fold")
    for title in (column for column in _COLUMNS if column != "dataset" and any(column in row for row in found)):
        table.add_row(title, *(row.get(title, "") for row in found))
    console.print(table)
    for model in record["models"]:
        # Why it became no champion is no news of one that a promotion has made champion since.
        if model["decision"] == CHAMPION or not model["champion"]:
            console.print(f"{model['dataset']}: decided when it was registered: {model['reason']}", markup=False)
        if model["rebuild"]:
            console.print(f"{model['dataset']}: {model['rebuild']}", markup=False, soft_wrap=True)
    steps = record["steps"].values()
    reused = sum(step["reused"] for step in steps)
    if reused:
        console.print(f"\n{reused} of {len(steps)} steps were finished already and reused.")
    console.print()
    for title, line in _where(record, settings, root):
        console.print(f"{title:10} {line}", markup=False, soft_wrap=True)


def show_reproduction(record: Mapping[str, Any], root: Path) -> None:
    """Write to the terminal what a reproduction takes, or what came of it and where its report is."""
    from rich.console import Console

    console = Console(highlight=False)
    report = root / record["report"] if "report" in record else None  # None where the plan alone was requested
    text = record["plan"] if report is None else (report / "table.md").read_text(encoding="utf-8")
    console.print(f"\n{text}", markup=False, soft_wrap=True)
    steps = record["steps"].values()
    reused = sum(step["reused"] for step in steps)
    if reused:
        console.print(f"{reused} of {len(steps)} measurements were finished already and reused.")
    for line in record["missing"]:
        console.print(f"not measured: {line}", markup=False, soft_wrap=True)
    if report is None:
        return
    names = sorted(path.name for path in report.iterdir())
    console.print(f"\nReport     {record['report']}: {', '.join(names)}", markup=False, soft_wrap=True)


def _where(record: Mapping[str, Any], settings: PipelineSettings, root: Path) -> list[tuple[str, str]]:
    """Titles and lines, none of them divided: what they name is there to be copied."""
    adapter = Path("runs", "latest", "train", record["datasets"][0], "adapter")
    named = [f"models:/{model['name']}/{model['version']}" for model in record["models"]]
    pages = [mlflow_page(record["mlflow_page"], settings, root)]
    here = pages_of(tracking_uri(settings, root)) is None  # no server is named that would have them
    if record["prefect_flow_run"]:
        pages.append(flow_run_page(record["prefect_flow_run"]))
        here |= pages[-1].startswith(LOCAL_PREFECT)
    return [
        ("Report", record["report"]),
        ("Pages", f"{server_command('ui')}, then" if here else ""),
        *(("", f"  {page}") for page in pages),
        *zip(["Registered", *[""] * len(named)], named, strict=False),
        ("Predict", predict_command(root / adapter, adapter, settings.base.source, "some text")),
    ]


def leave_artifact(record: Mapping[str, Any]) -> None:
    """Show the table on the flow run's page in Prefect."""
    from prefect.artifacts import create_table_artifact

    create_table_artifact(key="adapters", table=rows(record, Path.cwd()), description=f"The report: {record['report']}")


def _interval(score: MetricScore) -> str:
    return f"{percent(score.value)} [{percent(score.low)}, {percent(score.high)}]"


def _kilobytes(size: int) -> str:
    return f"{size / 1000:.1f} kB"
