"""The predictor of the public API."""

from pathlib import Path
from typing import Literal

from beft.api.base import Base
from beft.errors import InputError
from beft.inference.predictor import Predictor


def load_predictor(
    folder: Path | str,
    *,
    base: Base | Path | str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "fp32",
    batch_tokens: int | None = None,
) -> Predictor:
    """Load a saved adapter on its base, ready to predict.

    Args:
        folder: The adapter's folder, as ``Adapter.save`` wrote it.
        base: A base, or where it is, as in ``load_base``; None: it is found by the id that the adapter holds. A base
            that was a local folder must be named. Its hash is checked either way.
        device: ``"auto"``: the GPU where there is one.
        precision: ``"auto"``: as in training.
        batch_tokens: Tokens computed at once, padding counted; None: what suits the device.

    Returns:
        The predictor: ``predict(texts)`` gives a record a text, in their order. It may be called from any thread.

    Raises:
        InputError: The adapter or the base cannot be read, or they do not belong together.

    Example:
        >>> _ = result.adapter.save("adapters/reviews")
        >>> predictor = beft.load_predictor("adapters/reviews", base=base.reference.folder)
        >>> [answer] = predictor.predict(["a good film"])
        >>> sorted(answer)
        ['label', 'probabilities']
    """
    if not isinstance(folder, str | Path):
        raise InputError(
            f"folder must be the path of a saved adapter, not {folder!r}: save it with adapter.save(FOLDER)"
        )
    place = base.reference.folder if isinstance(base, Base) else base
    return Predictor(folder, base=place, device=device, precision=precision, batch_tokens=batch_tokens)
