"""What a frozen classifier gives for many examples: the outputs of their sequences, and what is predicted from them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from beft.encoding.examples import LabelledRows, Predictions
from beft.encoding.tokenization import Encoded, token_batches
from beft.inference.batching import tokens_at_once
from beft.inference.generation import Choose, generate_answers
from beft.inference.runs import Metric
from beft.metrics.registry import known_metric, score_predictions
from beft.models.classifier import Classifier
from beft.problems.problem_type import ProblemType
from beft.process_state import with_own_threads


@with_own_threads
@torch.no_grad()
def sequence_outputs(
    classifier: Classifier,
    encoded: Encoded,
    *,
    batch_tokens: int | None = None,
    runs: Sequence[int] = (0,),
    choose: Choose | None = None,
) -> Tensor:
    """The outputs of every sequence under every run, fp64, [runs, sequences, outputs], in the sequences' own order.

    Where words are read they are those of every word, [runs, words, outputs].

    Args:
        batch_tokens: Tokens computed at once, padding and all runs counted; None: what suits the device.
        runs: Numbers of the vectors of an attached bank.
        choose: The bank's; None where it has but one vector, or there is none.
    """
    classifier.eval()
    found: Tensor | None = None
    of_rows = torch.tensor(list(runs))
    for batch in token_batches(encoded.lengths, tokens_at_once(classifier, batch_tokens, len(runs))):
        if choose is not None:
            choose(of_rows.repeat_interleave(len(batch)))
        outputs = classifier(encoded.batch(np.tile(batch, len(runs)), classifier.device)).double().cpu()
        if found is None:
            found = torch.empty(len(runs), encoded.output_count, outputs.shape[-1], dtype=torch.float64)
        places = encoded.outputs_of(batch)
        found[:, torch.from_numpy(places)] = outputs.view(len(runs), len(places), outputs.shape[-1])
    assert found is not None  # encode() refuses an empty list of texts
    return found


@with_own_threads
def measure_runs(
    classifier: Classifier,
    rows: LabelledRows,
    metric: Metric,
    runs: Sequence[int] = (0,),
    *,
    batch_tokens: int | None = None,
    choose: Choose | None = None,
) -> list[dict[str, float]]:
    """Dev loss and dev metric of some runs over labelled rows; the other arguments are those of the outputs."""
    outputs = sequence_outputs(classifier, rows.encoded, batch_tokens=batch_tokens, runs=runs, choose=choose)
    predictions = _predictions(classifier, rows, outputs, batch_tokens, runs, choose)
    every = np.arange(len(rows))
    return [
        {
            "dev_loss": classifier.problem_type.mean_loss(of_run, rows.targets(every), rows.sizes_of(every)),
            "dev_metric": float(metric(predicted, rows.labels)),
        }
        for of_run, predicted in zip(outputs, predictions, strict=True)
    ]


def predict_rows(classifier: Classifier, rows: LabelledRows, *, batch_tokens: int | None = None) -> Predictions:
    """What is predicted for every example, in the form of the metrics: probabilities, values or texts."""
    outputs = None
    if not classifier.problem_type.generates:
        outputs = sequence_outputs(classifier, rows.encoded, batch_tokens=batch_tokens)
    return _predictions(classifier, rows, outputs, batch_tokens, (0,), None)[0]


def problem_type_on_dev(
    classifier: Classifier, dev: LabelledRows | None, *, batch_tokens: int | None = None
) -> ProblemType:
    """The classifier's problem type with the thresholds that are best on dev, for what is attached to it now.

    It stays as it is where it has no thresholds, or there is no dev split.
    """
    problem_type = classifier.problem_type
    if dev is None or not problem_type.has_thresholds:
        return problem_type
    [outputs] = sequence_outputs(classifier, dev.encoded, batch_tokens=batch_tokens)
    return problem_type.with_thresholds_on(outputs, dev.labels) if outputs.isfinite().all() else problem_type


@contextmanager
def predicting_as(classifier: Classifier, problem_type: ProblemType) -> Iterator[Classifier]:
    """Within the context, the outputs of the classifier mean what a problem type says, its thresholds among it."""
    before, classifier.problem_type = classifier.problem_type, problem_type
    try:
        yield classifier
    finally:
        classifier.problem_type = before


def _predictions(
    classifier: Classifier,
    rows: LabelledRows,
    outputs: Tensor | None,
    batch_tokens: int | None,
    runs: Sequence[int],
    choose: Choose | None,
) -> list[Predictions]:
    """The predictions of every run, generated where the problem type generates."""
    problem_type = classifier.problem_type
    if outputs is not None and not problem_type.generates:
        return [problem_type.predictions_of(of_run, rows) for of_run in outputs]
    assert rows.prompts is not None  # the problem type that generates makes them
    found = generate_answers(
        classifier,
        rows.prompts,
        max_new_tokens=problem_type.new_tokens,
        batch_tokens=batch_tokens,
        runs=runs,
        choose=choose,
    )
    return [[answer or "" for answer in of_run] for of_run in found]  # one that was lost to NaN is never right


def score_rows(name: str, predictions: Predictions, rows: LabelledRows) -> float:
    """The value of a metric for the predictions of rows.

    Raises:
        InputError: There is no such metric, or it does not fit the predictions.
    """
    return score_predictions(name, as_metric_takes(name, predictions, rows), rows.truth)


def as_metric_takes(name: str, predictions: Predictions, rows: LabelledRows) -> Predictions:
    """Predictions in the form that a metric takes: of ranked choices, a metric of texts gets the best one's text."""
    if known_metric(name).takes != "texts" or isinstance(predictions, list):
        return predictions
    choices = None if rows.source is None else rows.source.choices
    if choices is None:
        return predictions
    best, largest = predictions.argmax(-1).tolist(), predictions.max(-1).tolist()
    # Where they are NaN there is no best choice, and no text is right.
    return [of_row[at] if largest[row] >= 0 else "" for row, (of_row, at) in enumerate(zip(choices, best, strict=True))]
