"""Trainings of weights, and the plain PyTorch loop that they are compared with."""

import torch
from torch.nn import functional

from beft.encoding.tokenization import training_batches
from beft.inference.runs import Run, finished
from beft.training.engine.weights import fit_weights
from tests.support.rows import plain_settings, random_rows


def accuracy(probabilities, labels):
    """A metric as a training takes it."""
    return float((probabilities.argmax(-1) == labels).mean())


def quiet(_line):
    """Progress that nobody reads."""


def run_of(classifier, *, head="output", select="last", seed=3, initial_head=None, **settings):
    """A run of weights over a classifier."""
    settings = {"epochs": 3, "learning_rate": 2e-3, "batch_size": 8, "dropout": False} | settings
    names = classifier.head_parameters(head)
    return Run("run", (), names, seed, plain_settings(**settings), select, initial_head or {})


def train(classifier, method, run, rows=None, dev=None):
    """Train weights on random rows, or on those that are given; raises what a failed run says."""
    rows = random_rows(60) if rows is None else rows
    return finished(fit_weights(classifier, rows, dev, run, method, metric=accuracy, progress=quiet))


def plain_loop(model, trained, run, rows, *, head=(), after=lambda: None):
    """What a careful user would write; ``after`` follows each backward pass."""
    settings = run.settings
    names = {id(parameter) for parameter in head}
    groups = [
        {"params": [one for one in trained if id(one) not in names], "lr": settings.learning_rate},
        {"params": list(head), "lr": settings.head_learning_rate or settings.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, eps=settings.adam_epsilon, weight_decay=0.0)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for epoch in range(1, settings.epochs + 1):
        for batch in training_batches(rows.encoded.lengths, settings.batch_size, seed=run.seed, epoch=epoch):
            logits = model(**rows.encoded.batch(batch)).logits
            optimizer.zero_grad()
            functional.cross_entropy(logits, torch.from_numpy(rows.labels[batch])).backward()
            after()
            torch.nn.utils.clip_grad_norm_([*trained, *head], settings.clip_norm)
            optimizer.step()
            schedule.step()


def assert_close(found, expected):
    """Equal to nine places."""
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-9)
