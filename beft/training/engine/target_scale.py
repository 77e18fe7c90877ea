"""Values of any unit: a training takes them divided by a power of 4 near their standard deviation.

AdamW moves a parameter by about its learning rate a step, however large the loss is. So an output layer would need
thousands of steps for values that spread over hundreds, such as percents or prices. A power of 4 divides without
rounding, and leaves values as they are whose standard deviation is between 0.5 and 2.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from beft.encoding.examples import LabelledRows
from beft.inference.runs import FailedRun, Run, RunResult
from beft.models.classifier import Classifier


def divide_targets(
    classifier: Classifier, train: LabelledRows, dev: LabelledRows | None, runs: Sequence[Run]
) -> tuple[float, LabelledRows, LabelledRows | None, Sequence[Run]]:
    """What the targets are divided by; the rows with divided targets; the runs, which start at divided outputs.

    The divisor is 1 where the targets are no values, or where the output layer is not trained. A metric reads the
    undivided values of the rows' source: it is a correlation, which has no unit.
    """
    scale = classifier.problem_type.target_scale(train.labels)
    if scale == 1.0 or any(name not in run.head for run in runs for name in _output_names(classifier)):
        return 1.0, train, dev, runs
    return (
        scale,
        replace(train, labels=train.labels / scale),
        None if dev is None else replace(dev, labels=dev.labels / scale),
        [_divide_start(classifier, run, scale) for run in runs],
    )


def _divide_start(classifier: Classifier, run: Run, scale: float) -> Run:
    """The run with an output layer that starts at divided outputs; one that is drawn at random stays as it is."""
    named = dict(classifier.model.named_parameters())
    own = {
        name: run.initial_head.get(name, named[name].detach())
        for name in _output_names(classifier)
        if name in run.initial_head or name not in classifier.newly_initialized
    }
    return replace(run, initial_head={**run.initial_head, **{name: value / scale for name, value in own.items()}})


def in_unit_of_values(
    classifier: Classifier, result: RunResult | FailedRun, run: Run, scale: float
) -> RunResult | FailedRun:
    """What a run on divided targets gave, in the values' own unit: the output layer, and losses of squared errors.

    Args:
        run: The run that was asked for.
        scale: What the targets were divided by.
    """
    if scale == 1.0:
        return result
    if isinstance(result, FailedRun):
        return replace(result, run=run)
    output = _output_names(classifier)
    head: dict[str, Tensor] = {name: value * scale if name in output else value for name, value in result.head.items()}
    losses = ["dev_loss", *([] if run.settings.contrastive else ["train_loss"])]
    history = [
        {**record, **{name: record[name] * scale**2 for name in losses if name in record}} for record in result.history
    ]
    return replace(result, run=run, head=head, history=history)


def _output_names(classifier: Classifier) -> list[str]:
    name = classifier.output_name
    return [f"{name}.weight", *([] if classifier.output_layer.bias is None else [f"{name}.bias"])]
