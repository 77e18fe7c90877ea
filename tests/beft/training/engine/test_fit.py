"""Training against a plain PyTorch loop, and a run that is killed against one left alone (law 8)."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from beft.encoding.tokenization import training_batches
from beft.errors import InputError, TrainingError
from beft.inference.runs import Run, finished
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from tests.support.rows import plain_settings, random_rows, tiny_classifier


def accuracy(probabilities, labels):
    return float((probabilities.argmax(-1) == labels).mean())


def run_of(classifier, terms, settings, *, seed=3, select="best", name="run"):
    sites = find_sites(classifier.model, terms) if terms else ()
    return Run(name, sites, classifier.head_parameters(), seed, settings, select)


def plain_loop(model, terms, head, rows, settings, seed):
    """Train the model's own parameters with torch.optim.AdamW: what a careful user would write."""
    trained = []
    for name, parameter in model.named_parameters():
        wanted = name in head or any(name == f"{site.module}.bias" for site in find_sites(model, terms))
        parameter.requires_grad_(wanted)
        if wanted:
            trained.append(parameter)
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, eps=settings.adam_epsilon, weight_decay=0.0)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for epoch in range(1, settings.epochs + 1):
        for batch in training_batches(rows.encoded.lengths, settings.batch_size, seed=seed, epoch=epoch):
            logits = model(**rows.encoded.batch(batch)).logits
            loss = functional.cross_entropy(logits, torch.from_numpy(rows.labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
            optimizer.step()
            schedule.step()
    return model


@pytest.mark.parametrize("family", ["bert", "distilbert", "opt", "qwen2"])
@pytest.mark.parametrize("terms", [["value"], ["query", "value"]])
def test_trains_what_a_plain_loop_trains(family, terms):
    classifier = tiny_classifier(family)
    settings = plain_settings(epochs=4, learning_rate=1e-2, batch_size=8, dropout=False)
    rows = random_rows(110)
    expected = plain_loop(copy.deepcopy(classifier.model), terms, classifier.head_parameters(), rows, settings, seed=3)
    [result] = fit(classifier, rows, None, [run_of(classifier, terms, settings, select="last")], metric=accuracy)
    assert result.steps == 56
    parameters = dict(expected.named_parameters())
    start = dict(classifier.model.named_parameters())
    assert max(float(delta.abs().max()) for delta in result.deltas.values()) > 1e-2
    for site, delta in result.deltas.items():
        moved = parameters[f"{site.module}.bias"] - start[f"{site.module}.bias"]
        torch.testing.assert_close(delta, moved.detach(), rtol=0, atol=1e-9)
    for name, value in result.head.items():
        torch.testing.assert_close(value, parameters[name].detach(), rtol=0, atol=1e-9)


def test_base_is_left_bit_for_bit():
    classifier = tiny_classifier(dtype=torch.float32)
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    settings = plain_settings(epochs=2, learning_rate=1e-2)
    fit(classifier, random_rows(40), random_rows(20, seed=1), [run_of(classifier, None, settings)], metric=accuracy)
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.model.parameters())


def test_keeps_the_epoch_that_is_best_on_dev():
    classifier = tiny_classifier()
    settings = plain_settings(epochs=6, learning_rate=0.3, schedule="constant", dropout=False, batch_size=8)
    train, dev = random_rows(60), random_rows(40, seed=9)
    [result] = fit(classifier, train, dev, [run_of(classifier, ["value"], settings)], metric=accuracy)
    best = max(result.history, key=lambda record: (record["dev_metric"], -record["dev_loss"]))
    assert result.best_epoch == best["epoch"]
    assert result.best_epoch < settings.epochs, "the case must be one in which the last epoch is not the best"
    # The epochs are the same whatever comes after them: training just so long ends with the same adapter.
    shorter = settings.model_copy(update={"epochs": result.best_epoch})
    [again] = fit(classifier, train, None, [run_of(classifier, ["value"], shorter, select="last")], metric=accuracy)
    for site, delta in result.deltas.items():
        assert torch.equal(delta, again.deltas[site])


def test_seed_decides_order_and_dropout():
    classifier = tiny_classifier(dtype=torch.float32)
    settings = plain_settings(epochs=1, learning_rate=1e-2)
    rows = random_rows(40)

    def delta_of(seed):
        torch.rand(seed + 1)  # what was drawn before in the process must not matter
        [result] = fit(
            classifier, rows, None, [run_of(classifier, ["value"], settings, seed=seed, select="last")], metric=accuracy
        )
        return torch.cat(list(result.deltas.values()))

    assert torch.equal(delta_of(1), delta_of(1))
    assert not torch.equal(delta_of(1), delta_of(2))


def test_bf16_base_trains_fp32_vectors():
    classifier = tiny_classifier(dtype=torch.bfloat16)
    settings = plain_settings(epochs=1, learning_rate=1e-2)
    [result] = fit(
        classifier, random_rows(40), None, [run_of(classifier, ["value"], settings, select="last")], metric=accuracy
    )
    assert {value.dtype for value in (*result.deltas.values(), *result.head.values())} == {torch.float32}


def test_refuses_runs_that_cannot_be_right():
    classifier = tiny_classifier()
    settings = plain_settings(epochs=1)
    rows = random_rows(20)
    with pytest.raises(InputError, match="same name"):
        fit(classifier, rows, rows, [run_of(classifier, None, settings)] * 2, metric=accuracy)
    with pytest.raises(InputError, match="no dev split"):
        fit(classifier, rows, None, [run_of(classifier, None, settings)], metric=accuracy)
    with pytest.raises(InputError, match="trains neither"):
        fit(classifier, rows, rows, [Run("none", (), (), 0, settings)], metric=accuracy)
    of_head = Run("key", (), classifier.head_parameters(), 0, settings.with_loss("contrastive"), "last")
    with pytest.raises(InputError, match=r"run 'key' trains no bias .* train\.loss: cross_entropy"):
        fit(classifier, rows, rows, [of_head], metric=accuracy)


def test_says_when_the_loss_is_no_number():
    classifier = tiny_classifier(dtype=torch.float32)
    with torch.no_grad():
        classifier.output_layer.weight.fill_(float("inf"))
    run = run_of(classifier, ["value"], plain_settings(epochs=1))
    [found] = fit(classifier, random_rows(20), random_rows(20), [run], metric=accuracy)
    with pytest.raises(TrainingError, match=r"run: the loss is nan at step 1; a learning_rate below"):
        finished(found)


CHILD = """
import sys, json
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
import beft.training.engine.trainer
import beft.training.engine.fit
from tests.support.rows import plain_settings, random_rows, tiny_classifier
from tests.beft.training.engine.test_fit import accuracy, run_of
beft.training.engine.trainer.CHECKPOINT_SECONDS = 0.0 if sys.argv[3] == "often" else 30.0
classifier = tiny_classifier(dtype=torch.float32)
settings = plain_settings(epochs=40, learning_rate=1e-2, batch_size=8)
step = beft.training.engine.trainer.TrainingPass._step
def logged(self, bank, alive):
    ended = step(self, bank, alive)
    print(self.positions[0].step, flush=True)
    return ended
beft.training.engine.trainer.TrainingPass._step = logged
[result] = beft.training.engine.fit.fit(
    classifier, random_rows(100), random_rows(30, seed=1), [run_of(classifier, ["value"], settings)],
    metric=accuracy, checkpoints=Path(sys.argv[1]) if sys.argv[1] else None,
)
tensors = {site.name: delta for site, delta in result.deltas.items()} | result.head
save_file({name: value.contiguous() for name, value in tensors.items()}, sys.argv[2])
print(json.dumps({"steps": result.steps, "here": result.steps_here, "history": result.history}), flush=True)
"""


def child(checkpoints, out, how):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    command = [sys.executable, "-c", CHILD, str(checkpoints), str(out), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(("how", "kill_at"), [("often", 137), ("by epoch", 200)])
def test_a_killed_run_ends_with_the_bytes_of_one_left_alone(tmp_path, how, kill_at):
    alone = child("", tmp_path / "alone", how)
    killed = child(tmp_path / "checkpoints", tmp_path / "killed", how)
    assert killed.stdout is not None
    for line in killed.stdout:
        if int(line) >= kill_at:
            killed.send_signal(signal.SIGKILL)
            break
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists(), "it was killed in the middle of training"
    continued = child(tmp_path / "checkpoints", tmp_path / "killed", how)
    last = json.loads(continued.communicate()[0].splitlines()[-1])
    expected = json.loads(alone.communicate()[0].splitlines()[-1])
    assert last["steps"] == expected["steps"] == 520
    assert last["here"] <= 520 - kill_at + 13, "the steps before the checkpoint are not trained again"
    assert last["history"] == expected["history"]
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "alone").read_bytes()


def test_a_damaged_or_foreign_checkpoint_is_not_continued(tmp_path):
    classifier = tiny_classifier()
    settings = plain_settings(epochs=2, learning_rate=1e-2, dropout=False)
    rows = random_rows(40)
    run = run_of(classifier, ["value"], settings, select="last")
    [expected] = fit(classifier, rows, None, [run], metric=accuracy, checkpoints=tmp_path)
    [again] = fit(classifier, rows, None, [run], metric=accuracy, checkpoints=tmp_path)
    assert again.steps_here == 0, "a finished run is not trained again"
    [path] = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    [damaged] = fit(classifier, rows, None, [run], metric=accuracy, checkpoints=tmp_path)
    assert damaged.steps_here == expected.steps
    other = run_of(classifier, ["value"], settings.model_copy(update={"learning_rate": 2e-2}), select="last")
    [foreign] = fit(classifier, rows, None, [other], metric=accuracy, checkpoints=tmp_path)
    assert foreign.steps_here == expected.steps
    for site, delta in expected.deltas.items():
        assert torch.equal(delta, again.deltas[site])
        assert torch.equal(delta, damaged.deltas[site])
        assert not torch.equal(delta, foreign.deltas[site])


def test_checkpoints_are_written_between_epochs_when_epochs_are_long(tmp_path, monkeypatch):
    monkeypatch.setattr("beft.training.engine.trainer.CHECKPOINT_SECONDS", 0.0)
    writes = []

    def note(checkpoint, positions, tensors):
        writes.append((positions[0].epoch, positions[0].batch))

    monkeypatch.setattr("beft.training.engine.checkpoint.write_checkpoint", note)
    classifier = tiny_classifier()
    run = run_of(classifier, ["value"], plain_settings(epochs=1, batch_size=8), select="last")
    time.sleep(0.01)
    fit(classifier, random_rows(40), None, [run], metric=accuracy, checkpoints=tmp_path)
    assert writes == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 0)]


def test_numbers_of_the_history_are_those_of_the_model():
    classifier = tiny_classifier()
    settings = plain_settings(epochs=2, learning_rate=1e-2, dropout=False, batch_size=8)
    train, dev = random_rows(40), random_rows(30, seed=4)
    [result] = fit(classifier, train, dev, [run_of(classifier, ["value"], settings, select="last")], metric=accuracy)
    model = copy.deepcopy(classifier.model)
    with torch.no_grad():
        for site, delta in result.deltas.items():
            model.get_submodule(site.module).bias += delta
        for name, value in result.head.items():
            model.get_parameter(name).copy_(value)
        logits = torch.cat([model(**dev.encoded.batch(np.array([row]))).logits for row in range(len(dev))])
    loss = functional.cross_entropy(logits, torch.from_numpy(dev.labels))
    assert result.history[-1]["dev_loss"] == pytest.approx(float(loss), abs=1e-9)
    assert result.history[-1]["dev_metric"] == pytest.approx(accuracy(logits.numpy(), dev.labels))
