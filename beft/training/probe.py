"""The probe: a short training of all bias terms, and what importance methods compare before and after it.

Under ``protocol: beft`` the epoch is chosen on dev and inert sites stay frozen. Under ``protocol: paper`` the whole
sample is trained on, the last epoch counts and every site is trained, as in the published code.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from beft.bank.bank import Bank
from beft.bank.inertness import measure_inertness
from beft.encoding.examples import LabelledRows
from beft.encoding.tokenization import Encoded, sorted_batches
from beft.importance.methods.fisher import fisher_information
from beft.importance.probe_result import ProbeResult
from beft.inference.runs import RunResult
from beft.models.classifier import Classifier
from beft.process_state import with_own_threads
from beft.settings import Settings
from beft.sites.site import BiasSite, find_sites, read_bias
from beft.training.head_start import head_start
from beft.training.sample import Sample
from beft.training.target import Progress, fit_run, planned_run, with_frozen
from beft.training_settings import TrainingSettings

log = logging.getLogger("beft.training.probe")

_INERTNESS_ROWS = 4
_INERTNESS_TOKENS = 32


@dataclass(frozen=True)
class ProbeRun:
    """What a probe gave.

    Attributes:
        evidence: Every bias before and after, Fisher information from before the training, and what is inert.
        frozen: The sites that were not trained because all of their components are inert.
        result: How the training went.
    """

    evidence: ProbeResult
    frozen: tuple[BiasSite, ...]
    result: RunResult


@with_own_threads
def run_probe(
    classifier: Classifier,
    sample: Sample,
    settings: Settings,
    training: TrainingSettings,
    *,
    checkpoints: Path | None = None,
    progress: Progress = log.info,
) -> ProbeRun:
    """Train all bias terms at once, and keep what the importance methods need.

    Args:
        training: The probe's own training settings.
        checkpoints: Where an interrupted training is found and continued.

    Raises:
        InputError: The base has no bias terms and none are to be added.
    """
    model = classifier.model
    sites = find_sites(model, add=settings.base.add_biases)
    start = head_start(classifier, sample, settings, training)
    progress(f"probe: measuring which of {len(sites)} bias sites are inert")
    inert = inert_components(classifier, sites, sample.train.encoded, settings.seed)
    frozen = () if settings.protocol == "paper" else tuple(site for site in sites if inert[site].all())
    progress(f"probe: Fisher information of {len(sample.train)} examples")
    information = row_information(classifier, sample.train, sites, start, batch_size=training.batch_size)
    trained = tuple(site for site in sites if site not in frozen)
    run = planned_run(classifier, sample, settings, training, "probe", trained, start)
    result = with_frozen(fit_run(classifier, sample, run, checkpoints, progress), frozen)
    return ProbeRun(moved_biases(model, result.deltas, information, inert), frozen, result)


@with_own_threads
def row_information(
    classifier: Classifier,
    rows: LabelledRows,
    sites: Sequence[BiasSite],
    head: Mapping[str, Tensor],
    *,
    batch_size: int,
) -> dict[BiasSite, Tensor]:
    """Fisher information of each site's components over labelled rows, fp64, [width].

    Args:
        head: The head's parameters where a training starts, by their names in the model.
    """
    batches = [
        (rows.batch(batch, classifier.device), rows.targets(batch), rows.sizes_of(batch))
        for batch in sorted_batches(rows.lengths, batch_size)
    ]
    with Bank(classifier.model, {}, head):
        return fisher_information(classifier, batches, sites)


def moved_biases(
    model: nn.Module,
    deltas: Mapping[BiasSite, Tensor],
    information: Mapping[BiasSite, Tensor],
    inert: Mapping[BiasSite, Tensor],
) -> ProbeResult:
    """What importance methods compare, of a training that changed the base's biases by ``deltas``.

    Args:
        information: Fisher information from before the training.
        inert: The inert components of every site.
    """
    before = {site: read_bias(model, site).cpu() for site in inert}
    after = {site: before[site] + deltas[site] for site in inert}
    return ProbeResult(before, after, information, inert)


@with_own_threads
def inert_components(
    classifier: Classifier, sites: Sequence[BiasSite], encoded: Encoded, seed: int
) -> dict[BiasSite, Tensor]:
    """Measure on a few short rows which components of the sites change no logit (fp64 or fp32, by random shifts)."""
    usable = np.flatnonzero(encoded.lengths >= min(4, int(encoded.lengths.max())))
    rows = usable[np.argsort(encoded.lengths[usable], kind="stable")][:_INERTNESS_ROWS]
    batch = encoded.batch(rows, classifier.device)
    # An answer and a marked token stand at the end of a text, words stand anywhere in it.
    if encoded.answers is None and encoded.positions is None and not classifier.reads_at_marked_token:
        batch = {name: tensor[:, :_INERTNESS_TOKENS] for name, tensor in batch.items()}
    return measure_inertness(
        classifier.model,
        sites,
        batch=batch,
        seed=seed,
        logits=lambda model, tokens: classifier.with_model(model)(tokens),
    )
