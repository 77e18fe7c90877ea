"""Contrastive training against a plain loop, alone and in a pass, whole and in parts, interrupted and not."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from beft.errors import InputError
from beft.inference.features import extract_features
from beft.inference.runs import LabelledRows, Run
from beft.problems.multiple_choice import MultipleChoice
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from beft.training.objectives.batches import run_batches
from tests.beft.training.objectives.test_contrastive import by_the_formula
from tests.support.rows import plain_settings, random_rows, tiny_classifier
from tests.support.shapes import task

SETTINGS = plain_settings(
    epochs=3, learning_rate=1e-2, batch_size=12, dropout=False, loss="contrastive", temperature=0.2
)


def accuracy(probabilities, labels):
    return float((probabilities.argmax(-1) == labels).mean())


def run_of(classifier, settings=SETTINGS, *, name="run", terms=("value",), **fields):
    sites = find_sites(classifier.model, list(terms))
    return Run(name, sites, classifier.head_parameters(), fields.pop("seed", 3), settings, "last", **fields)


def deltas_of(result):
    return torch.cat([delta for _, delta in sorted(result.deltas.items(), key=lambda one: one[0].name)])


def fit_one(classifier, rows, run, dev=None, **given):
    [result] = fit(classifier, rows, dev, [run], metric=accuracy, **given)
    return result


@pytest.mark.parametrize(("family", "pooling"), [("bert", "mean"), ("bert", "model"), ("qwen2", "model")])
@pytest.mark.parametrize("loss", ["contrastive", "both"])
def test_trains_what_a_plain_loop_trains(family, pooling, loss):
    classifier = tiny_classifier(family, pooling=pooling)
    settings = SETTINGS.model_copy(update={"loss": loss})
    rows = random_rows(40)
    run = run_of(classifier, settings)
    result = fit_one(classifier, rows, run)

    copied = classifier.with_model(copy.deepcopy(classifier.model))
    named = dict(copied.model.named_parameters())
    biases = [named[f"{site.module}.bias"].requires_grad_(True) for site in run.sites]
    start = [bias.detach().clone() for bias in biases]
    head = [named[name].requires_grad_(True) for name in run.head]
    optimizer = torch.optim.AdamW([*biases, *head], lr=1e-2, eps=settings.adam_epsilon, weight_decay=0.0)
    steps, taken = 3 * 4, 0
    for epoch in (1, 2, 3):
        for batch in run_batches(rows, run, epoch):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * (1 - taken / steps)
            taken += 1
            tokens, labels = rows.encoded.batch(batch), torch.from_numpy(rows.labels[batch])
            features = copied.head_features(tokens)
            unit = features / features.norm(dim=1, keepdim=True)
            loss_of_rows = []
            for at in range(len(batch)):
                others = [other for other in range(len(batch)) if other != at]
                logits = unit[others] @ unit[at] / 0.2
                like = labels[others] == labels[at]
                terms = logits[like] - torch.logsumexp(logits, 0)
                loss_of_rows.append(-terms.mean() if len(terms) else unit.sum() * 0)
            total = torch.stack(loss_of_rows).mean()
            if loss == "both":
                total = total + torch.nn.functional.cross_entropy(copied(tokens), labels)
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_([*biases, *head], settings.clip_norm)
            optimizer.step()
    for site, bias, before in zip(run.sites, biases, start, strict=True):
        assert float(result.deltas[site].abs().max()) > 1e-3
        torch.testing.assert_close(result.deltas[site], (bias - before).detach(), rtol=0, atol=1e-7)


def test_records_the_loss_of_the_formula():
    classifier = tiny_classifier(pooling="mean")
    rows = random_rows(10)  # one batch
    settings = SETTINGS.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    result = fit_one(classifier, rows, run_of(classifier, settings))
    features = extract_features(classifier, rows.encoded, "head").double()
    labels = torch.from_numpy(rows.labels)
    expected = np.mean(by_the_formula(features, (labels[:, None] == labels).double(), 0.2))
    assert result.history[0]["train_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_the_head_is_that_of_scikit_learn_on_the_trained_features(class_weights):
    classifier = tiny_classifier(pooling="mean")
    train, dev = random_rows(90), random_rows(30, seed=8)
    train = train.take(np.array([at for at, label in enumerate(train.labels) if label == 0 or at % 4 == 0]))
    settings = SETTINGS.model_copy(update={"class_weights": class_weights})
    result = fit_one(classifier, train, run_of(classifier, settings), dev)
    assert [sorted(record) for record in result.history[:2]] == [["epoch", "step", "train_loss"]] * 2
    trained = copy.deepcopy(classifier.model)
    with torch.no_grad():
        for site, delta in result.deltas.items():
            dict(trained.named_parameters())[f"{site.module}.bias"].add_(delta)
    moved = classifier.with_model(trained)
    seen, seen_dev = (extract_features(moved, rows.encoded, "head").double().numpy() for rows in (train, dev))
    scale = seen.std(0).mean()
    center = seen.mean(0)
    best = None
    for C in np.logspace(-3, 2, 16):
        model = LogisticRegression(
            C=C, tol=1e-8, max_iter=100_000, class_weight=None if class_weights == "none" else class_weights
        )
        model.fit((seen - center) / scale, train.labels)
        found = model.predict_proba((seen_dev - center) / scale)
        loss = -np.log(found[np.arange(30), dev.labels]).mean()
        if best is None or loss < best[0]:
            best = loss, found
    loss, found = best
    weight, bias = (result.head[name].double().numpy() for name in classifier.head_parameters())
    logits = seen_dev @ weight.T + bias
    ours = np.exp(logits - logits.max(1, keepdims=True))
    ours /= ours.sum(1, keepdims=True)
    np.testing.assert_allclose(ours, found, atol=2e-4)
    assert result.history[-1]["dev_loss"] == pytest.approx(loss, abs=2e-4)
    assert result.history[-1]["dev_metric"] == accuracy(found, dev.labels)


def test_a_run_in_a_pass_gets_what_it_gets_alone():
    """Law 3, beside a run of cross-entropy and runs on some of the rows, whose batches have other lengths."""
    classifier = tiny_classifier(pooling="mean")
    rows, dev = random_rows(50), random_rows(20, seed=5)
    many = SETTINGS.model_copy(update={"epochs": 12})
    runs = [
        run_of(classifier, many, name="a"),
        run_of(classifier, many.model_copy(update={"loss": "cross_entropy"}), name="b"),
        run_of(classifier, many.model_copy(update={"loss": "both", "learning_rate": 3e-2}), name="c", seed=9),
        run_of(classifier, many, name="d", rows=tuple(range(0, 50, 2)), terms=("value", "query")),
    ]
    together = fit(classifier, rows, dev, runs, metric=accuracy, at_once=4)
    for run, result in zip(runs, together, strict=True):
        [alone] = fit(classifier, rows, dev, [run], metric=accuracy)
        assert result.steps >= 24
        torch.testing.assert_close(deltas_of(result), deltas_of(alone), rtol=0, atol=1e-9)
        for name, value in result.head.items():
            torch.testing.assert_close(value, alone.head[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "contrastive"])
def test_a_run_on_some_rows_is_a_run_on_a_sample_of_them(loss):
    classifier = tiny_classifier(pooling="mean")
    rows = random_rows(50)
    chosen = np.array([3, 4, 8, 9, 14, 17, 21, 22, 30, 31, 40, 41, 42, 45, 49])
    settings = SETTINGS.model_copy(update={"loss": loss})
    some = fit_one(classifier, rows, run_of(classifier, settings, rows=tuple(chosen.tolist())))
    sample = fit_one(classifier, rows.take(chosen), run_of(classifier, settings))
    assert some.steps == sample.steps == 6
    assert some.history == sample.history
    assert torch.equal(deltas_of(some), deltas_of(sample))


@pytest.mark.parametrize("micro_batch_size", [1, 5])
def test_parts_add_up_to_the_same_step(micro_batch_size):
    """Exact whichever way a batch is divided, though each row's loss depends on all others."""
    classifier = tiny_classifier(pooling="mean")
    rows = random_rows(40)
    whole = fit_one(classifier, rows, run_of(classifier))
    settings = SETTINGS.model_copy(update={"micro_batch_size": micro_batch_size})
    divided = fit_one(classifier, rows, run_of(classifier, settings))
    torch.testing.assert_close(deltas_of(divided), deltas_of(whole), rtol=0, atol=1e-9)


def test_dropout_of_parts_that_are_computed_again_is_the_same():
    """With one row a part each mask is drawn once: the same again, and with layers that are computed again as well."""
    classifier = tiny_classifier(pooling="mean")
    rows = random_rows(24)
    settings = SETTINGS.model_copy(update={"micro_batch_size": 1, "dropout": True, "epochs": 2})
    first, again = (fit_one(classifier, rows, run_of(classifier, settings)) for _ in range(2))
    checkpointed = settings.model_copy(update={"activation_checkpointing": True})
    other = fit_one(classifier, rows, run_of(classifier, checkpointed))
    assert torch.equal(deltas_of(first), deltas_of(again))
    torch.testing.assert_close(deltas_of(first), deltas_of(other), rtol=0, atol=1e-9)


def test_goes_on_from_a_checkpoint_to_the_same_bytes(tmp_path):
    """Law 8: interrupted between two logged steps, by an error in place of a kill."""

    class Interrupted(Exception):
        pass

    lines = []

    def interrupt(line):
        lines.append(line)
        if "epoch 2/" in line:
            raise Interrupted

    classifier = tiny_classifier(pooling="mean")
    rows, dev = random_rows(40), random_rows(20, seed=5)
    settings = SETTINGS.model_copy(update={"epochs": 4})
    whole = fit_one(classifier, rows, run_of(classifier, settings), dev)
    with pytest.raises(Interrupted):
        fit_one(classifier, rows, run_of(classifier, settings), dev, checkpoints=tmp_path, progress=interrupt)
    resumed = fit_one(classifier, rows, run_of(classifier, settings), dev, checkpoints=tmp_path)
    assert resumed.steps_here < resumed.steps == whole.steps
    assert torch.equal(deltas_of(resumed), deltas_of(whole))
    for name, value in resumed.head.items():
        assert torch.equal(value, whole.head[name])
    other = settings.model_copy(update={"temperature": 0.3})
    assert fit_one(classifier, rows, run_of(classifier, other), dev, checkpoints=tmp_path).steps_here == whole.steps


def test_values_are_learnt_by_their_distance():
    """The loss falls, and the head is scikit-learn's ridge regression on the trained features."""
    toy = task("regression", rows=40)
    settings = SETTINGS.model_copy(update={"epochs": 6})
    run = run_of(toy.classifier, settings)
    [result] = fit(toy.classifier, toy.train, toy.dev, [run], metric=lambda values, truth: 0.0)
    losses = [record["train_loss"] for record in result.history]
    assert losses[-1] < losses[0]
    [name, bias] = toy.classifier.head_parameters()
    trained = copy.deepcopy(toy.classifier.model)
    with torch.no_grad():
        for site, delta in result.deltas.items():
            dict(trained.named_parameters())[f"{site.module}.bias"].add_(delta)
    moved = toy.classifier.with_model(trained)
    seen, seen_dev = (extract_features(moved, rows.encoded, "head").double().numpy() for rows in (toy.train, toy.dev))
    scaled = (seen - seen.mean(0)) / seen.std(0).mean()
    fits = [Ridge(alpha).fit(scaled, toy.train.labels) for alpha in np.logspace(-2, 6, 17)]
    found = [fit.predict((seen_dev - seen.mean(0)) / seen.std(0).mean()) for fit in fits]
    least = min(found, key=lambda values: ((values - toy.dev.labels) ** 2).mean())
    ours = seen_dev @ result.head[name][0].double().numpy() + float(result.head[bias])
    np.testing.assert_allclose(ours, least, atol=1e-4)


def test_a_problem_without_pairs_is_refused():
    classifier = tiny_classifier(pooling="mean")
    classifier.problem_type = MultipleChoice()
    with pytest.raises(InputError, match=r"train\.loss is contrastive.*multiple_choice has none"):
        fit_one(classifier, random_rows(10), run_of(classifier))


def test_a_batch_without_pairs_of_two_labels_is_refused():
    classifier = tiny_classifier(pooling="mean")
    with pytest.raises(InputError, match="batch_size is 3: set it to 4 or more, and micro_batch_size to save memory"):
        fit_one(
            classifier,
            random_rows(10),
            run_of(classifier, SETTINGS.model_copy(update={"loss": "both", "batch_size": 3})),
        )


def test_select_best_fits_a_head_at_each_epoch():
    classifier = tiny_classifier(pooling="mean")
    settings = SETTINGS.model_copy(update={"learning_rate": 0.3, "epochs": 5, "schedule": "constant"})
    run = replace(run_of(classifier, settings), select="best")
    train, dev = random_rows(60), random_rows(40, seed=9)
    result = fit_one(classifier, train, run, dev)
    best = max(result.history, key=lambda record: (record["dev_metric"], -record["dev_loss"]))
    assert result.best_epoch == best["epoch"]
    assert result.best_epoch < 5, "the case must be one in which the last epoch is not the best"
    shorter = replace(run, settings=settings.model_copy(update={"epochs": result.best_epoch}), select="last")
    again = fit_one(classifier, train, shorter, dev)
    for name, value in result.head.items():
        torch.testing.assert_close(value, again.head[name])


def test_rows_with_one_label_only_are_an_error_that_says_so():
    classifier = tiny_classifier(pooling="mean")
    rows = random_rows(12)
    rows = LabelledRows(rows.encoded, np.zeros(12, dtype=np.int64))
    with pytest.raises(InputError, match="only the label 0"):
        fit_one(classifier, rows, run_of(classifier))
