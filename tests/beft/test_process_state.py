"""A library call leaves the random generators, threads, filters and log levels of the process as they were."""

import logging
import os
import random
import warnings
from pathlib import Path

import evaluate
import numpy as np
import peft
import pytest
import sklearn.linear_model
import torch
import torch._dynamo
import transformers
from threadpoolctl import threadpool_info, threadpool_limits

from beft.comparison.baselines.lora import Lora
from beft.comparison.measuring import measure_many
from beft.datasets.prepared import PreparedData
from beft.inference.predictions import measure_runs, sequence_outputs
from beft.inference.predictor import Predictor
from beft.inference.runs import Run
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.process_state import one_blas_thread
from beft.settings import Settings
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from beft.training.inspection import inspect_base
from beft.training.opening import open_session
from beft.training.probe import run_probe
from beft.training.session import Session
from beft.training.target import train_terms, train_weights
from tests.conftest import build_tiny
from tests.support.films import prepare_films
from tests.support.rows import plain_settings, random_rows, tiny_classifier
from tests.support.tiny_bases import save_base
from tests.support.weights import accuracy, quiet
from tests.support.weights import run_of as run_of_weights
from tests.support.weights import train as train_weights_of_rows

THREADS = 2
IMPORTED = (evaluate, peft, sklearn.linear_model, torch._dynamo)  # some set filters and variables when first imported


def process_state() -> dict[str, object]:
    """All that a library call could change for everybody else in the process."""
    loggers = [logging.getLogger(name) for name in ("", "transformers", "peft", "sklearn", "matplotlib")]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "filters": list(warnings.filters),
        "levels": [logger.level for logger in loggers],
        "bars": transformers.utils.logging.is_progress_bar_enabled(),
        "verbosity": transformers.utils.logging.get_verbosity(),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "folder": Path.cwd(),
    }


@pytest.fixture
def unchanged():
    """The state of the process, drawn from a seed of the user's own, is the same after the test's body."""
    torch.manual_seed(1234)
    before = process_state()
    yield
    after = process_state()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A tiny base on a small dataset, to be computed with more threads than the process has."""
    root = tmp_path_factory.mktemp("state")
    save_base(root / "bert", build_tiny("bert"), pooling="mean")
    prepare_films(root, root / "prepared")
    training = {"epochs": 1, "batch_size": 8, "dropout": True}
    settings = Settings.from_mapping(
        {
            "base": {"source": str(root / "bert"), "threads": THREADS, "precision": "fp32", "device": "cpu"},
            "datasets": {"films": {"size": 80, "max_length": 16}},
            "probe": training,
            "train": training,
            "evaluate": {"resamples": 100},
        }
    )
    before = torch.get_num_threads()
    found = open_session(settings, PreparedData.from_folder(root / "prepared"))
    assert torch.get_num_threads() == before != THREADS
    return found


@pytest.mark.usefixtures("unchanged")
class TestTheProcessIsAsBefore:
    def test_after_biases_were_trained_with_dropout(self) -> None:
        classifier = tiny_classifier("bert")
        run = run_of_value(classifier)
        fit(classifier, random_rows(16), random_rows(8, seed=1), [run], metric=accuracy, progress=quiet)

    def test_after_a_training_that_was_interrupted(self) -> None:
        classifier = tiny_classifier("bert")

        def interrupt(_predictions: object, _labels: object) -> float:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run = run_of_value(classifier)
            fit(classifier, random_rows(16), random_rows(8, seed=1), [run], metric=interrupt, progress=quiet)

    def test_after_weights_were_trained_with_dropout(self) -> None:
        classifier = tiny_classifier("bert")
        train_weights_of_rows(classifier, Lora(2, 4), run_of_weights(classifier, epochs=1, dropout=True))

    def test_after_a_base_was_loaded_and_inspected(self, session: Session) -> None:
        source = session.settings.base.source
        load_classifier(resolve_base(source), ("a", "b"), compute=Compute("cpu", "fp32", 2), seed=5)
        inspect_base(source, inertness=True)

    def test_after_every_kind_of_method(self, session: Session) -> None:
        methods = ("untouched", "head_only", "logistic_regression", "value", "lora", "prefix", "rand_uniform", "full")
        measure_many(session, [(method, 0) for method in methods], progress=quiet)

    def test_after_the_trainings_of_an_adaptation(self, session: Session, tmp_path: Path) -> None:
        settings, sample = session.settings, session.sample
        training = session.training(settings.train)
        run_probe(session.classifier, sample, settings, training, progress=quiet)
        train_weights(session.classifier, sample, settings, training, Lora(2, 4), progress=quiet)
        result = train_terms(session.classifier, sample, settings, training, ["value"], progress=quiet)
        session.adapter(result, ("value",)).save(tmp_path / "adapter")
        Predictor(tmp_path / "adapter", base=settings.base.source, device="cpu").predict(["a fine film"])


def run_of_value(classifier):

    sites = find_sites(classifier.model, ["value"])
    return Run("run", sites, classifier.head_parameters(), 3, plain_settings(epochs=1, batch_size=8))


def test_everything_is_computed_with_the_threads_of_the_settings(session: Session) -> None:
    """So a result does not depend on how many the process happens to have."""
    seen: set[int] = set()
    handle = session.classifier.model.base_model.register_forward_pre_hook(lambda *_: seen.add(torch.get_num_threads()))
    try:
        settings, sample = session.settings, session.sample
        training = session.training(settings.train)
        run_probe(session.classifier, sample, settings, training, progress=quiet)
        train_terms(session.classifier, sample, settings, training, ["value"], progress=quiet)
        session.predictions(session.rows("test"))
        methods = ("logistic_regression", "value", "lora")
        measure_many(session, [(method, 0) for method in methods], progress=quiet)
    finally:
        handle.remove()
    assert seen == {THREADS}


def test_arguments_may_all_be_named() -> None:
    """Those of functions that compute with the classifier's own threads, too."""
    classifier = tiny_classifier("bert")
    classifier.threads = THREADS
    seen: list[int] = []
    classifier.model.base_model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    rows = random_rows(16)
    run, quietly = run_of_value(classifier), {"metric": accuracy, "progress": quiet}
    fit(classifier=classifier, train=rows, dev=rows, runs=[run], **quietly)
    measure_runs(classifier=classifier, rows=rows, metric=accuracy)
    assert set(seen) == {THREADS}
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'classifier'"):
        sequence_outputs(encoded=rows.encoded)


def test_blas_has_one_thread_for_a_block_and_its_own_after_it() -> None:
    def threads() -> set[int]:
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        assert threads() == {2}
        for _ in range(2):  # the libraries are looked up once
            with one_blas_thread():
                assert threads() == {1}
            assert threads() == {2}


def test_a_predictor_of_a_container_uses_no_more_threads_than_its_quota(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, sample = session.settings, session.sample
    result = train_terms(session.classifier, sample, settings, session.training(settings.train), ["value"])
    session.adapter(result, ("value",)).save(tmp_path / "adapter")
    monkeypatch.setattr("beft.inference.predictor.usable_cores", lambda: 1)
    torch.set_num_threads(THREADS)
    try:
        predictor = Predictor(tmp_path / "adapter", base=settings.base.source, device="cpu")
        seen: list[int] = []
        predictor.classifier.model.base_model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
        predictor.predict(["a fine film"])
        assert set(seen) == {1}
        assert torch.get_num_threads() == THREADS
    finally:
        torch.set_num_threads(1)
