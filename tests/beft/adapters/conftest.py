"""A tiny base and an adapter that was saved of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beft.models.classifier import Classifier
from tests.support.tiny_bases import load, make_adapter, save_base


@pytest.fixture(scope="module")
def bert(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A classifier over a tiny BERT in a folder."""
    return load(save_base(tmp_path_factory.mktemp("bert") / "base", tiny("bert")))


@pytest.fixture(scope="module")
def saved(bert: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved adapter of it, only to be copied."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    make_adapter(bert).save(folder)
    return folder
