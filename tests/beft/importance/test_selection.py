"""The target term: never inert, never by a direction that is not there, and always with its reason."""

import json
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from beft.errors import BeftError, InputError
from beft.importance.registry import score
from beft.importance.result import Importance
from beft.importance.selection import Selection, choose_target
from beft.settings import TERMS
from beft.sites.site import BiasSite

torch.set_num_threads(1)

QKV = ("query", "key", "value")


def table(method: str = "projection_ratio", **scores: Any) -> Importance:
    values = {term: score if isinstance(score, list) else [score] for term, score in scores.items()}
    return Importance(method, values)


def test_the_highest_score_is_chosen() -> None:
    chosen = choose_target([table(query=0.157, key=0.01, value=0.602)], QKV, {}, False, "projection_ratio")
    assert (chosen.term, chosen.method) == ("value", "projection_ratio")
    assert chosen.ranking == (("value", 0.602), ("query", 0.157), ("key", 0.01))
    assert "0.602 against query 0.157, key 0.01" in chosen.reason


def test_an_inert_key_at_the_top_is_not_chosen() -> None:
    """In half precision the optimiser scales rounding noise up until the key bias leads with 0.999."""
    tables = [table(query=0.157, key=0.999, value=0.604)]
    chosen = choose_target(tables, QKV, {"key": True, "query": False}, False, "projection_ratio")
    assert chosen.term == "value"
    assert chosen.inert == ("key",)
    assert "key" not in dict(chosen.ranking)
    assert "inert term (shifting changes no logit): key" in chosen.reason


def test_the_papers_protocol_leaves_nothing_out() -> None:
    assert choose_target([table(query=0.157, key=0.999, value=0.604)], QKV, {}, False).term == "key"


def test_terms_that_are_no_candidates_are_not_chosen() -> None:
    assert choose_target([table(query=0.2, value=0.3, output=0.9)], ("query", "value"), {}).term == "value"


def test_added_biases_are_chosen_by_fisher_with_magnitude_beside() -> None:
    tables = {
        "projection_ratio": table(query=[None, None], key=[None, 0.0], value=[None, None]),
        "magnitude": table("magnitude", query=0.3, key=0.2, value=0.1),
        "fisher": table("fisher", query=1e-6, key=2e-6, value=3e-6),
    }
    chosen = choose_target(tables, QKV, {}, True, "projection_ratio")
    assert (chosen.term, chosen.method, chosen.requested) == ("value", "fisher", "projection_ratio")
    assert "added" in chosen.reason and "fisher chooses instead" in chosen.reason
    assert chosen.by_method is not None
    assert chosen.by_method["magnitude"][0] == ("query", 0.3)


def test_one_added_candidate_stops_projection_ratio_for_all() -> None:
    """Existing terms are never compared by projection ratio with one that has no direction."""
    before_and_after = {
        BiasSite("query", 0, "q", "bias", 0, 2, False): (torch.ones(2), torch.tensor([1.0, -1.0])),
        BiasSite("value", 0, "v", "bias", 0, 2, True): (torch.zeros(2), torch.ones(2)),
    }
    before = {site: pair[0] for site, pair in before_and_after.items()}
    after = {site: pair[1] for site, pair in before_and_after.items()}
    tables = [score(name, before=before, after=after) for name in ("projection_ratio", "magnitude")]
    for added in (True, False):
        chosen = choose_target(tables, ("query", "value"), {}, added, "projection_ratio")
        assert chosen.method == "magnitude"
        assert "no direction" in chosen.reason


def test_an_inert_candidate_without_direction_stops_nothing() -> None:
    tables = [table(query=0.2, key=[None], value=0.4), table("fisher", query=3.0, key=2.0, value=1.0)]
    assert choose_target(tables, QKV, {"key": True}, False).method == "projection_ratio"


def test_another_method_that_is_asked_for_is_kept() -> None:
    tables = [
        table(query=[None], value=[None]),
        table("magnitude", query=2.0, value=1.0),
        table("fisher", query=1, value=2),
    ]
    assert choose_target(tables, ("query", "value"), {}, True, "magnitude").method == "magnitude"


def test_without_fisher_and_magnitude_added_biases_cannot_be_chosen() -> None:
    with pytest.raises(BeftError, match="name fisher or magnitude"):
        choose_target([table(query=[None], value=[None])], ("query", "value"), {}, True)


def test_only_inert_candidates_are_an_error() -> None:
    with pytest.raises(InputError, match="every candidate is inert"):
        choose_target([table(query=1.0, key=1.0)], ["key"], {"key": True})


def test_no_candidates_are_an_error() -> None:
    with pytest.raises(InputError, match="no candidates"):
        choose_target([table(query=1.0)], [], {})


def test_a_probe_that_moved_nothing_chooses_nothing() -> None:
    with pytest.raises(BeftError, match="did not move"):
        choose_target([table(query=0.0, value=0.0)], ("query", "value"), {})


def test_typos_are_answered_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="Did you mean 'value'"):
        choose_target([table(query=1.0, value=1.0)], ["vlaue"], {})
    with pytest.raises(InputError, match="Did you mean 'projection_ratio'"):
        choose_target([table(query=1.0)], ["query"], {}, False, "projection")


def test_a_method_that_was_not_computed_is_told() -> None:
    with pytest.raises(InputError, match="fisher cannot choose, since it was not computed"):
        choose_target([table(query=1.0)], ["query"], {}, False, "fisher")


def test_a_tie_is_told() -> None:
    chosen = choose_target([table(query=1.0, value=1.0)], ("value", "query"), {})
    assert chosen.term == "query" and "score the same" in chosen.reason


@given(
    st.dictionaries(st.sampled_from(TERMS), st.floats(0, 2), min_size=1),
    st.dictionaries(st.sampled_from(TERMS), st.booleans()),
    st.permutations(TERMS),
)
def test_the_choice_never_depends_on_the_order_and_is_never_inert(
    scores: dict[str, float], inert: dict[str, bool], order: list[str]
) -> None:
    candidates = [term for term in order if term in scores]
    allowed = {term: scores[term] for term in candidates if not inert.get(term)}
    assume(allowed and max(allowed.values()) > 0)
    chosen = choose_target([table(**scores)], candidates, inert)
    assert chosen.term in allowed and allowed[chosen.term] == max(allowed.values())
    assert chosen == choose_target([table(**scores)], sorted(candidates), inert)
    assert Selection.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_a_method_of_a_package_that_scores_none_of_them_is_named() -> None:
    tables = [table(query=0.1, value=0.2), table("own", query=None, value=None)]
    with pytest.raises(BeftError, match=r"own scores none of the candidates \(query, value\); name another"):
        choose_target(tables, ("query", "value"), {}, False, "own")
