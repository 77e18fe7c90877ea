"""Methods that train nothing: the base as it is, and a language model that is shown examples in its prompt."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from beft.bank.bank import Bank
from beft.comparison.common import Common
from beft.comparison.demonstrations import draw_demonstrations, with_demonstrations
from beft.comparison.result import MethodResult, MethodRun
from beft.encoding.examples import LabelledRows, Predictions
from beft.errors import InputError
from beft.inference.predictions import predict_rows, score_rows
from beft.models.memory import PeakMemory
from beft.problems.candidates import Candidates
from beft.training.sample import DevMetric


def predict_untouched(common: Common, requested: MethodRun) -> MethodResult:
    """The base as it is: a language model answers without an example; a head is as it was drawn, which is chance."""
    memory = PeakMemory(common.classifier.device)
    began = time.perf_counter()
    start = common.drawn_head(requested.seed)
    with Bank(common.classifier.model, {}, {name: value.to(common.classifier.device) for name, value in start.items()}):
        predictions, dev = common.predict(), _dev(common)
    return _result(common, requested, predictions, dev, memory.above(), began, _what(common))


def predict_in_context(common: Common, requested: MethodRun) -> MethodResult:
    """A language model whose prompt begins with rows of train and their answers.

    They are drawn by the seed, labels in turn; each row gets as many as fit into ``max_length`` before its own prompt.

    Raises:
        InputError: It is no language model, or fewer than one is asked for.
    """
    classifier, session = common.classifier, common.session
    problem_type, source = classifier.problem_type, common.sample.train.source
    if not isinstance(problem_type, Candidates) or source is None:
        raise InputError(f"in_context shows examples to a language model, and this is {problem_type.name} by a head")
    memory, began = PeakMemory(classifier.device), time.perf_counter()
    shown = draw_demonstrations(problem_type, source, requested.options.demonstrations, requested.seed)
    parts = dict(common.rows)
    if common.sample.dev is not None:
        parts["dev"] = common.sample.dev
    counts: dict[str, Any] = {}
    predictions: dict[str, Predictions] = {}
    dev = None
    for split, rows in parts.items():
        behind, count = with_demonstrations(problem_type, classifier.tokenizer, rows, shown, session.max_length)
        found = predict_rows(classifier, behind, batch_tokens=common.settings.evaluate.batch_tokens)
        counts[split] = {
            "mean": float(np.mean(count)),
            "least": int(np.min(count)),
            "most": int(np.max(count)),
            "tokens_a_row": float(_tokens(behind)),
            "tokens_a_row_without": float(_tokens(rows)),
        }
        if split == "dev":
            dev = score_rows(common.sample.metric, found, rows)
        if split in common.rows:
            predictions[split] = found
    details = {"what": f"{len(shown)} demonstrations drawn from train, as many as fit", "demonstrations": counts}
    return _result(common, requested, predictions, dev, memory.above(), began, details)


def _result(
    common: Common,
    requested: MethodRun,
    predictions: Mapping[str, Predictions],
    dev: float | None,
    peak: int | None,
    began: float,
    details: dict[str, Any],
) -> MethodResult:
    return MethodResult(
        run=requested,
        predictions=predictions,
        scores=common.scores(predictions),
        dev=dev,
        trained_parameters=0,
        head_parameters=0,
        model_parameters=common.model_parameters,
        seconds=0.0,
        peak_memory_bytes=peak,
        details={**details, "seconds_of_predicting": round(time.perf_counter() - began, 3)},
    )


def _dev(common: Common) -> float | None:
    rows = common.sample.dev
    if rows is None:
        return None
    found = predict_rows(common.classifier, rows, batch_tokens=common.settings.evaluate.batch_tokens)
    return DevMetric(common.sample.metric, rows)(found, rows.labels)


def _what(common: Common) -> dict[str, Any]:
    """What the untouched base is, in words; and for labels what always answering the commonest one of train gives."""
    classifier = common.classifier
    if not common.head:
        return {"what": "zero-shot: the language model answers the prompt alone"}
    newly_initialized = bool(set(common.head) & set(classifier.newly_initialized))
    what = "a head as it was drawn at random: chance" if newly_initialized else "the head that the base came with"
    if not common.classifies:
        return {"what": what}
    labels = np.bincount(common.sample.train.labels, minlength=len(classifier.labels))
    always = np.eye(len(labels))[int(labels.argmax())]
    majority = {
        split: {metric: score_rows(metric, np.tile(always, (len(rows), 1)), rows) for metric in common.session.metrics}
        for split, rows in common.rows.items()
    }
    return {"what": what, "majority_label": classifier.labels[int(labels.argmax())], "majority": majority}


def _tokens(rows: LabelledRows) -> float:
    encoded = rows.encoded if rows.prompts is None else rows.prompts
    return float(encoded.lengths.mean())
