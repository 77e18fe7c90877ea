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


def scale_of(classifier: Classifier, train: LabelledRows, runs: Sequence[Run]) -> float:
    """What the targets are divided by; 1 where they are no values, or where the output layer is not trained."""
    scale = classifier.problem_type.target_scale(train.labels)
    if scale != 1.0 and any(name not in run.head for run in runs for name in _output_names(classifier)):
        return 1.0
    return scale


def scaled_rows(rows: LabelledRows, scale: float) -> LabelledRows:
    """The rows with their targets divided; what a metric compares with, a correlation, has no scale."""
    return rows if scale == 1.0 else replace(rows, labels=rows.labels / scale)


def scaled_run(classifier: Classifier, run: Run, scale: float) -> Run:
    """The run with an output layer that starts at outputs of that scale; one that is drawn has no scale yet."""
    if scale == 1.0:
        return run
    named = dict(classifier.model.named_parameters())
    own = {
        name: run.initial_head.get(name, named[name].detach())
        for name in _output_names(classifier)
        if name in run.initial_head or name not in classifier.newly_initialized
    }
    return replace(run, initial_head={**run.initial_head, **{name: value / scale for name, value in own.items()}})


def in_own_unit(classifier: Classifier, result: RunResult | FailedRun, run: Run, scale: float) -> RunResult | FailedRun:
    """What a scaled run gave, in the unit of the values: the output layer, and the losses that are squared errors.

    Args:
        run: What was asked for.
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
