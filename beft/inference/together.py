"""Several adapters over one base at once: one pass over the rows, each row with the biases and head of one adapter."""

from collections.abc import Iterable, Sequence

import torch

from beft.adapters.adapter import Adapter
from beft.bank.bank import Bank
from beft.encoding.examples import LabelledRows
from beft.inference.predictions import measure_runs
from beft.inference.runs import Metric
from beft.models.classifier import Classifier
from beft.sites.batch_axis import RowAxis, measure_row_axes, one_axis
from beft.sites.site import BiasSite, site_module


def row_axes(classifier: Classifier, rows: LabelledRows, sites: Iterable[BiasSite]) -> dict[str, RowAxis]:
    """Where each module of the sites keeps the rows of a batch; nowhere when two rows cannot tell.

    Args:
        rows: Some of the base's inputs; two of them with other tokens are computed.
    """
    modules = {site.module: site_module(classifier.model, site) for site in sites}
    tokens = rows.encoded.input_ids
    other = next((row for row in range(1, len(rows)) if tokens[row] != tokens[0]), 0)
    measured = measure_row_axes(classifier, modules, rows.encoded.batch([0, other], classifier.device))
    return {name: one_axis(measured[name]) if measured else None for name in modules}


def measure_adapters(
    classifier: Classifier,
    adapters: Sequence[Adapter],
    rows: LabelledRows,
    metric: Metric,
    *,
    batch_tokens: int | None = None,
) -> list[dict[str, float]]:
    """Dev loss and dev metric of each adapter over labelled rows, in one pass where the base keeps the rows apart.

    Args:
        adapters: Their heads have parameters of the same names and shapes, as those of one dataset have.
        batch_tokens: Tokens computed at once, padding and all adapters counted; None: what suits the device.

    Raises:
        InputError: An adapter does not fit the classifier.
    """
    banks = [adapter.bank(classifier) for adapter in adapters]
    sites = dict.fromkeys(site for bank in banks for site in bank.deltas)
    axes = row_axes(classifier, rows, sites) if len(banks) > 1 else {}
    if len(banks) < 2 or None in axes.values():
        found = []
        for bank in banks:
            with bank:
                found += measure_runs(classifier, rows, metric, batch_tokens=batch_tokens)
        return found
    nothing = {site: torch.zeros_like(bank.deltas[site]) for bank in banks for site in bank.deltas}
    deltas = {site: torch.stack([bank.deltas.get(site, nothing[site]) for bank in banks]) for site in sites}
    head = {name: torch.stack([bank.head[name] for bank in banks]) for name in banks[0].head}
    with Bank(classifier.model, deltas, head, axes=axes) as together:
        every = range(len(banks))
        return measure_runs(classifier, rows, metric, every, batch_tokens=batch_tokens, choose=together.choose)
