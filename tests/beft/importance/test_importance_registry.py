"""The methods by name: a typo gets the nearest name, missing evidence is named, all names of the settings exist."""

from collections.abc import Iterator

import pytest
import torch

from beft.errors import InputError
from beft.importance.registry import IMPORTANCE_METHODS, importance_method, known_methods, score
from beft.importance.result import Importance
from beft.sites.site import BiasSite

SITE = BiasSite("value", 0, "m", "bias", 0, 2, False)


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(IMPORTANCE_METHODS, "functions", dict(IMPORTANCE_METHODS.functions))
    yield


def test_the_methods_are_the_files() -> None:
    assert known_methods() == ("fisher", "magnitude", "magnitude_l2", "projection_ratio")


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="Did you mean 'projection_ratio'"):
        score("projecton_ratio", before={}, after={})


def test_missing_evidence_is_named() -> None:
    with pytest.raises(InputError, match="'fisher' needs information"):
        score("fisher", before={SITE: torch.ones(2)}, after={SITE: torch.ones(2)})


def test_each_method_gets_only_what_its_signature_names() -> None:
    evidence = {
        "before": {SITE: torch.tensor([1.0, 0.0])},
        "after": {SITE: torch.tensor([0.0, 1.0])},
        "information": {SITE: torch.tensor([4.0, 6.0])},
    }
    measured = {name: score(name, **evidence).scores["value"] for name in known_methods()}
    assert measured == {
        "projection_ratio": (1.0,),
        "magnitude": (1.0,),
        "magnitude_l2": (1.0,),
        "fisher": (5.0,),
    }


def test_a_new_method_is_one_function(clean_registry: None) -> None:
    @importance_method("largest_change")
    def largest_change(after: dict[BiasSite, torch.Tensor]) -> Importance:
        return Importance("largest_change", {site.term: [float(v.abs().max())] for site, v in after.items()})

    assert score("largest_change", before={}, after={SITE: torch.tensor([1.0, -3.0])}).scores == {"value": (3.0,)}
    with pytest.raises(ValueError, match="registered twice"):
        importance_method("largest_change")(largest_change)
