"""The baselines against scikit-learn pipelines, stationarity of the objective, and torch.optim.AdamW."""

import json
import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from beft.comparison.baselines.head_only import HeadSearch, fit_head_only
from beft.errors import InputError
from beft.heads.logistic_regression import (
    C_GRID,
    TOLERANCE,
    fit_logistic_regression,
    logistic_path,
    logistic_regression_head,
)
from beft.inference.features import extract_features
from beft.inference.runs import Run
from beft.training.engine.fit import fit as train_runs
from beft.training_settings import TrainingSettings
from tests.support.rows import plain_settings, random_rows, tiny_classifier

torch.set_num_threads(1)

Rows = tuple[np.ndarray, np.ndarray]


def rows(count: int, classes: int, seed: int, *, hidden: int = 6, noise: float = 1.5) -> Rows:
    """Features [count, hidden] of very different scales, and labels [count] that depend on some of them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, hidden))
    features = centres[labels] + noise * generator.normal(size=(count, hidden))
    return features * np.logspace(-2, 2, hidden) + np.arange(hidden), labels


def pipeline(cost: float, train: Rows, class_weight: str | None = None) -> LogisticRegression:
    """An independent fit: scikit-learn's own scaler and solver, to a tight tolerance."""
    settings = {"max_iter": 100_000, "tol": 1e-10, "solver": "newton-cg", "class_weight": class_weight}
    return make_pipeline(StandardScaler(), LogisticRegression(C=cost, **settings)).fit(*train)


def one_scale(cost: float, train: Rows) -> LogisticRegression:
    """As ``pipeline``, but all features are divided by one number."""
    mean, scale = train[0].mean(0), train[0].std(0).mean()
    scaler = FunctionTransformer(lambda features: (features - mean) / scale)
    model = make_pipeline(scaler, LogisticRegression(C=cost, max_iter=100_000, tol=1e-10, solver="newton-cg"))
    return model.fit(*train)


def test_the_head_has_no_huge_weight_for_a_feature_that_hardly_varies() -> None:
    features, labels = rows(100, 2, 0)
    features[:, 3] *= 1e-4
    dev, dev_labels = rows(60, 2, 1)
    weight, _ = logistic_regression_head(features, labels, 2, dev_features=dev, dev_labels=dev_labels)
    assert weight[:, 3].abs().max() < weight.abs().max()


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_the_scikit_learn_pipeline_of_the_best_c(classes: int) -> None:
    train, dev, test = rows(120, classes, 0), rows(60, classes, 1), rows(50, classes, 2)
    fitted = fit_logistic_regression(*train, *dev, classes=classes)
    by_hand = []
    for cost in C_GRID:
        model = pipeline(cost, train)
        loss = -np.log(model.predict_proba(dev[0])[np.arange(60), dev[1]]).mean()
        by_hand.append((model.score(*dev), -loss, -cost))
    best = max(by_hand)
    assert fitted.details["C"] == -best[2]
    assert fitted.details["dev"] == pytest.approx(best[0])
    assert fitted.details["dev_cross_entropy"] == pytest.approx(-best[1], abs=1e-4)
    model = pipeline(-best[2], train)
    assert fitted.probabilities(test[0]) == pytest.approx(model.predict_proba(test[0]), abs=1e-3)
    assert fitted.trainable_parameters == sum(part.size for part in (model[-1].coef_, model[-1].intercept_))
    json.dumps(fitted.to_json(), allow_nan=False)


@pytest.mark.parametrize("classes", [2, 3])
def test_each_c_of_a_path_is_a_fit_from_nothing(classes: int) -> None:
    """The fits of a path start one from the other, and are the independent ones all the same."""
    train = rows(120, classes, 0)
    path = list(logistic_path(*train, classes, C_GRID, "each", intercept=True))
    assert [cost for cost, *_ in path] == list(C_GRID)
    for cost, weight, bias, _ in path:
        expected = pipeline(cost, train).predict_log_proba(train[0])
        assert log_softmax(train[0] @ weight.T + bias, axis=1) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_balanced_logistic_regression_is_scikit_learn_s(classes: int) -> None:
    features, labels = rows(200, classes, 0)
    train = unequal(features, labels)
    fitted = fit_logistic_regression(*train, *rows(60, classes, 1), classes=classes, balanced=True)
    model = pipeline(fitted.details["C"], train, "balanced")
    assert fitted.probabilities(features) == pytest.approx(model.predict_proba(features), abs=1e-3)
    plain = pipeline(fitted.details["C"], train)
    assert np.abs(plain.predict_proba(features) - model.predict_proba(features)).max() > 0.01


def unequal(features: np.ndarray, labels: np.ndarray) -> Rows:
    """Rows of which the first label has most."""
    kept = (labels == 0) | (np.arange(len(labels)) % 4 == 0)
    return features[kept], labels[kept]


def test_the_grid_is_the_promised_one() -> None:
    assert C_GRID[0] == pytest.approx(1e-3)
    assert C_GRID[-1] == pytest.approx(1e2)
    assert np.ptp(np.diff(np.log10(C_GRID))) < 1e-9


def test_only_train_standardises_and_only_dev_chooses() -> None:
    train, dev = rows(100, 2, 0), rows(60, 2, 1)
    shifted = (dev[0] * 50 + 1000, dev[1])
    one, other = fit_logistic_regression(*train, *dev, classes=2), fit_logistic_regression(*train, *shifted, classes=2)
    by_cost = {candidate["C"]: candidate for candidate in one.details["candidates"]}
    assert list(by_cost) == [candidate["C"] for candidate in other.details["candidates"]]
    model = pipeline(other.details["C"], train)
    # Whatever dev looks like, the layer is the one that train alone gives for the chosen C.
    expected = model.decision_function(train[0])
    assert other.logits(train[0]) @ np.array([-1, 1]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
def test_every_fit_has_converged(classes: int) -> None:
    """The gradient of the mean penalised loss is zero at the solution, and no warning is left."""
    train, dev = rows(40, classes, 0, hidden=30, noise=0.2), rows(30, classes, 1, hidden=30, noise=0.2)  # separable
    standardised = (train[0] - train[0].mean(0)) / train[0].std(0)
    for cost in (1e-3, 1.0, 1e2):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            fitted = fit_logistic_regression(*train, *dev, classes=classes, costs=[cost])
        weight = fitted.weight * train[0].std(0)
        bias = fitted.bias + fitted.weight @ train[0].mean(0)
        surprise = softmax(standardised @ weight.T + bias, axis=1) - np.eye(classes)[train[1]]
        # Two rows w/2 and -w/2 stand for one row w, so the penalty on them counts twice.
        penalty = weight * (2 if classes == 2 else 1) / (cost * 40)
        assert np.abs(surprise.T @ standardised / 40 + penalty).max() < 3 * TOLERANCE
        assert np.abs(surprise.mean(0)).max() < 3 * TOLERANCE


def test_the_metric_chooses() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(200) < 0.15).astype(int)
    features = labels[:, None] * 1.2 + generator.normal(size=(200, 5))
    train, dev = (features[:120], labels[:120]), (features[120:], labels[120:])
    fitted = fit_logistic_regression(*train, *dev, classes=2, metric="f1")
    by_hand = max(f1_score(dev[1], pipeline(cost, train).predict(dev[0])) for cost in C_GRID)
    assert fitted.details["dev"] == pytest.approx(by_hand)
    with pytest.raises(InputError, match="use macro_f1"):
        fit_logistic_regression(*rows(30, 3, 0), *rows(30, 3, 1), classes=3, metric="f1")


@pytest.mark.parametrize("with_dev", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_s_logits_are_scikit_learn_s_decision_function(classes: int, with_dev: bool) -> None:
    train, dev = rows(150, classes, 0), rows(60, classes, 1)
    given = {"dev_features": torch.tensor(dev[0]), "dev_labels": dev[1]} if with_dev else {}
    weight, bias = logistic_regression_head(torch.tensor(train[0]), train[1], classes, 5, **given)
    assert (weight.shape, bias.shape) == ((classes, 6), (classes,))
    assert weight.dtype == bias.dtype == torch.float32
    logits = (torch.tensor(dev[0]) @ weight.double().T + bias.double()).numpy()
    decisions = [one_scale(cost, train).decision_function(dev[0]) for cost in C_GRID]
    found = logits[:, 1] - logits[:, 0] if classes == 2 else logits
    errors = [float(np.abs(found - decision).max()) for decision in decisions]
    assert min(errors) < 2e-3  # one C of the grid, exactly
    if with_dev:
        losses = [log_loss(dev[1], one_scale(cost, train).predict_proba(dev[0])) for cost in C_GRID]
        assert int(np.argmin(errors)) == int(np.argmin(losses)), "the C with the lowest cross-entropy on dev"
    if classes == 2:
        assert torch.equal(weight[0], -weight[1])
        assert torch.equal(bias[0], -bias[1])
        assert softmax(logits, axis=1)[:, 1] == pytest.approx(expit(found))


def test_the_head_is_the_same_again_and_its_folds_are_seeded() -> None:
    train = rows(60, 2, 0)
    first, again = (logistic_regression_head(*train, 2, 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    rare = (train[0], np.eye(60, dtype=int)[0])  # one row of a label: no folds, and still a head
    assert logistic_regression_head(*rare, 2)[0].shape == (2, 6)


def test_a_label_that_train_lacks_is_all_but_impossible() -> None:
    features, labels = rows(80, 2, 0)
    fitted = fit_logistic_regression(features, labels * 2, features, labels * 2, classes=4)
    probabilities = fitted.probabilities(features)
    assert probabilities.shape == (80, 4)
    assert probabilities[:, [1, 3]].mean() < 0.02
    assert not fitted.weight[[1, 3]].any()


def test_constant_and_bfloat16_features_do_no_harm() -> None:
    features, labels = rows(60, 2, 0)
    features[:, 2] = 7.3
    as_bfloat16 = torch.tensor(features).to(torch.bfloat16)
    fitted = fit_logistic_regression(as_bfloat16, labels, as_bfloat16, labels, classes=2)
    assert np.isfinite(fitted.weight).all()
    assert fitted.probabilities(as_bfloat16).sum(1) == pytest.approx(1)
    head = fit_head_only(as_bfloat16, labels, as_bfloat16, labels, classes=2, search=HeadSearch((0.01,), (1,)))
    assert np.isfinite(head.weight).all()


@pytest.mark.parametrize(
    ("schedule", "warmup", "decay", "clip"), [("linear", 0.0, 0.0, 1.0), ("constant", 0.25, 0.1, 0.05)]
)
def test_head_only_trains_as_torch_s_adamw_does(schedule: str, warmup: float, decay: float, clip: float) -> None:
    """Every candidate, trained alone by autograd, clip_grad_norm_, AdamW and LambdaLR, gives the same dev losses."""
    features, labels = rows(50, 3, 0)
    features = features / np.abs(features).max(0)
    dev, dev_labels = rows(40, 3, 1)
    dev = dev / np.abs(dev).max(0)
    search = HeadSearch((1e-3, 3e-2), (2, 5), 16, schedule, warmup, clip, 1e-6, decay)
    drawn = torch.Generator().manual_seed(4)
    start = (torch.randn(3, 6, generator=drawn), torch.randn(3, generator=drawn))
    fitted = fit_head_only(features, labels, dev, dev_labels, classes=3, search=search, starts={"drawn": start}, seed=8)
    assert len(fitted.details["candidates"]) == 2 * 2 * 2
    everything = []
    for candidate in fitted.details["candidates"]:
        layer = torch.nn.Linear(6, 3)
        with torch.no_grad():
            layer.weight.copy_(start[0] if candidate["start"] == "drawn" else torch.zeros(3, 6))
            layer.bias.copy_(start[1] if candidate["start"] == "drawn" else torch.zeros(3))
        total, order = candidate["epochs"] * 4, torch.Generator().manual_seed(8)
        optimiser = torch.optim.AdamW(layer.parameters(), lr=candidate["learning_rate"], eps=1e-6, weight_decay=decay)
        factor = (
            (lambda step, total=total: max(0.0, 1 - step / total))
            if schedule == "linear"
            else (lambda step, total=total: min(1.0, (step + 1) / (int(warmup * total) + 1)) if step < total else 0.0)
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        results = []
        for epoch in range(candidate["epochs"] + 1):
            if epoch:
                for batch in torch.randperm(50, generator=order).split(16):
                    optimiser.zero_grad()
                    logits = layer(torch.tensor(features[batch], dtype=torch.float32))
                    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)[batch]).backward()
                    torch.nn.utils.clip_grad_norm_(layer.parameters(), clip)
                    optimiser.step()
                    scheduler.step()
            with torch.no_grad():
                logits = layer(torch.tensor(dev, dtype=torch.float32)).double().numpy()
            loss = -log_softmax(logits, axis=1)[np.arange(40), dev_labels].mean()
            results.append((round(float((logits.argmax(1) == dev_labels).mean()), 12), -loss, -epoch))
        accuracy, negative_loss, negative_epoch = max(results)
        assert candidate["dev"] == accuracy
        assert candidate["dev_cross_entropy"] == pytest.approx(-negative_loss, abs=1e-5)
        assert candidate["best_epoch"] == -negative_epoch
        everything.append((accuracy, negative_loss))
    assert (fitted.details["dev"], -fitted.details["dev_cross_entropy"]) == pytest.approx(max(everything), abs=1e-5)
    chosen = fitted.logits(dev)
    assert float((chosen.argmax(1) == dev_labels).mean()) == fitted.details["dev"]
    assert fitted.trainable_parameters == 3 * 6 + 3
    assert fitted.cost().head_bytes == 4 * 21
    json.dumps(fitted.to_json(), allow_nan=False)


def test_head_only_with_class_weights_trains_as_torch_s_weighted_loss_does() -> None:
    """In a search beside unweighted candidates; the weights are those of the rows that are learnt from."""
    features, labels = unequal(*rows(90, 3, 0))
    features = features / np.abs(features).max(0)
    search = HeadSearch((3e-2,), (3,), 16, class_weights=("none", "balanced"))
    fitted = fit_head_only(features, labels, features, labels, classes=3, search=search, seed=8)
    weighted = {one.get("class_weights", "none"): one["dev_cross_entropy"] for one in fitted.details["candidates"]}
    for class_weight in (None, "balanced"):
        layer = torch.nn.Linear(6, 3)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        weights = torch.tensor(compute_sample_weight(class_weight, labels), dtype=torch.float32)
        optimiser = torch.optim.AdamW(layer.parameters(), lr=3e-2, eps=1e-6, weight_decay=0.0)
        steps, order = 3 * -(-len(labels) // 16), torch.Generator().manual_seed(8)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step, steps=steps: 1 - step / steps)
        found = []
        for _ in range(3):
            for batch in torch.randperm(len(labels), generator=order).split(16):
                optimiser.zero_grad()
                logits = layer(torch.tensor(features[batch], dtype=torch.float32))
                each = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)[batch], reduction="none")
                (weights[batch] * each).mean().backward()
                torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
                optimiser.step()
                scheduler.step()
            with torch.no_grad():
                logits = layer(torch.tensor(features, dtype=torch.float32)).double().numpy()
            loss = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()
            found.append((float((logits.argmax(1) == labels).mean()), -loss))
        assert weighted[class_weight or "none"] == pytest.approx(-max(found)[1], abs=1e-5)


def test_head_only_is_at_least_its_start_on_dev() -> None:
    train, dev = rows(100, 2, 0), rows(60, 2, 1)
    head = logistic_regression_head(*train, 2, dev_features=dev[0], dev_labels=dev[1])
    start = (torch.tensor(dev[0]).float() @ head[0].T + head[1]).argmax(1).numpy()
    fitted = fit_head_only(*train, *dev, classes=2, search=HeadSearch((10.0,), (1,)), starts={"head": head})
    assert fitted.details["dev"] >= (start == dev[1]).mean() - 1e-9


def test_head_only_reaches_the_convex_optimum_when_it_is_left_to() -> None:
    """With many epochs it comes to the loss that an unpenalised logistic regression has on train."""
    features, labels = rows(200, 2, 0)
    features = (features - features.mean(0)) / features.std(0)
    fitted = fit_head_only(
        features, labels, features, labels, classes=2, search=HeadSearch((3e-2,), (60,), batch_size=50)
    )
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000).fit(features, labels)
    optimum = -np.log(model.predict_proba(features)[np.arange(200), labels]).mean()
    found = -np.log(fitted.probabilities(features)[np.arange(200), labels]).mean()
    assert optimum <= found < optimum + 0.01


def test_the_search_is_as_wide_as_the_target_s() -> None:
    training = TrainingSettings(epochs=40, learning_rate=2e-3, head_learning_rate=5e-4, schedule="constant")
    search = HeadSearch.from_training(training)
    assert {2e-3, 5e-4} < set(search.learning_rates)
    assert search.epochs == (40, 80)
    assert (search.schedule, search.batch_size, search.adam_epsilon) == ("constant", 16, 1e-6)
    assert HeadSearch.from_training(TrainingSettings(epochs=6)).epochs == (6, 32)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_head_only_takes_the_steps_that_a_training_of_the_head_takes(schedule: str) -> None:
    """The same warm-up, rates and end, step by step: with whole batches, for their order is another's."""
    classifier = tiny_classifier("bert", pooling="mean")
    train, dev = random_rows(12), random_rows(10, seed=1)
    names = classifier.head_parameters("output")
    zeros = {name: torch.zeros_like(dict(classifier.model.named_parameters())[name]) for name in names}
    training = plain_settings(
        epochs=9, learning_rate=0.05, batch_size=12, warmup_fraction=0.3, schedule=schedule, dropout=False
    )
    run = Run("head", (), names, 0, training, initial_head=zeros)
    [trained] = train_runs(classifier, train, dev, [run], metric=lambda *_: 0.0)
    seen = [extract_features(classifier, rows.encoded, "head").double().numpy() for rows in (train, dev)]
    search = HeadSearch((0.05,), (9,), 12, schedule, 0.3, adam_epsilon=training.adam_epsilon)
    found = fit_head_only(seen[0], train.labels, seen[1], dev.labels, classes=3, search=search)
    losses = [record["dev_loss"] for record in trained.history]
    assert [point["dev_loss"] for point in found.details["history"]] == pytest.approx(losses, abs=1e-5)


def test_bad_input_is_named() -> None:
    features, labels = rows(30, 2, 0)
    for fit in (fit_logistic_regression, fit_head_only):
        with pytest.raises(InputError, match="labels of shape"):
            fit(features, labels[:-1], features, labels, classes=2)
        with pytest.raises(InputError, match="dev: labels of shape"):
            fit(features, labels, features[:0], labels[:0], classes=2)
        with pytest.raises(InputError, match="0 to 1"):
            fit(features, labels + 1, features, labels, classes=2)
        with pytest.raises(InputError, match="rows, hidden"):
            fit(features[0], labels, features, labels, classes=2)
        with pytest.raises(InputError, match="not finite"):
            fit(features * np.nan, labels, features, labels, classes=2)
        with pytest.raises(InputError, match="Did you mean 'accuracy'"):
            fit(features, labels, features, labels, classes=2, metric="acuracy")
    with pytest.raises(InputError, match="only the label 1"):
        fit_logistic_regression(features, np.ones(30), features, labels, classes=2)
    with pytest.raises(InputError, match="start 'head': weight"):
        fit_head_only(
            features, labels, features, labels, classes=2, starts={"head": (torch.zeros(2, 5), torch.zeros(2))}
        )
    with pytest.raises(InputError, match="learning rates above 0"):
        fit_head_only(features, labels, features, labels, classes=2, search=HeadSearch(()))
    with pytest.raises(InputError, match="width 3 for a layer of width 6"):
        fit_logistic_regression(features, labels, features, labels, classes=2).logits(features[:, :3])
