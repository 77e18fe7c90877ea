"""What is NaN or infinite never counts as a value: it is the worst in every choice, and no prediction."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from beft.comparison.baselines.head_only import HeadSearch, fit_head_only
from beft.encoding.examples import LabelledRows
from beft.encoding.tokenization import Encoded
from beft.errors import BeftError
from beft.evaluation.promotion.behaviour import flip_rate
from beft.heads.feature_rows import FeatureRows
from beft.heads.linear import Quality
from beft.inference.generation import generate_answers
from beft.inference.predictions import as_metric_takes
from beft.inference.predictor import Predictor
from beft.merging.dev import DevScore
from beft.merging.methods.searched_weights import Score, best
from beft.metrics.registry import METRICS, rank_on_dev, score_predictions
from beft.metrics.truth import Truth
from beft.models.language_model import LanguageModel
from beft.problems.classification import Classification
from beft.training.engine.schedule import chosen_epoch
from beft.training.learning_rates import best_trial
from tests.beft.inference.test_threads import PROBLEM_TYPES, save_adapter
from tests.conftest import build_tiny
from tests.support.rows import random_rows
from tests.support.tiny_bases import load, make_adapter, save_base

NAN, INF = float("nan"), float("inf")
LABELS = np.array([0, 0, 0, 1])


@pytest.mark.parametrize("name", [name for name, kind in METRICS.items() if kind.takes == "labels"])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_probabilities_that_are_not_finite_score_the_worst(name: str, bad: float) -> None:
    """As labels they would all be the first one, which is right in most rows here."""
    kind = METRICS[name]
    truth = Truth(labels=LABELS, groups=["a", "a", "b", "c"])
    assert score_predictions(name, np.full((4, 2), bad), truth) == kind.lowest
    one = np.array([[0.9, 0.1], [0.9, 0.1], [bad, 0.1], [0.1, 0.9]])
    assert score_predictions(name, one, truth) == kind.lowest


@pytest.mark.parametrize("name", [name for name, kind in METRICS.items() if kind.takes == "values"])
def test_values_that_are_not_finite_score_the_worst(name: str) -> None:
    """Worse than values that run against the truth."""
    truth = Truth(values=np.array([0.1, 0.5, 0.3, 0.7]))
    against = score_predictions(name, -np.array([0.1, 0.5, 0.4, 0.2]), truth)
    assert score_predictions(name, np.array([0.1, NAN, 0.3, 0.7]), truth) == -1 < against < 0


def test_the_best_is_never_one_that_is_not_finite_whatever_the_order() -> None:
    records = [
        {"epoch": 1, "dev_metric": 0.5, "dev_loss": NAN},
        {"epoch": 2, "dev_metric": 0.5, "dev_loss": 0.9},
        {"epoch": 3, "dev_metric": 0.5, "dev_loss": 0.7},
        {"epoch": 4, "dev_metric": NAN, "dev_loss": 0.1},
        {"epoch": 5, "dev_metric": 0.9, "dev_loss": INF},
    ]
    for order in itertools.permutations(records):
        assert chosen_epoch("best", order) == 3
        assert order[best_trial(order)]["epoch"] == 3
        scores = [Score(record["dev_metric"], record["dev_loss"]) for record in order]
        assert best([((1.0,), score) for score in scores])[1] == Score(0.5, 0.7)
        merges = [DevScore({}, record["dev_metric"], record["dev_loss"]) for record in order]
        assert max(merges, key=lambda one: one.rank) == DevScore({}, 0.5, 0.7)
    assert rank_on_dev(NAN, 0.0) == rank_on_dev(1.0, NAN) == (-INF, -INF)


def test_a_candidate_whose_outputs_are_not_finite_is_the_worst_of_a_search() -> None:
    rows = FeatureRows.of(Classification(), np.zeros((4, 3)), LABELS, "dev")
    good = Quality.on("accuracy", np.array([[0.0, 1.0]] * 4), rows, 0.0)
    lost = Quality.on("accuracy", np.full((4, 2), NAN), rows, 1.0)
    assert good > lost
    assert not lost > good


def test_a_search_of_heads_in_which_one_diverges_is_plain_json() -> None:
    random = np.random.default_rng(0)
    features = 1e12 * random.normal(size=(40, 4))
    labels = (features[:, 0] > 0).astype(np.int64)
    found = fit_head_only(features, labels, features, labels, classes=2, search=HeadSearch((1e-3, 1e38), (3,)))
    json.dumps(found.to_json(), allow_nan=False)
    found = fit_head_only(features, labels, features, labels, classes=2, search=HeadSearch((1e38,), (3,)))
    assert found.details["best_epoch"] == 0
    json.dumps(found.to_json(), allow_nan=False)


def test_a_merge_that_is_not_finite_is_plain_json() -> None:
    assert json.loads(json.dumps(DevScore({}, 0.5, NAN).to_json(), allow_nan=False))["loss"] is None


def test_a_choice_that_is_not_finite_is_no_text() -> None:
    class Source:
        choices = (("one", "two"), ("three", "four"))

    rows = LabelledRows(random_rows(2).encoded, np.array([0, 1]), source=Source())  # type: ignore[arg-type]
    assert as_metric_takes("squad_f1", np.array([[NAN, NAN], [0.2, 0.8]]), rows) == ["", "four"]


def test_an_answer_that_became_nan_has_changed() -> None:
    changed = np.array([True, True])
    assert flip_rate(np.array([[0.9, 0.1]] * 2), np.array([[0.9, 0.1], [NAN, NAN]]), changed) == 0.5
    assert flip_rate(np.array([1.0, 2.0]), np.array([1.0, NAN]), changed) == 0.5


def test_a_predictor_whose_base_gives_nan_says_so(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", build_tiny("bert"), pooling="mean")
    make_adapter(load(base, pooling="mean")).save(tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", base=base, device="cpu")
    with torch.no_grad():
        predictor.classifier.output_layer.weight.fill_(NAN)
    predictor._bank.detach()
    with pytest.raises(BeftError, match=r"row 0.*NaN or infinite.*fp32"):
        predictor.predict(["a fine film"])


def test_a_predictor_whose_base_generates_from_nan_says_so(tmp_path: Path) -> None:
    """An empty answer would pass for one."""
    base, folder = save_adapter(build_tiny, tmp_path, *PROBLEM_TYPES["generation"])
    predictor = Predictor(folder, base=base, device="cpu")
    assert predictor.predict(["abc", "ab"])
    output = predictor.classifier.model.get_output_embeddings()
    output.register_forward_hook(lambda _module, _inputs, logits: logits * NAN)
    with pytest.raises(BeftError, match=r"row 7 and 1 more: the base gives NaN or infinite outputs in fp32"):
        predictor.answer(["abc", "ab"], first_row=7)


def test_an_answer_that_is_generated_from_nan_is_none() -> None:
    class Tokenizer:
        eos_token_id, pad_token_id, model_max_length = 2, 1, 64

        def batch_decode(self, rows: list[list[int]], **_: object) -> list[str]:
            return [" ".join(f"t{token}" for token in row) for row in rows]

    model = LanguageModel(build_tiny("opt", causal=True), Tokenizer(), None, (), Classification())
    prompts = Encoded([[5, 6, 7], [8, 9]], None, np.array([3, 2]), 0, 1, pad_left=True)
    assert all(generate_answers(model, prompts, max_new_tokens=3)[0])

    def spoil(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:1] * NAN, output[1:]])

    model.model.get_output_embeddings().register_forward_hook(spoil)
    [answers] = generate_answers(model, prompts, max_new_tokens=3)
    assert answers[0] is None and answers[1]  # the longest is the first of the batch
