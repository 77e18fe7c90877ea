"""The importance table: means, ranking, and the way to JSON and back."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beft.errors import InputError
from beft.importance.registry import score
from beft.importance.result import Importance, numbers_of_layers
from beft.settings import TERMS
from beft.sites.site import find_sites

scores = st.none() | st.floats(0, 2)
tables = st.dictionaries(st.sampled_from(TERMS), st.lists(scores, min_size=1, max_size=6), min_size=1).map(
    lambda values: Importance("projection_ratio", values)
)


@given(tables)
def test_json_round_trip(table: Importance) -> None:
    text = json.dumps(table.to_json(), sort_keys=True, allow_nan=False)
    again = Importance.from_json(json.loads(text))
    assert again == table
    assert list(again.scores) == list(table.scores), "the order of the terms is that of the settings"


@given(tables)
def test_ranking_is_by_mean_and_leaves_out_what_has_none(table: Importance) -> None:
    means = table.mean
    ranking = table.ranking()
    assert set(ranking) == {term for term, layers in table.scores.items() if any(s is not None for s in layers)}
    values = [means[term] for term in ranking]
    assert values == sorted(values, reverse=True)


def test_equal_scores_keep_the_order_of_the_terms() -> None:
    table = Importance("magnitude", {"value": [1.0], "key": [1.0], "query": [1.0]})
    assert table.ranking() == ["query", "key", "value"]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_score_is_a_finite_number(wrong: float) -> None:
    with pytest.raises(InputError, match="not a finite number"):
        Importance("magnitude", {"value": [0.0, wrong]})


def test_a_term_has_layers() -> None:
    with pytest.raises(InputError, match="no layers"):
        Importance("magnitude", {"value": []})


def test_an_encoder_and_a_decoder_are_told_apart(tiny: Callable[..., Any]) -> None:
    """Encoder first, each layer once; the two attentions of a decoder's layer are one vector."""
    sites = find_sites(tiny("bart", decoder_layers=3), ["query", "output", "embedding_norm"])
    before = {site: torch.zeros(site.width) for site in sites}
    after = {site: torch.full((site.width,), 1.0 + site.layer) for site in sites}
    table = score("magnitude", before=before, after=after)
    assert table.stacks == {"encoder": 2, "decoder": 3}
    by_layer = (1.0, 2.0, 3.0, 4.0, 5.0)
    assert table.scores == {"query": by_layer, "output": by_layer, "embedding_norm": (1.0,)}
    assert numbers_of_layers(5, table.stacks) == (1, 2, 1, 2, 3)
    assert Importance.from_json(table.to_json()) == table


def test_one_list_of_layers_has_the_json_that_it_had(tiny: Callable[..., Any]) -> None:
    sites = find_sites(tiny("bert"), ["query"])
    vectors = {site: torch.ones(site.width) for site in sites}
    table = score("magnitude", before=vectors, after=vectors)
    assert "stacks" not in table.to_json()
    assert numbers_of_layers(2, table.stacks) == (1, 2)
