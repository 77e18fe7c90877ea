"""score: the importance of every bias term by every method, and the target term."""

from collections.abc import Mapping
from pathlib import Path

from beft.files import write_json
from tasks.loading import read_sites, read_vectors
from tasks.settings import PipelineSettings
from tasks.step import JSON, Step


def score(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write the tables, the selection and the heat map.

    Raises:
        InputError: A candidate is no term of this base, or all of them are inert.
        BeftError: The probe moved none of the candidates.
    """
    from beft.importance import choose_target
    from beft.importance import score as score_by
    from beft.importance.heatmap import draw_heatmap
    from beft.inertness import inert_terms

    folder = inputs["probe"]
    inert = read_sites(folder / "sites.json")
    sites = tuple(inert)
    evidence = {
        "before": read_vectors(folder / "before.safetensors", sites),
        "after": read_vectors(folder / "after.safetensors", sites),
        "information": read_vectors(folder / "fisher.safetensors", sites),
    }
    tables = [score_by(method, **evidence) for method in settings.score.methods]
    terms = inert_terms(inert)
    candidates = settings.score.candidates
    selection = choose_target(
        tables,
        candidates,
        {} if settings.protocol == "paper" else terms,
        any(site.added for site in sites if site.term in candidates),
        settings.score.select_by,
    )
    found = {
        "tables": {table.method: table.to_json() for table in tables},
        "inert": {
            term: {
                "inert": flag,
                "inert_components": sum(int(mask.sum()) for site, mask in inert.items() if site.term == term),
                "components": sum(site.width for site in sites if site.term == term),
                "added": any(site.added for site in sites if site.term == term),
            }
            for term, flag in terms.items()
        },
        "selection": selection.to_json(),
    }
    write_json(out / "importance.json", found)
    draw_heatmap(tables, out / "importance.png", selection=selection, inert=terms)
    draw_heatmap(tables, out / "importance.svg", selection=selection, inert=terms)
    return {"target": selection.term, "method": selection.method, "reason": selection.reason}


score_step = Step(score, reads=("probe",), sections=("protocol", "score"))
