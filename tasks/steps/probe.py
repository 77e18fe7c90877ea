"""probe: fine-tune all bias terms at once, and keep every bias before and after, and Fisher information."""

from collections.abc import Mapping
from pathlib import Path

from beft.datasets.prepared import PreparedData
from beft.files import write_json
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
    from beft.training.opening import open_session

    assert dataset is not None
    session = open_session(settings, PreparedData.from_folder(inputs["prepare"]))
    found = session.probe(checkpoints=checkpoints)
    training = found.training
    found.evidence.save(out)
    write_json(out / "history.json", training.history)
    training.adapter.save(out / "adapter")
    facts = {
        "terms": list(training.adapter.terms),
        "frozen_sites": [site.name for site in found.frozen],
        "metric": session.metric,
        "truncated": session.sample.truncated,
        **training.facts(),
    }
    write_json(out / "probe.json", facts)
    write_json(out / "cost.json", training.cost())
    return {"steps": training.run.steps, "steps_here": training.run.steps_here, "best_epoch": training.best_epoch}


probe_step = Step(
    probe,
    reads=("prepare",),
    settings=(
        *CLASSIFIER_SECTIONS,
        "probe",
        "train.loss",  # of the probe as well, where it names none
        "train.temperature",
        "datasets.{dataset}.epochs",
        "datasets.{dataset}.learning_rate",
    ),
    computes=True,
    isolated=True,
    tags=("gpu",),
)
