"""score: the importance of every bias term by every method, and the target term."""

from collections.abc import Mapping
from pathlib import Path

from beft.files import write_json
from tasks.engine.declaration import JSON, Step
from tasks.settings import PipelineSettings


def score(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write the tables, the selection and the heat map.

    Raises:
        InputError: A candidate is no term of this base, or all of them are inert.
        BeftError: The probe moved none of the candidates.
    """
    from beft.importance.probe_result import ProbeResult
    from beft.studies.heatmap import draw_heatmap

    scores = ProbeResult.load(inputs["probe"]).scores(settings)
    write_json(out / "importance.json", scores.to_json())
    inert = {term: scores.is_inert(term) for term in scores.inert}
    for ending in ("png", "svg"):
        draw_heatmap(scores.tables, out / f"importance.{ending}", selection=scores.selection, inert=inert)
    return {
        "target": scores.selection.term,
        "method": scores.selection.method,
        "reason": scores.selection.reason,
    }


score_step = Step(score, reads=("probe",), settings=("protocol", "score"))
