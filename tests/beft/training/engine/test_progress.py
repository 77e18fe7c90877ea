"""What a training says, in a bar or in lines: speed, runs alive, loss, dev metric and time left."""

import logging
import re

from beft.inference.runs import Run
from beft.training.engine.progress import EVENTS, Progress
from tests.support.rows import plain_settings


def told(capsys, *, bar):
    runs = [Run(name, (), ("head",), 0, plain_settings(epochs=2)) for name in ("one", "two")]
    lines = []
    progress = Progress(lines.append, bar=bar)
    progress.start(runs, [20, 20], [0, 0], 160, [7, 7])
    for step in range(1, 11):
        progress.step(32, [step, step], 2, 0.5)
    progress.epoch(runs[0], {"epoch": 1, "train_loss": 0.5, "dev_metric": 0.75})
    progress.epoch(runs[1], {"epoch": 1, "train_loss": 0.5, "dev_metric": 0.875})
    progress.step(16, [11, 10], 1, 0.25)
    if bar:
        progress._bar.refresh()  # it is drawn ten times a second, and this took less
    progress.stop()
    return lines, capsys.readouterr().err


def test_lines(capsys):
    lines, shown = told(capsys, bar=False)
    assert lines[0] == "2 runs: 7 trainable parameters, 160 rows, 2 epochs, 40 steps"
    speed = r"2 runs: step 20/40, \d+ examples/s, 2 runs alive, loss 0\.500, about \d+ s left"
    assert re.fullmatch(speed, lines[1]), lines[1]
    assert lines[2] == "one: epoch 1/2, train_loss 0.5000, dev_metric 0.7500"
    assert not shown


def test_bar(capsys):
    _, shown = told(capsys, bar=True)
    assert "alive=2, loss=0.500" in shown
    assert "one: epoch 1/2, train_loss 0.5000, dev_metric 0.7500" in shown
    assert "alive=1, loss=0.475, dev=0.750 to 0.875" in shown


def test_events(capsys, caplog):
    with caplog.at_level(logging.DEBUG, logger=EVENTS.name):
        told(capsys, bar=False)
    first, one, two = (record.event for record in caplog.records if record.name == EVENTS.name)
    assert first == {"pass": "2 runs", "done": 2, "all": 40}
    epoch = {"epoch": 1, "train_loss": 0.5, "dev_metric": 0.75}
    assert one == {"pass": "2 runs", "done": 20, "all": 40, "run": "one", "runs": 2, "epoch": epoch}
    assert two["run"] == "two"
