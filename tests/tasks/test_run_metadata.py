"""What is found wrong with the settings before anything runs."""

from pathlib import Path

import pytest
import yaml

from beft.errors import InputError, SettingsError
from beft.files import write_text
from tasks.run_metadata import check_settings
from tasks.settings import PipelineSettings
from tests.support.small_data import DESCRIPTION, small_workspace


def test_slices_are_columns_of_a_dataset(tmp_path: Path) -> None:
    root = small_workspace(tmp_path, {"base": {"source": "./nowhere"}})
    columns = {**DESCRIPTION["columns"], "keep": ["domain"]}
    write_text(root / "data" / "datasets" / "mine.yaml", yaml.safe_dump({**DESCRIPTION, "columns": columns}))
    for slices, said in ((["length", "domain"], None), (["domian", "label"], "Did you mean 'domain'")):
        settings = PipelineSettings.read(root / "params.yaml", {"promotion.slices": slices})
        with pytest.raises(SettingsError) as error:  # the base is nowhere
            check_settings(settings, root)
        assert ("promotion.slices" in str(error.value)) == bool(said)
        assert said is None or said in str(error.value)


def test_settings_under_another_ending_are_never_passed_over(tmp_path: Path) -> None:
    (tmp_path / "params.yml").write_text("seed: 7")
    with pytest.raises(
        InputError, match=r"no settings at .*params.yaml, but at .*params.yml: rename it to params.yaml"
    ):
        PipelineSettings.read(tmp_path / "params.yaml")


def test_settings_that_are_no_valid_unicode(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text('base: {source: "a\\ud83d"}')
    with pytest.raises(SettingsError, match="'base': half a surrogate pair in it"):
        PipelineSettings.read(tmp_path / "params.yaml")
    with pytest.raises(SettingsError, match="'tracking': half a surrogate pair in it"):
        PipelineSettings.from_mapping({"tracking": {"experiment": "\udcff"}})


def test_what_a_dataset_is_not_made_for_is_said_before_it_runs(tmp_path: Path) -> None:
    root = small_workspace(tmp_path, {"base": {"source": "./nowhere"}})
    columns = {"text": "review", "labels": "verdict"}
    several = {**DESCRIPTION, "shape": "multi_label", "columns": columns, "metric": "micro_f1"}
    write_text(root / "data" / "datasets" / "mine.yaml", yaml.safe_dump(several))
    settings = PipelineSettings.read(root / "params.yaml", {"train.learn_from_dev": True})
    with pytest.raises(SettingsError, match=r"mine: train.learn_from_dev is true, which is made for .* not for multi_"):
        check_settings(settings, root)


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"learn_from_dev": True, "learning_rates": [0.01, 0.02]}, "train.learning_rates are chosen on dev"),
        ({"learn_from_dev": False, "method": "auto"}, "train.method: auto learns from dev as well"),
    ],
)
def test_dev_does_not_choose_and_teach(train: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        PipelineSettings.from_mapping({"train": train})
