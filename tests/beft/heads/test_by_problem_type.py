"""The cheap baselines of values and of choices: against closed forms and against scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from beft.bank.bank import Bank
from beft.comparison.baselines.head_only import HeadSearch, fit_head_only
from beft.encoding.tokenization import Encoded
from beft.errors import InputError
from beft.heads.by_problem_type import fit_linear_baseline
from beft.heads.conditional_logit import fit_conditional_logit
from beft.heads.one_vs_rest import fit_one_vs_rest
from beft.heads.ridge_regression import fit_ridge_regression
from beft.inference.predictions import sequence_outputs
from beft.inference.runs import LabelledRows
from beft.problems.language_model import LanguageModeling
from beft.problems.multi_label import MultiLabel
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.regression import Regression
from beft.settings import Settings
from beft.training.head_start import head_start
from beft.training.sample import Sample
from tests.support.shapes import PROMPT, task


def values(rows, seed):
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, 6)) * [1, 5, 0.1, 1, 1, 1]
    return features, features @ [1, -0.2, 3, 0, 0, 0.5] + 2 + random.normal(size=rows)


def choices(examples, seed, sizes=None):
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 5, examples) if sizes is None else np.full(examples, sizes)
    features = random.normal(size=(int(sizes.sum()), 4)) * [1, 4, 1, 0.5]
    scores = features @ [1, -0.3, 0, 2] + random.gumbel(size=len(features))
    parts = np.split(scores, np.cumsum(sizes)[:-1])
    encoded = Encoded([[0]] * len(features), None, np.ones(len(features), np.int64), 0, 0)
    labels = np.array([part.argmax() for part in parts])
    return features, LabelledRows(encoded, labels, sizes.astype(np.int64))


def test_ridge_regression_is_the_closed_form_of_the_best_penalty():
    train, dev = values(60, 0), values(40, 1)
    found = fit_ridge_regression(*train, *dev, metric="pearson", penalties=(0.1, 10.0, 1000.0))
    mean, deviation = train[0].mean(0), train[0].std(0)
    scaled, target = (train[0] - mean) / deviation, train[1] - train[1].mean()
    scores = {}
    for penalty in (0.1, 10.0, 1000.0):
        weight = np.linalg.solve(scaled.T @ scaled + penalty * np.eye(6), scaled.T @ target)
        predicted = (dev[0] - mean) / deviation @ weight + train[1].mean()
        scores[penalty] = np.corrcoef(predicted, dev[1])[0, 1], predicted
    best = max(scores, key=lambda penalty: scores[penalty][0])
    assert found.details["penalty"] == best
    assert found.details["dev"] == pytest.approx(scores[best][0], abs=1e-9)
    assert found.details["dev_squared_error"] == pytest.approx(((scores[best][1] - dev[1]) ** 2).mean())
    np.testing.assert_allclose(found.logits(dev[0])[:, 0], scores[best][1], atol=1e-9)
    assert found.trainable_parameters == 7


def test_conditional_logit_of_two_choices_is_logistic_regression_of_their_difference():
    (features, rows), dev = choices(80, 0, sizes=2), choices(40, 1, sizes=2)
    found = fit_conditional_logit(features, rows, *dev, costs=(0.7,))
    scaled = (features - features.mean(0)) / features.std(0)
    difference = scaled[1::2] - scaled[0::2]
    model = LogisticRegression(C=0.7, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(difference, rows.labels)
    np.testing.assert_allclose(found.weight[0] * features.std(0), model.coef_[0], atol=1e-4)


def test_conditional_logit_has_no_slope_where_it_stops():
    (features, rows), dev = choices(60, 0), choices(30, 1)
    found = fit_conditional_logit(features, rows, *dev)
    assert found.details["dev"] > 0.5, "better than guessing among two to four"
    deviation = features.std(0)
    weight = torch.tensor(found.weight[0] * deviation, requires_grad=True)
    scores = torch.from_numpy(features / deviation) @ weight
    losses = [
        -torch.log_softmax(part, 0)[label]
        for part, label in zip(scores.split(rows.sizes.tolist()), rows.labels, strict=True)
    ]
    (torch.stack(losses).sum() + weight.square().sum() / (2 * found.details["C"])).backward()
    assert float(weight.grad.abs().max()) < 1e-2


@pytest.mark.parametrize("kind", ["values", "choices"])
def test_head_only_is_a_plain_loop(kind):
    if kind == "values":
        (features, targets), dev, shape = values(20, 0), values(10, 1), Regression()
        rows, sizes = targets, [1] * 20
    else:
        (features, rows), dev, shape = choices(20, 0), choices(10, 1), MultipleChoice()
        targets, sizes = rows.labels, rows.sizes.tolist()
    metric = "pearson" if kind == "values" else "accuracy"
    search = HeadSearch(learning_rates=(0.03,), epochs=(3,), batch_size=8)
    found = fit_head_only(features, rows, *dev, classes=1, metric=metric, search=search, seed=5, problem_type=shape)
    layer = torch.nn.Linear(features.shape[1], 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.03, eps=1e-6, weight_decay=0.0)
    generator, step, epochs = torch.Generator().manual_seed(5), 0, {}
    of_examples = torch.tensor(features, dtype=torch.float32).split(sizes)
    epochs[0] = layer.weight.detach().numpy().copy()
    for epoch in range(1, 4):
        for batch in torch.split(torch.randperm(20, generator=generator), 8):
            losses = []
            for example in batch.tolist():
                scores = layer(of_examples[example])[:, 0]
                if kind == "values":
                    losses.append((scores[0] - float(targets[example])) ** 2)
                else:
                    losses.append(-torch.log_softmax(scores, 0)[int(targets[example])])
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = 0.03 * (9 - step) / 9
            optimizer.step()
            step += 1
        epochs[epoch] = layer.weight.detach().numpy().copy()
    np.testing.assert_allclose(found.weight, epochs[found.details["best_epoch"]], atol=1e-5)


def sets(rows, seed):
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, 6)) * [1, 5, 0.1, 1, 1, 1]
    scores = features @ random.normal(size=(6, 4)) / 3 + random.normal(size=(rows, 4)) - [0, 1, 2, 90]
    return features, (scores > 0).astype(np.int64)


def test_one_vs_rest_is_a_logistic_regression_for_each_label():
    train, dev = sets(80, 0), sets(40, 1)
    found = fit_one_vs_rest(*train, *dev, costs=(0.1, 1.0))
    mean, deviation = train[0].mean(0), train[0].std(0)
    cost, probabilities = found.details["C"], expit(found.logits(dev[0]))
    assert train[1].any(0).tolist() == [True, True, True, False]
    for label in range(3):
        model = LogisticRegression(C=cost, tol=1e-8, max_iter=10_000)
        model.fit((train[0] - mean) / deviation, train[1][:, label])
        expected = model.predict_proba((dev[0] - mean) / deviation)[:, 1]
        np.testing.assert_allclose(probabilities[:, label], expected, atol=1e-4)
    np.testing.assert_allclose(probabilities[:, 3], 1 / 82)  # no row of train has it
    best = MultiLabel(4).with_thresholds_on(torch.from_numpy(found.logits(dev[0])), dev[1]).thresholds
    expected = f1_score(dev[1], probabilities >= best, average="micro")
    assert found.details["dev"] == pytest.approx(expected)
    assert found.details["dev"] == max(one["dev"] for one in found.details["candidates"])
    assert found.details["dev_cross_entropy"] == pytest.approx(
        -np.log(np.where(dev[1] == 1, probabilities, 1 - probabilities)).sum(1).mean()
    )
    assert found.trainable_parameters == 3 * 7


def test_head_only_learns_label_sets():
    train, dev = sets(80, 0), sets(40, 1)
    search = HeadSearch(learning_rates=(0.1,), epochs=(20,), batch_size=16)
    found = fit_head_only(*train, *dev, classes=4, metric="micro_f1", search=search, problem_type=MultiLabel(4))
    first = found.details["history"][0]["dev_loss"]
    assert found.details["history"][-1]["dev_loss"] < first
    assert found.details["dev"] > 0.6


@pytest.mark.parametrize("name", ["regression", "multi_label", "multiple_choice"])
def test_a_head_starts_where_the_linear_model_on_what_it_sees_is(name):
    toy = task(name, rows=40)
    metric = {"regression": "pearson", "multi_label": "micro_f1", "multiple_choice": "accuracy"}[name]
    sample = Sample(toy.train, toy.dev, metric)
    start = head_start(toy.classifier, sample, Settings.from_mapping({"head": {"init": "logistic_regression"}}))
    shape, rows = toy.classifier.problem_type, toy.train
    every = np.arange(len(rows))

    def loss():
        [outputs] = sequence_outputs(toy.classifier, rows.encoded)
        return shape.mean_loss(outputs, rows.targets(every), rows.sizes_of(every))

    with Bank(toy.classifier.model, {}, start):
        started = loss()
    if name == "multi_label":
        shares = rows.labels.mean(0)
        known = -(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).sum()
    else:
        known = rows.labels.var() if name == "regression" else np.log(rows.sizes).mean()
    assert started < known < loss()


def test_a_shape_without_a_head_has_no_linear_baseline():
    with pytest.raises(InputError, match="language_model"):
        fit_linear_baseline(LanguageModeling(PROMPT), 2, {}, {}, metric="accuracy")
