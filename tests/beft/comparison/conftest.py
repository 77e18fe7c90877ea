"""A small dataset, and bases that are opened on it."""

from pathlib import Path

import pytest

from beft.datasets.prepared import PreparedData
from beft.settings import Settings
from beft.training.opening import open_session
from beft.training.session import Session
from tests.conftest import build_tiny
from tests.support.films import prepare_films
from tests.support.tiny_bases import save_base

TRAINING = {"loss": "cross_entropy", "epochs": 2, "batch_size": 8, "learning_rate": 2e-2, "head_learning_rate": 1e-2}


def quiet(_line: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases and the prepared rows of one small dataset."""
    root = tmp_path_factory.mktemp("methods")
    save_base(root / "bert", build_tiny("bert"), pooling="mean")
    save_base(root / "roberta", build_tiny("roberta"))
    save_base(root / "llama", build_tiny("llama"))
    prepare_films(root, root / "prepared")
    return root


def opened_at(folder: Path, base: str = "bert", **changes: object) -> Session:
    """The base on the dataset, in fp64."""
    settings = Settings.from_mapping(
        {
            "base": {"source": str(folder / base), "threads": 1, "precision": "fp64", "device": "cpu"},
            "datasets": {"films": {"size": 80, "max_length": 16}},
            "probe": TRAINING,
            "train": TRAINING,
            "evaluate": {"resamples": 200},
            **changes,
        }
    )
    return open_session(settings, PreparedData.from_folder(folder / "prepared"))


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return opened_at(folder)
