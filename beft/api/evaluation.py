"""The evaluation of the public API."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from beft.adapters.adapter import Adapter
from beft.adapters.checks import check_labels
from beft.api.arguments import adapter_of, check_base_and_data, list_of
from beft.api.base import Base
from beft.api.learning import session_of
from beft.comparison.baselines.cheap import cheap_baselines
from beft.comparison.baselines.named import named_baselines
from beft.comparison.evaluation import AdapterEvaluation, cost_of, evaluate_adapters
from beft.datasets.prepared import PreparedData
from beft.errors import InputError
from beft.names import known_name
from beft.training.results import TrainingResult

_SPLITS = ("test", "gate")


def evaluate(
    base: Base,
    data: PreparedData,
    result: TrainingResult | Adapter,
    *,
    baselines: Sequence[str] | None = None,
    split: Literal["test", "gate"] = "test",
    settings: Mapping[str, Any] | None = None,
) -> AdapterEvaluation:
    """Evaluate an adapter beside baselines on rows that nothing was trained or chosen on.

    Intervals come from a bootstrap over the rows, which all methods share; a gain is the difference on the same rows.

    Args:
        result: What ``train`` gave, or an adapter.
        baselines: Names of methods, each trained on train and tuned on dev: ``head_only``, ``logistic_regression``,
            ``untouched``, a bias term, ``all_biases``, ``lora``, ``full`` and others. None: the cheap ones. Where the
            adapter was trained on dev as well, the first two are fitted on the same rows, and a note of the table
            names the others.
        split: The rows: ``"test"``, or ``"gate"``.
        settings: Other settings by dotted name, as in ``params.yaml``: ``{"evaluate.resamples": 1000}``.

    Returns:
        The evaluation: ``score()`` and ``gain(baseline)`` give numbers with their intervals; ``print`` shows a table.

    Raises:
        InputError: The adapter does not fit base and data, a method is unknown or not available, or there are no rows.
        TrainingError: A baseline's training failed.

    Example:
        >>> found = beft.evaluate(base, data, result, baselines=["head_only", "logistic_regression"])
        >>> 0 <= found.score().low <= found.score().value <= found.score().high <= 1
        True
        >>> found.gain("head_only").certain in (True, False)
        True
    """
    check_base_and_data(base, data)
    known_name(split, _SPLITS, "split to evaluate on")
    trained = result if isinstance(result, TrainingResult) else None
    adapter = adapter_of(result)
    check_labels(adapter, data.labels, f"data {data.name!r}")
    names = None if baselines is None else list_of(baselines, "baselines")
    target = "+".join(adapter.terms)
    if target in (names or ()):
        raise InputError(f"{target!r} is what is evaluated, and cannot be its own baseline")
    if not data.facts["rows"][split]:
        raise InputError(f"{data.name} has no {split} rows")
    own = trained.settings.model_dump(mode="json", exclude={"base", "datasets", "seed"}) if trained else {}
    own |= {"head.pooling": adapter.pooling}
    seed = trained.settings.seed if trained else 0
    session = session_of(base, data, adapter.max_length, seed, own, settings)
    return evaluate_adapters(
        session,
        {target: adapter},
        target=target,
        splits=(split,),
        fit_baselines=cheap_baselines if names is None else partial(named_baselines, names=names),
        costs=None if trained is None else {target: cost_of(trained.cost())},
    )
