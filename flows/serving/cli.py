"""The commands of serving: serve, feedback, monitor, trace."""

from pathlib import Path
from typing import Annotated

import typer

from beft.cli.options import PARAMS, Changes, listed, parse_changes

TRAFFIC = Path("runs", "traffic")

app = typer.Typer()


@app.command()
def serve(
    models: Annotated[
        list[str] | None, typer.Option(help="Registered models, as a pattern: 'beft-*'; may be repeated.")
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="Which version of each; may be repeated, the first is the usual one.")
    ] = None,
    base: Annotated[list[str] | None, typer.Option(help="A base, as base.source names one; may be repeated.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8000,
    allowed_hosts: Annotated[
        str | None, typer.Option(help="Further host names that are accepted, A,B,C, as a proxy sends them.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp64, or auto as in training.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: every core.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a batch, padding counted.")] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of a request.")] = 32,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 512,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may wait.")] = 30.0,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the registry.")] = 2.0,
    certificate: Annotated[Path | None, typer.Option(help="The certificate for TLS, in PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of the certificate, in PEM.")] = None,
    shadow: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the requests that the challenger answers as well, unseen.")
    ] = 0.0,
    features: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the requests whose features are kept, for 'beft monitor'.")
    ] = 0.05,
    traffic: Annotated[Path, typer.Option(help="The folder where answers are kept.")] = TRAFFIC,
    keep_traffic: Annotated[bool, typer.Option(help="Keep answers, with the hashes of texts.")] = True,
    keep_texts: Annotated[bool, typer.Option("--keep-texts", help="Keep the texts as well.")] = False,
    traffic_megabytes: Annotated[int, typer.Option(min=1, help="Of the kept answers; the oldest go.")] = 1000,
    params: Annotated[Path, typer.Option(help="The settings: where the registry and the base are.")] = PARAMS,
) -> None:
    """Answer requests with the registry's adapters.

    All champions over one base in memory, behind one address; a moved alias is live within seconds. Until Ctrl-C.
    """
    from beft.errors import InputError

    if (certificate is None) != (key is None):
        raise InputError("--certificate and --key belong together: name both, or neither")
    from flows.serving.limits import Limits
    from flows.serving.serve import ServeRequest
    from flows.serving.serve import serve as answer
    from tasks.settings import PipelineSettings

    settings = PipelineSettings.read(params, {})

    answer(
        settings,
        Path.cwd(),
        ServeRequest(
            models=tuple(listed(models)),
            aliases=tuple(listed(alias)),
            bases=tuple(base or ()),
            device=device,
            precision=precision,
            threads=threads,
            host=host,
            port=port,
            hosts=tuple(listed([allowed_hosts] if allowed_hosts else None)),
            certificate=None if certificate is None or key is None else (certificate, key),
            limits=Limits(rows=max_rows, requests=max_requests, seconds=timeout, batch_tokens=batch_tokens),
            poll_seconds=poll,
            traffic=traffic if keep_traffic else None,
            traffic_bytes=1_000_000 * traffic_megabytes,
            keep_texts=keep_texts,
            shadow=shadow,
            features=features,
        ),
    )


@app.command()
def feedback(
    file: Annotated[Path, typer.Argument(help="CSV or JSON Lines with request_id, label and, where needed, row.")],
    source: Annotated[str, typer.Option(help="How these rows were selected; kept with them.")] = "",
    traffic: Annotated[Path, typer.Option(help="The folder where a server keeps its answers.")] = TRAFFIC,
) -> None:
    """Tell the true labels of rows that a server answered.

    Monitoring and promotion on traffic use them.
    """
    from flows.terminal.traffic import take_feedback

    take_feedback(file, traffic, source=source)


@app.command()
def monitor(
    false_alarms: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="How probable a false alarm is over so many looks.")
    ] = 0.05,
    looks: Annotated[int, typer.Option(min=1, help="720 are a month of hours.")] = 720,
    min_rows: Annotated[int, typer.Option(min=20, help="Fewer new rows are left for a later look.")] = 200,
    traffic: Annotated[Path, typer.Option(help="The folder where a server keeps its answers.")] = TRAFFIC,
    params: Annotated[Path, typer.Option(help="The settings: where the registry is.")] = PARAMS,
    changes: Changes = None,
) -> None:
    """Look whether traffic is what champions were made for.

    Of the rows since the last look: answers, confidence, lengths, unknown tokens and features. Writes reports, an
    MLflow run, and on an alarm a Prefect event. The exit status is 0 with and without one.
    """
    from flows.monitor import run_monitor
    from flows.terminal.traffic import show_looks
    from tasks.settings import PipelineSettings

    settings = PipelineSettings.read(params, parse_changes(changes or ()))

    rules = {"false_alarms": false_alarms, "looks": looks, "min_rows": min_rows}
    show_looks(run_monitor(settings, traffic=str(traffic), **rules))


@app.command()
def trace(
    request_id: Annotated[str, typer.Argument(help="The id of a request, as its answer has it.")],
    traffic: Annotated[Path, typer.Option(help="The folder where a server keeps its answers.")] = TRAFFIC,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    params: Annotated[Path, typer.Option(help="The settings: where the registry is.")] = PARAMS,
) -> None:
    """Say where an answer came from.

    Adapter, registered version, run, data, source, and the command that rebuilds it.
    """
    from flows.terminal.traffic import show_trace
    from tasks.settings import PipelineSettings

    show_trace(PipelineSettings.read(params, {}), Path.cwd(), traffic, request_id, as_json=as_json)
