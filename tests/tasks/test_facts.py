"""What is found wrong with the settings before anything runs."""

from pathlib import Path

import pytest
import yaml

from beft.errors import SettingsError
from beft.files import write_text
from tasks.facts import check_settings
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
