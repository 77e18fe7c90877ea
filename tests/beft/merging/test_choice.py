"""What is tried on dev, and without it; the numbers of a real run are done again in tests/tasks/steps/test_chain.py."""

from dataclasses import replace

import pytest
import torch

from beft.adapters.adapter import Adapter
from beft.errors import InputError
from beft.merging.choice import choose_merges
from beft.merging.dev import relative_to
from beft.settings import MergeSettings
from beft.sites.site import BiasSite

torch.set_num_threads(1)

SITE = BiasSite("value", 0, "encoder.0.value", "bias", 0, 4, False)


def adapter(*values: float, base: str = "a" * 64) -> Adapter:
    return Adapter(
        deltas={SITE: torch.tensor(values)},
        head={},
        terms=("value",),
        base_id="pypi:tiny==1.0",
        base_sha256=base,
        labels=("no", "yes"),
        pooling="mean",
        max_length=16,
        head_train="output",
        dataset="mine",
    )


def test_without_dev_every_method_has_its_defaults() -> None:
    adapters = {"one": adapter(1.0, 2.0, 3.0, 4.0), "two": adapter(-4.0, 0.0, 1.0, 0.0)}
    settings = MergeSettings(methods=("mean", "task_arithmetic", "ties"), scales=(0.3, 0.5), densities=(0.7,))
    choices = choose_merges(settings, adapters, None)
    assert list(choices) == ["mean", "task_arithmetic", "ties"]
    assert not any(choice.trials for choice in choices.values())
    assert choices["task_arithmetic"].merged.options == {"scale": 1.0}
    assert choices["ties"].merged.options == {"density": 0.2, "scale": 1.0}


def test_dev_rows_that_were_trained_on_choose_nothing() -> None:
    one, two = adapter(1.0, 2.0, 3.0, 4.0), adapter(-4.0, 0.0, 1.0, 0.0)
    adapters = {"one": one, "two": replace(two, provenance={"learns_from_dev": True})}
    lines: list[str] = []
    choices = choose_merges(MergeSettings(), adapters, lambda name: pytest.fail(name), progress=lines.append)
    assert choices["task_arithmetic"].merged.options == {"scale": 1.0}
    [line] = lines
    assert line.startswith("merge: the dev rows of two were trained on, so each method has its default options; to ")
    with pytest.raises(InputError, match=r"searched_weights needs dev rows.*the adapter of two was trained on its"):
        choose_merges(MergeSettings(methods=("searched_weights",)), adapters, lambda name: pytest.fail(name))


def test_weights_are_not_searched_without_dev_rows() -> None:
    settings = MergeSettings(methods=("mean", "searched_weights"))
    with pytest.raises(InputError, match="searched_weights needs dev rows"):
        choose_merges(settings, {"one": adapter(1.0, 2.0, 3.0, 4.0)}, None)


def test_an_option_that_the_search_does_not_have_is_refused_before_anything_is_opened() -> None:
    adapters = {"one": adapter(1.0, 2.0, 3.0, 4.0), "two": adapter(-4.0, 0.0, 1.0, 0.0)}
    settings = MergeSettings(methods=("searched_weights",))
    with pytest.raises(InputError, match="unknown option of the merge method 'searched_weights' 'scale'"):
        choose_merges(settings, adapters, lambda name: pytest.fail(name), given={"scale": 2.0})


def test_different_bases_are_found_before_anything_is_opened() -> None:
    adapters = {"one": adapter(1.0, 2.0, 3.0, 4.0), "two": adapter(1.0, 2.0, 3.0, 4.0, base="b" * 64)}
    with pytest.raises(InputError, match="different bases"):
        choose_merges(MergeSettings(methods=("searched_weights",)), adapters, lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    ("own", "value", "expected"), [(0.8, 0.6, 0.75), (0.5, 0.5, 1.0), (0.0, 0.1, 1.1), (-0.2, 0.1, 1.3)]
)
def test_a_metric_relative_to_the_own_adapter(own: float, value: float, expected: float) -> None:
    assert relative_to(own, value) == pytest.approx(expected)
