"""The cheap baselines of a session: fitted on the frozen features, with the class weights of the target."""

from pathlib import Path

import numpy as np
import pytest

from beft.comparison.baselines.by_folds import fit_by_folds
from beft.comparison.from_features import fit_head, fit_linear
from beft.comparison.measuring import measure_many
from beft.heads.logistic_regression import fit_logistic_regression
from beft.inference.features import frozen_features
from beft.training.session import Session
from tests.beft.comparison.conftest import TRAINING, opened_at, quiet


def test_cheap_baselines_are_fitted_on_the_frozen_features(session: Session) -> None:
    results = measure_many(session, [("logistic_regression", 0), ("head_only", 0)], progress=quiet)
    sample, test = session.sample, session.rows("test")
    assert sample.dev is not None
    parts = {"train": sample.train, "dev": sample.dev, "test": test}
    pooled = {name: frozen_features(session.classifier, rows.encoded).pooled for name, rows in parts.items()}
    fitted = fit_logistic_regression(
        pooled["train"], sample.train.labels, pooled["dev"], sample.dev.labels, classes=2, metric="accuracy"
    )
    np.testing.assert_allclose(results[0].predictions["test"], fitted.probabilities(pooled["test"]), atol=1e-12)
    assert results[0].dev == fitted.details["dev"]
    tried = {one["learning_rate"] for one in results[1].details["candidates"]}
    assert {2e-2, 1e-2} < tried, "the target's own rates are among them"


def test_cheap_baselines_have_the_class_weights_of_the_target(folder: Path) -> None:
    session = opened_at(folder, train={**TRAINING, "class_weights": "balanced"})
    train, dev = session.sample.train, session.sample.dev
    assert dev is not None
    train = train.take(np.flatnonzero((train.labels == 0) | (np.arange(len(train)) % 4 == 0)))
    rows = {"train": train, "dev": dev}
    features = {name: frozen_features(session.classifier, part.encoded).pooled for name, part in rows.items()}
    linear = fit_linear(session, features, rows)
    for balanced in (True, False):
        expected = fit_logistic_regression(
            features["train"], train.labels, features["dev"], dev.labels, classes=2, balanced=balanced
        )
        assert np.array_equal(linear.weight, expected.weight) == balanced
    head = fit_head(session, features, rows, training=session.head_training(), seed=0)
    assert {one["class_weights"] for one in head.details["candidates"]} == {"balanced"}


@pytest.mark.parametrize(
    ("method", "rare", "tried"), [("auto", 4, ["none", "balanced"]), ("auto", 30, ["none"]), ("fixed", 4, ["none"])]
)
def test_baselines_by_folds_try_the_class_weights_that_auto_compares(
    folder: Path, method: str, rare: int, tried: list[str]
) -> None:
    session = opened_at(folder, train={**TRAINING, "method": method, "learn_from_dev": True, "epochs": 1})
    labels = session.sample.train.labels
    kept = np.concatenate([np.resize(np.flatnonzero(labels == 0), 90), np.flatnonzero(labels == 1)[:rare]])
    rows = session.sample.train.take(kept)
    features = frozen_features(session.classifier, rows.encoded).pooled
    for name, found in fit_by_folds(session, features, features, rows).items():
        weights = {one.get("class_weights", "none") for one in found.details["candidates"]}
        assert weights == set(tried), name
