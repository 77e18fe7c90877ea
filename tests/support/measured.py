"""Measurements written by hand, as the step ``measure`` leaves them."""

from typing import Any

from tasks.reproduction.measured import Cost, Measured


def measured(method: str, seed: int, accuracy: float, **others: Any) -> Measured:
    """A record of a run on the dataset ``mine``, regime low."""
    values: dict[str, Any] = {
        "base": "pypi:some-model==1",
        "dataset": "mine",
        "regime": "low",
        "rows": {"train": 80, "dev": 20, "test": 100},
        "protocol": "beft",
        "method": method,
        "seed": seed,
        "draw": seed,
        "learning_rate": 0.01,
        "epochs": 8,
        "metric": "accuracy",
        "scores": {"accuracy": accuracy, "f1": accuracy / 2},
        "dev": accuracy,
        "trained_parameters": 64,
        "head_parameters": 10,
        "model_parameters": 6400,
        "best_epoch": 3,
        "history": [{"epoch": 1, "step": 5, "train_loss": 0.7, "dev_loss": 0.7, "dev_metric": accuracy}],
        "cost": Cost(seconds=2.0, shared_with=3, peak_memory_bytes=1_000_000),
    }
    return Measured.model_validate(values | others)
