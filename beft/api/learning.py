"""The probe and the training of the public API, and the session that both open."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beft.api.arguments import check_base_and_data, dotted_settings, list_of
from beft.api.base import Base
from beft.datasets.prepared import PreparedData
from beft.errors import InputError
from beft.settings import Settings
from beft.training.opening import open_session
from beft.training.results import Probe, TrainingResult
from beft.training.session import Session


def probe(
    base: Base,
    data: PreparedData,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    max_length: int = 128,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    checkpoints: Path | str | None = None,
) -> Probe:
    """Train all bias terms at once for a short time, and keep what the importance of each is computed from.

    Fisher information, and which components are inert, are measured before the training.

    Args:
        epochs: None: 8, and up to 30 where the rows are few.
        learning_rate: Of the biases; None: 0.005, or less where that moves the base's features far.
        max_length: Tokens that a text is cut to.
        seed: Of the head where it is newly initialised, of the order of the rows, and of dropout.
        settings: Other settings by dotted name, as in ``params.yaml``: ``{"probe.batch_size": 32}``.
        checkpoints: A folder in which an interrupted probe is found and continued.

    Returns:
        The probe: ``select`` chooses the target term, ``scores`` gives the importance of every term, layer by layer.

    Raises:
        InputError: A setting is wrong, the base does not fit the data, or it has no bias terms.
        TrainingError: The training failed: NaN, infinite, or out of memory.

    Example:
        >>> probe = beft.probe(base, data, epochs=2)
        >>> target = probe.select(by="projection_ratio")
        >>> target.term in ("query", "value")
        True
    """
    own = {"probe.epochs": epochs, "probe.learning_rate": learning_rate}
    session = session_of(base, data, max_length, seed, own, settings)
    return session.probe(checkpoints=_folder(checkpoints))


def train(
    base: Base,
    data: PreparedData,
    terms: Sequence[str],
    *,
    learning_rates: Sequence[float] = (),
    epochs: int | None = None,
    probe: Probe | None = None,
    max_length: int = 128,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    checkpoints: Path | str | None = None,
) -> TrainingResult:
    """Train bias terms together, and the head; epoch and learning rate are the best on dev.

    Args:
        terms: Names of bias terms, as ``inspect`` lists them.
        learning_rates: Of the biases. Several are trained in one pass over the base. Empty: 0.01, or
            less where that moves the base's features far.
        epochs: None: 8, and up to 30 where the rows are few.
        probe: A probe of the same base and data: what it found wholly inert is not trained.
        max_length: Tokens that a text is cut to.
        seed: Of the head where it is newly initialised, of the order of the rows, and of dropout.
        settings: Other settings by dotted name, as in ``params.yaml``: ``{"train.batch_size": 32}``.
        checkpoints: A folder in which an interrupted training is found and continued.

    Returns:
        The result: ``adapter`` is what was trained, ``history`` holds a record an epoch.

    Raises:
        InputError: A term is unknown, a setting is wrong, or the base has no bias for a term.
        TrainingError: The training failed at every learning rate: NaN, infinite, or out of memory.

    Example:
        >>> result = beft.train(base, data, terms=["value"], learning_rates=[3e-3, 1e-2], epochs=2)
        >>> result.adapter.terms
        ('value',)
        >>> len(result.history)
        2
    """
    names = list_of(terms, "terms")
    rates = list_of(learning_rates, "learning_rates")
    several = {"train.learning_rates": rates} if len(rates) > 1 else {}
    own = {"train.epochs": epochs, "train.learning_rate": next(iter(rates), None), **several}
    session = session_of(base, data, max_length, seed, own, settings)
    if probe is not None and not isinstance(probe, Probe):
        raise InputError(f"probe must be what beft.probe(...) gives, not {probe!r}")
    inert = None if probe is None else probe.evidence.inert
    return session.train(names, inert=inert, checkpoints=_folder(checkpoints))


def session_of(
    base: Base,
    data: PreparedData,
    max_length: int,
    seed: int,
    own: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
) -> Session:
    """The base loaded for a dataset.

    Args:
        own: Settings by dotted name that the call itself names; None: as they are.
        settings: Further ones of the user's.

    Raises:
        InputError: A setting is wrong, or the base does not fit the data.
    """
    check_base_and_data(base, data)
    named = {name: value for name, value in own.items() if value is not None}
    further = dotted_settings(settings)
    changes = {"seed": seed, f"datasets.{data.name}.max_length": max_length, **named, **further}
    read = Settings.read(None, changes).model_copy(update={"base": base.settings})
    return open_session(read, data, load=base.load)


def _folder(checkpoints: Path | str | None) -> Path | None:
    if checkpoints is None:
        return None
    Path(checkpoints).mkdir(parents=True, exist_ok=True)
    return Path(checkpoints)
