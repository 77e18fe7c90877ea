"""Biases that a base never had: zero before the probe, so they have no direction, and projection ratio never chooses.

Had they been scored like the others, whatever moved would get 1, and the first term in the settings would be chosen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from beft.bank.bank import Bank
from beft.bank.inertness import inert_terms, measure_inertness
from beft.errors import BeftError
from beft.importance.methods.fisher import fisher_information
from beft.importance.methods.projection_ratio import projection_ratio_of
from beft.importance.probe_result import ProbeResult
from beft.importance.registry import score
from beft.settings import Settings
from beft.sites.site import BiasSite, find_sites, read_bias
from beft.studies.heatmap import draw_heatmap
from tests.beft.importance.methods.test_fisher import Plain

torch.set_num_threads(1)

Probe = Callable[[str, tuple[str, ...]], ProbeResult]


@pytest.fixture
def probe(tiny: Callable[..., Any]) -> Probe:
    """A probe of 30 steps over a tiny base, with biases added where it has none."""

    def run(family: str, terms: tuple[str, ...]) -> ProbeResult:
        model = tiny(family, dtype=torch.float64).requires_grad_(False)
        sites = find_sites(model, terms, add=True)
        ids = torch.randint(3, 128, (16, 8), generator=torch.Generator().manual_seed(0))
        batch, labels = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids[:, -1] % 3
        information = fisher_information(Plain(model), [(batch, labels)], sites)
        inert = measure_inertness(model, sites, batch=batch)
        deltas = {site: torch.zeros(site.width, dtype=torch.float64, requires_grad=True) for site in sites}
        optimizer = torch.optim.AdamW(deltas.values(), lr=1e-2, weight_decay=0.0)
        with Bank(model, deltas):
            for _ in range(30):
                optimizer.zero_grad()
                functional.cross_entropy(model(**batch).logits, labels).backward()
                optimizer.step()
        before = {
            site: torch.zeros(site.width, dtype=torch.float64) if site.added else read_bias(model, site)
            for site in sites
        }
        after = {site: before[site] + deltas[site].detach() for site in sites}
        return ProbeResult(before, after, information, inert)

    return run


def settings(candidates: tuple[str, ...], **changes: Any) -> Settings:
    return Settings.from_mapping({"score": {"candidates": list(candidates), **changes}})


def test_added_biases_are_chosen_by_fisher_and_it_is_said(probe: Probe, tmp_path: Path) -> None:
    terms = ("query", "key", "value")
    evidence = probe("llama", terms)
    assert all(site.added for site in evidence.inert)
    moved = [site for site, after in evidence.after.items() if after.any()]
    assert all(projection_ratio_of(evidence.before[site], evidence.after[site]) == 1.0 for site in moved)
    scores = evidence.scores(settings(terms))
    by_method = {table.method: table for table in scores.tables}
    assert by_method["projection_ratio"].mean == dict.fromkeys(terms)
    chosen = scores.selection
    assert (chosen.requested, chosen.method) == ("projection_ratio", "fisher")
    # Independently: the largest mean of the squared gradients, averaged over the layers.
    means = {
        term: sum(float(vector.mean()) for site, vector in evidence.information.items() if site.term == term)
        for term in terms
    }
    assert chosen.term == max(means, key=lambda term: means[term])
    assert "Biases were added to this base" in chosen.reason and "fisher chooses instead" in chosen.reason
    assert "magnitude" in chosen.reason, "it stands beside"
    assert (
        chosen.by_method is not None
        and [term for term, _ in chosen.by_method["magnitude"]] == by_method["magnitude"].ranking()
    )
    draw_heatmap(scores.tables, tmp_path / "heat.svg", selection=chosen)
    assert "no direction: zero before training" in (tmp_path / "heat.svg").read_text()


def test_added_and_existing_terms_are_never_compared_by_projection_ratio(probe: Probe) -> None:
    terms = ("query", "value", "attention_output")
    evidence = probe("qwen2", terms)
    assert {site.term for site in evidence.inert if site.added} == {"attention_output"}
    together = evidence.scores(settings(terms)).selection
    assert together.method == "fisher" and "added" in together.reason
    assert {term for term, _ in together.ranking} == set(terms)
    alone = evidence.scores(settings(("query", "value"))).selection
    assert alone.method == "projection_ratio", "terms that the base has are compared by direction, as everywhere"
    assert "added" not in alone.reason


def test_an_added_term_that_is_inert_stops_no_comparison_by_direction() -> None:
    """A base whose key projection alone has no bias: what is left to choose from has a direction."""
    width = 2
    sites = {term: BiasSite(term, 0, term, "bias", 0, width, added=term == "key") for term in ("query", "key", "value")}
    before = {site: torch.zeros(width) if site.added else torch.ones(width) for site in sites.values()}
    after = {site: before[site] + {"query": 0.1, "key": 0.5, "value": 0.4}[site.term] for site in sites.values()}
    inert = {site: torch.full((width,), site.added) for site in sites.values()}
    evidence = ProbeResult(before, after, after, inert)
    chosen = evidence.scores(settings(tuple(sites))).selection
    assert (chosen.term, chosen.method, chosen.inert) == ("value", "projection_ratio", ("key",))
    of_paper = Settings.from_mapping({"protocol": "paper", "score": {"candidates": list(sites)}})
    assert evidence.scores(of_paper).selection.method == "fisher"


def test_without_fisher_and_magnitude_nothing_is_chosen_among_added_biases(probe: Probe) -> None:
    terms = ("query", "value")
    with pytest.raises(BeftError, match=r"no direction to compare with; name fisher or magnitude in score\.methods"):
        probe("llama", terms).scores(settings(terms, methods=["projection_ratio"]))


def test_magnitude_of_an_added_bias_is_its_size(probe: Probe) -> None:
    evidence = probe("llama", ("value",))
    found = score("magnitude", before=evidence.before, after=evidence.after).scores["value"]
    sizes = [float(after.abs().mean()) for _, after in sorted(evidence.after.items())]
    assert found == pytest.approx(sizes) and min(sizes) > 0
    assert inert_terms(evidence.inert) == {"value": False}
