"""probe: fine-tune all bias terms at once, and keep every bias before and after, and Fisher information."""

from collections.abc import Mapping
from pathlib import Path

from beft.files import write_json
from beft.settings import TERMS
from beft.training.adaptation import run_probe
from beft.training.session import open_classifier, training_cost, training_facts
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings


def probe(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    dataset: str | None = None,
    checkpoints: Path | None = None,
) -> dict[str, JSON]:
    """Write before, after and Fisher information of every bias site, the adapter of all terms, and its history.

    Raises:
        InputError: The base cannot be reached or has no bias terms.
    """
    assert dataset is not None
    opened = open_classifier(settings, inputs["prepare"], dataset)
    sample = opened.sample()
    training = opened.training(settings.probe)
    found = run_probe(opened.classifier, sample, settings, training, checkpoints=checkpoints)
    terms = tuple(sorted({site.term for site in found.evidence.before}, key=TERMS.index))
    adapter = opened.adapter(found.result, terms)
    found.evidence.save(out)
    write_json(out / "history.json", found.result.history)
    adapter.save(out / "adapter")
    facts = {
        "terms": list(terms),
        "frozen_sites": [site.name for site in found.frozen],
        "metric": sample.metric,
        "truncated": sample.truncated,
        **training_facts(found.result, adapter),
    }
    write_json(out / "probe.json", facts)
    write_json(out / "cost.json", training_cost(found.result, adapter))
    return {"steps": found.result.steps, "steps_here": found.result.steps_here, "best_epoch": found.result.best_epoch}


probe_step = Step(
    probe,
    reads=("prepare",),
    sections=(*CLASSIFIER_SECTIONS, "probe", "datasets.{dataset}.epochs", "datasets.{dataset}.learning_rate"),
    computes=True,
    own_process=True,
    tags=("gpu",),
)
