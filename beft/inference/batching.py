"""How much is predicted at once: batches hold a number of tokens, not of rows."""

from beft.models.classifier import Classifier

_ON_CPU = 2048
_ON_GPU = 32768
"""What suits a device: a CPU's caches hold no more, and a GPU is idle with less (benchmarks/speed/prediction.md)."""


def tokens_at_once(classifier: Classifier, batch_tokens: int | None, runs: int = 1) -> int:
    """The tokens of a batch under each of several runs, padding counted.

    Args:
        batch_tokens: Of all runs together; None: what suits the device.
    """
    total = batch_tokens or (_ON_GPU if classifier.device.type == "cuda" else _ON_CPU)
    return max(1, total // runs)
