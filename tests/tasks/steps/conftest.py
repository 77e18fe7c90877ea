"""Runs whose gain over the baselines is certain, and is not."""

import pytest

from tests.support.finished_run import FinishedRun
from tests.support.registration import with_evaluation


@pytest.fixture(scope="module")
def certain(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run whose target beats both baselines for certain."""
    return with_evaluation(finished_run, tmp_path_factory.mktemp("certain"), baseline=0.6, target=0.9)


@pytest.fixture(scope="module")
def uncertain(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run whose target is hardly better than the baselines."""
    return with_evaluation(finished_run, tmp_path_factory.mktemp("uncertain"), baseline=0.6, target=0.605)
