"""``train.method: auto`` through a session where frozen features win: the adapter holds zeros and a whole head."""

import random

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from beft.datasets.dataset import Dataset
from beft.datasets.prepared import Rows
from beft.inference.features import extract_features
from beft.inference.predictor import Predictor
from beft.settings import Settings
from beft.training.automatic.candidates import FROZEN
from beft.training.opening import open_session
from tests.conftest import build_tiny
from tests.support.tiny_bases import WORDS, load, save_base


def texts_of(rows):
    chooser = random.Random(0)
    return list(dict.fromkeys(" ".join(chooser.choices(WORDS, k=chooser.randint(3, 9))) for _ in range(rows)))


def seen(folder, texts):
    """What the output layer of a base in a folder sees, [texts, hidden]."""
    classifier = load(folder)
    rows = Rows([str(row) for row in range(len(texts))], list(texts), None, [0] * len(texts))
    return extract_features(classifier, classifier.examples(rows, 32).encoded, "head").double().numpy()


@pytest.mark.parametrize("train", ["output", "full"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_adapter_predicts_through_the_layers_below_the_output_layer(family, train, tmp_path):
    """BERT's pooler comes with the base, RoBERTa's first layer is drawn; both are part of a full head."""
    base = save_base(tmp_path / "base", build_tiny(family))
    texts = texts_of(400)
    features = seen(base, texts)
    along = (features - features.mean(0)) @ np.linalg.svd(features - features.mean(0))[2][0]
    data = Dataset.from_rows(texts, ["up" if one > np.median(along) else "down" for one in along], test_rows=60)
    settings = {
        "base": {"source": str(base), "threads": 1, "precision": "fp32", "device": "cpu"},
        "datasets": {data.name: {"max_length": 32}},
        "head": {"train": train, "pooling": "model"},
        # Steps so large leave nothing of what the base knows.
        "train": {"method": "auto", "epochs": 2, "learning_rates": [1.0], "search_minutes": 1e-4},
    }
    session = open_session(Settings.from_mapping(settings), data)
    trained = session.train(["value"])
    assert trained.choice.chosen.candidate.name == FROZEN
    assert not any(delta.any() for delta in trained.adapter.deltas.values())
    assert set(trained.run.head) == set(session.classifier.head_parameters(train))

    rows = [data.rows(split) for split in ("train", "dev")]
    learnt, labels = [text for of in rows for text in of.texts], [label for of in rows for label in of.labels]
    of_rows, test = seen(base, learnt), data.rows("test").texts
    mean, deviation = of_rows.mean(0), of_rows.std(0)
    model = LogisticRegression(C=trained.choice.chosen.penalty, tol=1e-8, max_iter=100_000)
    model.fit((of_rows - mean) / deviation, labels)
    expected = model.predict_proba((seen(base, test) - mean) / deviation)
    trained.adapter.save(tmp_path / "adapter")
    answers = Predictor(tmp_path / "adapter", base=base).predict(test)
    given = [[row["probabilities"][label] for label in session.classifier.labels] for row in answers]
    np.testing.assert_allclose(given, expected, atol=5e-3)
    assert np.ptp(expected[:, 0]) > 0.5
