"""A step is shown the settings that it names, and no others."""

import pytest

from beft.errors import InputError
from tasks.engine.settings_view import restrict_settings, settings_subset
from tasks.settings import PipelineSettings

SETTINGS = PipelineSettings.from_mapping(
    {"seed": 3, "datasets": {"imdb": {"size": 300, "max_length": 64}, "rotten_tomatoes": {}}}
)


def test_what_is_named_is_there() -> None:
    seen = restrict_settings(SETTINGS, ("seed", "train", "datasets.{dataset}.size"), "imdb")
    assert seen.seed == 3
    assert seen.train == SETTINGS.train
    assert seen.datasets["imdb"].size == 300


@pytest.mark.parametrize("name", ["probe", "protocol", "versioning", "base"])
def test_what_is_not_named_is_not(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(restrict_settings(SETTINGS, ("seed",), None), name)


def test_a_step_that_names_nothing_sees_nothing() -> None:
    assert settings_subset(SETTINGS, (), "imdb") == {}
    for name in PipelineSettings.model_fields:
        with pytest.raises(AttributeError, match=name):
            getattr(restrict_settings(SETTINGS, (), "imdb"), name)


def test_naming_a_section_and_a_part_of_it_is_naming_the_section() -> None:
    for sections in (("train", "train.epochs"), ("train.epochs", "train")):
        assert restrict_settings(SETTINGS, sections, None).train == SETTINGS.train


def test_nor_the_rest_of_a_dataset_or_of_a_section() -> None:
    seen = restrict_settings(SETTINGS, ("datasets.{dataset}.size", "train.epochs"), "imdb")
    with pytest.raises(AttributeError, match="max_length"):
        _ = seen.datasets["imdb"].max_length
    with pytest.raises(AttributeError, match="learning_rate"):
        _ = seen.train.learning_rate
    assert seen.train.epochs == SETTINGS.train.epochs
    assert list(seen.datasets) == ["imdb"]


def test_the_original_is_left_alone() -> None:
    before = SETTINGS.model_dump()
    restrict_settings(SETTINGS, (), None)
    assert SETTINGS.model_dump() == before


def test_a_star_is_everything() -> None:
    assert restrict_settings(SETTINGS, ("*",), None) == SETTINGS
    assert settings_subset(SETTINGS, ("*",), None) == SETTINGS.model_dump(mode="json")


def test_the_json_form_holds_what_is_named() -> None:
    assert settings_subset(SETTINGS, ("seed", "datasets.{dataset}.size", "score.methods"), "imdb") == {
        "seed": 3,
        "datasets": {"imdb": {"size": 300}},
        "score": {"methods": ["projection_ratio", "magnitude", "magnitude_l2", "fisher"]},
    }


def test_a_step_over_all_datasets_sees_every_one() -> None:
    assert settings_subset(SETTINGS, ("datasets.{dataset}.max_length",), None) == {
        "datasets": {"imdb": {"max_length": 64}, "rotten_tomatoes": {"max_length": 128}}
    }
    seen = restrict_settings(SETTINGS, ("datasets.{dataset}.max_length",), None)
    assert list(seen.datasets) == ["imdb", "rotten_tomatoes"]


def test_a_dataset_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match="Did you mean 'imdb'"):
        restrict_settings(SETTINGS, ("seed",), "imbd")
