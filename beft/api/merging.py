"""The merge of the public API."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from beft.adapters.adapter import Adapter
from beft.api.arguments import adapter_of, list_of
from beft.errors import InputError
from beft.merging.adapters import check_several, merged_adapters
from beft.merging.merged import merge as merge_changes
from beft.training.results import TrainingResult


def merge(
    adapters: Sequence[Adapter | TrainingResult],
    *,
    method: str = "mean",
    weights: Sequence[float] | None = None,
    **options: Any,
) -> list[Adapter]:
    """Merge the bias changes of adapters of one base, without training. Heads are not merged.

    Args:
        adapters: Two or more; they may have different bias terms, which are then merged over all of their sites.
        method: ``mean``, ``task_arithmetic``, ``ties``, ``dare`` or ``searched_weights``.
        weights: One an adapter; None: 1 each. ``searched_weights`` needs them.
        options: Of the method: ``scale``, ``density`` (of ties), ``drop_rate`` (of dare), and others.

    Returns:
        One adapter for each that was given, in their order: the merged biases with its own head.

    Raises:
        InputError: There are fewer than two, their bases differ, or the method or an option is unknown.

    Example:
        >>> merged = beft.merge([result, result], method="ties", density=0.2)
        >>> merged[0].labels == result.adapter.labels
        True
    """
    if isinstance(adapters, Adapter | TrainingResult):
        raise InputError("a merge needs two adapters or more, in a list: beft.merge([a, b])")
    given = [adapter_of(one) for one in list_of(adapters, "adapters")]
    check_several(given)
    if weights is None and method == "searched_weights":
        raise InputError(
            "searched_weights needs weights, one an adapter: 'beft merge --method searched_weights --prepared ...' "
            "searches them on dev rows"
        )
    if weights is not None and len(weights) != len(given):
        raise InputError(f"there are {len(given)} adapters but {len(weights)} weights")
    names = _names_of(given)
    named = dict(zip(names, given, strict=True))
    of_each = None if weights is None else dict(zip(names, weights, strict=True))
    merged = merge_changes(method, named, weights=of_each, **options)
    return list(merged_adapters(named, merged).values())


def _names_of(adapters: Sequence[Adapter]) -> list[str]:
    """A name for each adapter: its data set, with its number where several are of one."""
    datasets = Counter(one.dataset for one in adapters)
    numbered = list(enumerate(adapters, 1))
    names = [one.dataset if datasets[one.dataset] == 1 else f"{one.dataset}-{number}" for number, one in numbered]
    if len(set(names)) < len(names):  # another data set is called NAME-NUMBER
        names = [f"{number}-{one.dataset}" for number, one in numbered]
    return names
