"""Arguments of the public API: a wrong one ends in a message that says what to give."""

from collections.abc import Iterable, Mapping
from typing import Any

from beft.adapters.adapter import Adapter
from beft.api.base import Base
from beft.datasets.given_rows import given_list
from beft.datasets.prepared import PreparedData
from beft.errors import InputError
from beft.training.results import TrainingResult


def check_base_and_data(base: Any, data: Any) -> None:
    """Refuse what neither ``load_base`` nor a dataset gives.

    Raises:
        InputError: Base or data is something else.
    """
    if not isinstance(base, Base):
        raise InputError(f"base must be what beft.load_base(...) gives, not {_said(base)}")
    if not isinstance(data, PreparedData):
        raise InputError(
            f"data must be a beft.Dataset, not {_said(data)}: make one with beft.Dataset.from_rows(texts, labels) or "
            "beft.load_dataset(NAME)"
        )


def adapter_of(given: Any) -> Adapter:
    """The adapter of what ``train`` gave, or the adapter that was given.

    Raises:
        InputError: It is something else.
    """
    if isinstance(given, TrainingResult):
        return given.adapter
    if not isinstance(given, Adapter):
        raise InputError(
            f"an adapter must be what beft.train(...) or beft.Adapter.load(FOLDER) gives, not {_said(given)}"
        )
    return given


def list_of(values: Any, what: str) -> list[Any]:
    """Names or numbers as a list.

    Raises:
        InputError: It is one of them alone, or a mapping.
    """
    if isinstance(values, str):
        raise InputError(f"{what} must be a list, such as [{values!r}], not {values!r}")
    if not isinstance(values, Iterable):
        raise InputError(f"{what} must be a list, such as [{values!r}], not {_said(values)}")
    return given_list(values, what)


def dotted_settings(settings: Any) -> dict[str, Any]:
    """Settings by dotted name.

    Raises:
        InputError: They are no mapping of such names, or one is of the base, which is loaded already.
    """
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise InputError(f"settings must be a mapping, such as {{'train.batch_size': 32}}, not {_said(settings)}")
    for name, value in settings.items():
        if str(name).partition(".")[0] == "base":
            raise InputError(f"settings: {name!r} is decided where the base is loaded: give it to beft.load_base")
        if "." not in str(name) and isinstance(value, Mapping):
            inner = next(iter(value), "NAME")
            raise InputError(
                f"settings: names have dots: write '{name}.{inner}' in place of {name!r}: {{{inner!r}: ...}}"
            )
    return dict(settings)


def _said(value: Any) -> str:
    text = repr(value)
    return f"a {type(value).__name__}" if len(text) > 80 or "\n" in text else text
