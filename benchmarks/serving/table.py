"""The results as Markdown."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.serving.in_process import BASE_BY_ROWS, BASE_IN_BATCHES, PEFT_BEFT, PEFT_LORA


def table(results: Mapping[str, Any]) -> str:
    """Every requirement with what was found, then the mixes."""
    about = next(iter(results.values()))["about"]
    lines = [
        "# Serving",
        "",
        f"`make bench-serving`, {about['date']}; {about.get('gpu', about['cpu'])}, {about['threads']} threads, "
        f"{about['precision']}; torch {about['torch']}. Base all-MiniLM-L6-v2; rows of the default data, one a "
        "request; clients are another process on the same machine. The adapters have different terms and numbers of "
        "labels and independently random values. Each forward pass of the base is one batch, which is asserted.",
        "",
        "| what | required | found |",
        "|---|---|---|",
        *(f"| {what} | {required} | {found} |" for what, required, found in _rows(results)),
    ]
    others = [
        f"{name} ({one['cpu']}, {one['threads']} threads, {one['date']}, load {one['load']:.1f} before it began)"
        for name, one in ((name, result["about"]) for name, result in results.items())
        if (one["cpu"], one["date"]) != (about["cpu"], about["date"])
    ]
    if others:
        lines += ["", f"Parts measured on another machine or day: {'; '.join(others)}."]
    if "mixes" in results:
        found = results["mixes"]["found"]
        lines += [
            "",
            f"Answers a second by the mix of adapters, {found['connections']} connections, in turns: median [least, "
            f"most]. A batch has {found['rows_a_batch']:.0f} rows and takes {1000 * found['batch_seconds']:.0f} ms on "
            f"average. The clients take {100 * found['clients_share']:.0f} % of the processor time.",
            "",
            "| mix | answers a second |",
            "|---|---|",
            *(f"| {mix} | {_spread(rates, '.0f')} |" for mix, rates in found["rates"].items()),
        ]
    if "peft" in results:
        lines += ["", *_peft_profile(results["peft"])]
    return "\n".join(lines) + "\n"


def _peft_profile(result: Mapping[str, Any]) -> list[str]:
    """What bounds the ratios to PEFT: how fast the base is without any adapter."""
    about, found = result["about"], result["found"]
    rates = found["rates"]
    if BASE_BY_ROWS not in rates:
        return []
    bound = rates[BASE_IN_BATCHES] / rates[BASE_BY_ROWS]
    return [
        f"Rows a second without HTTP ({about['cpu']}, {about['threads']} threads, {about['date']}):",
        "",
        "| way | rows a second |",
        "|---|---|",
        *(f"| {name} | {rate:.0f} |" for name, rate in rates.items()),
        "",
        f"The base alone is {bound:.1f} times as fast in these batches as a row at a time: so much can be won by "
        f"mixing adapters. beft's mixed batches reach {100 * rates['beft'] / rates[BASE_IN_BATCHES]:.0f} % of the base "
        f"alone; switching reaches {100 * rates[PEFT_BEFT] / rates[BASE_BY_ROWS]:.0f} % of it.",
    ]


def _spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def _rows(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    if "mixes" in results:
        found = results["mixes"]["found"]
        rates = {mix: median(values) for mix, values in found["rates"].items()}
        one = rates["identical"]
        rows.append(
            (
                f"{found['adapters']} distinct adapters against one",
                "0.9",
                f"{rates['distinct'] / one:.2f}",
            )
        )
        spread = max(abs(rate / one - 1) for rate in rates.values())
        rows.append(("four mixes against one adapter", "within 10 %", f"within {100 * spread:.0f} %"))
        half = found["half"]
        p50, p99, batch = (1000 * value for value in (half["p50"], half["p99"], found["batch_seconds"]))
        rows.append(
            (
                "p99 at half of the greatest rate, in times of one batch",
                "3",
                f"{p99 / batch:.1f} ({p99:.0f} ms; p50 {p50:.0f} ms)",
            )
        )
    if "mlflow" in results:
        found = results["mlflow"]["found"]
        ratios = [ours / theirs for ours, theirs in zip(found["beft"], found["mlflow"], strict=True)]
        rows.append(
            (
                "against `mlflow models serve` of one model",
                "2.5",
                f"{_spread(ratios, '.1f')} ({median(found['beft']):.0f} and {median(found['mlflow']):.0f} answers/s)",
            )
        )
    if "peft" in results:
        found = results["peft"]["found"]
        for name, required in ((PEFT_BEFT, "3"), (PEFT_LORA, "1.3")):
            ratios = found["ratios"][name]
            rows.append((f"against {name} (no HTTP, {found['adapters']} adapters)", required, _spread(ratios, ".1f")))
    if "memory" in results:
        found = results["memory"]["found"]
        rows.append(
            (
                f"memory of {found['adapters']:,} value adapters above the base",
                "150 MB",
                f"{found['resident'] / 1e6:.0f} MB ({found['each']:,} bytes each)",
            )
        )
    if "difference" in results:
        found = results["difference"]["found"]
        rows.append(("largest difference of an output to the adapter alone", "1e-5", f"{found['largest']:.1e}"))
    if "registry" in results:
        found = results["registry"]["found"]
        rows.append((f"start with {found['adapters']} registered adapters", "30 s", f"{found['start']:.1f} s"))
        moves = f"{max(found['moves']):.1f} s at most of {len(found['moves'])}"
        rows.append(("from a moved alias until the server names its version", "5 s", moves))
    if "soak" in results:
        found = results["soak"]["found"]
        growth = found["memory_last_third"] / found["memory_second_third"] - 1
        rows.append(
            (
                f"{found['seconds']:.0f} s of load, {found['reloads']} reloads: failures; growth of memory",
                "0; none",
                f"{found['failures']} of {found['answers']}; {100 * growth:+.1f} %, tables "
                f"{found['tables_first'] / 1e6:.1f} to {found['tables_last'] / 1e6:.1f} MB",
            )
        )
    return rows
