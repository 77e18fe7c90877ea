"""Any methods as baselines, by their names."""

from collections.abc import Mapping, Sequence

from beft.comparison.baselines.cheap import LINEAR, Baselines, cheap_baselines, held_out
from beft.comparison.measuring import measure
from beft.comparison.registry import Kind, known_method
from beft.encoding.examples import LabelledRows
from beft.evaluation.records import Cost
from beft.heads.by_problem_type import LINEAR_BASELINES
from beft.inference.predictions import as_metric_takes
from beft.training.session import Session


def named_baselines(session: Session, rows: Mapping[str, LabelledRows], names: Sequence[str]) -> Baselines:
    """Train or fit baselines on train, tune them on dev, and predict test and gate.

    Where the target learnt from dev as well, the cheap ones do too; the others are still tuned on it.

    Args:
        rows: As ``cheap_baselines`` takes them.
        names: Of methods (``beft.comparison.registry.METHODS``). ``logistic_regression`` means the linear model of the
            problem type, under its own name.

    Raises:
        InputError: A method is unknown, or is not available for this base and dataset.
        TrainingError: A training failed.
    """
    linear = LINEAR_BASELINES.get(session.problem_type.name, LINEAR)
    wanted = [linear if name == LINEAR else name for name in dict.fromkeys(names)]
    cheap = cheap_baselines(session, rows, only=wanted)
    found = Baselines(cheap.fitted, chosen_on_dev=list(cheap.chosen_on_dev))
    splits = held_out(rows)
    for name in wanted:
        if name in cheap.predictions:
            found.predictions[name] = cheap.predictions[name]
            found.costs |= {name: cheap.costs[name]} if name in cheap.costs else {}
            continue
        one = measure(session, name, splits=splits)
        if session.sample.dev is not None and known_method(name) is not Kind.UNTRAINED:
            found.chosen_on_dev.append(name)
        found.predictions[name] = {
            split: as_metric_takes(session.metric, one.predictions[split], rows[split]) for split in splits
        }
        found.costs[name] = Cost(
            trainable_parameters=one.trainable_parameters,
            seconds=one.seconds,
            peak_memory_bytes=one.peak_memory_bytes,
        )
    return found
