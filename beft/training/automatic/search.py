"""``train.method: auto``: compare ways of training on the sample itself, then train the best on all of it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beft.heads.by_problem_type import linear_path, path_operations
from beft.inference.features import Floats, extract_features
from beft.inference.products import product_operations
from beft.inference.runs import Run, RunResult, peak_memory
from beft.models.classifier import Classifier
from beft.process_state import with_own_threads
from beft.settings import TERMS, Settings
from beft.sites.site import BiasSite, find_sites
from beft.training.automatic.candidates import Candidate, candidates, plan_search, weights_are_compared
from beft.training.automatic.choice import Choice, Scored, best_penalty, choose, score_candidate
from beft.training.automatic.cross_validation import linear_out_of_fold, trained_out_of_fold
from beft.training.automatic.folds import fold_count, repeated_folds
from beft.training.engine.cost import readable_seconds
from beft.training.engine.weight_method import wide
from beft.training.head_start import head_start, start_operations
from beft.training.sample import DevMetric, Sample, contrastive_by_default
from beft.training.target import Progress, fit_run, planned_run, with_frozen
from beft.training_settings import Loss, TrainingSettings

log = logging.getLogger("beft.training.automatic")


@dataclass(frozen=True)
class Prompted:
    """The same base whose head sees a mask token and starts at words for the labels, and the same rows so encoded.

    Attributes:
        training: How it is trained.
    """

    classifier: Classifier
    sample: Sample
    settings: Settings
    training: TrainingSettings


@with_own_threads
def search_and_train(
    classifier: Classifier,
    sample: Sample,
    settings: Settings,
    by_loss: Mapping[Loss, TrainingSettings],
    target: str,
    *,
    inert: Mapping[BiasSite, Tensor] | None = None,
    prompted: Prompted | None = None,
    checkpoints: Path | None = None,
    progress: Progress = log.info,
) -> tuple[RunResult, tuple[str, ...], Choice]:
    """Choose by repeated cross-validation how to train on these rows, and train on all of them so.

    Args:
        sample: All rows that may be learnt from, in train; nothing in dev.
        by_loss: How a training by each loss is done, of those that the problem type has.
        target: The target term.
        inert: What the probe measured; sites that are wholly inert are not trained, and ways of training that would
            train no other are not compared.
        prompted: Compared as well; None where the base has no masked-language-model head.

    Returns:
        The training, the terms whose biases the adapter has, and what was compared. Where frozen features win, the
        biases of the target term have deltas of zero.

    Raises:
        InputError: The base has no bias for the target term, the rows are too few for two folds, or the problem type
            has no linear model on frozen features.
        TrainingError: Every candidate failed.
    """
    rows, problem_type = sample.train, classifier.problem_type
    frozen = frozenset(site for site, components in (inert or {}).items() if bool(components.all()))
    found = find_sites(classifier.model, add=settings.base.add_biases)
    every_term = [term for term in TERMS if any(site.term == term and site not in frozen for site in found)]
    classes = len(classifier.labels) if problem_type.name == "classification" else 0
    find_sites(classifier.model, [target], add=settings.base.add_biases)  # refuses a term that the base lacks
    if target not in every_term:
        progress(f"auto: every {target} bias is inert, so no training of {target} alone is compared")
    every_way = candidates(
        by_loss,
        target,
        every_term,
        few=contrastive_by_default(settings, len(rows), classes, settings.train.batch_size),
        rare=weights_are_compared(settings.train, problem_type, rows.labels),
        prompted=None if prompted is None else prompted.training,
    )
    ways = [way for way in every_way if way.training is None or set(way.terms) & set(every_term)]
    operations = float(product_operations(classifier, [1], backward=True))
    features = extract_features(classifier, rows.encoded, "head").double().numpy()
    plan = plan_search(
        ways,
        int(rows.tokens.sum()),
        operations,
        settings.train.search_minutes,
        folds=fold_count(rows),
        linear=path_operations(problem_type, len(classifier.labels), *features.shape),
        start=start_operations(classifier, settings, by_loss["cross_entropy"], *features.shape),
    )
    folds = repeated_folds(rows, plan.folds, plan.repeats, settings.seed)
    compared = [way for way in plan.candidates if way.training is not None]
    parts = plan.repeats * plan.folds
    progress(
        f"auto: {len(plan.candidates)} ways of training, {plan.repeats} x {plan.folds} folds of {len(rows)} rows: "
        f"{len(compared) * parts} short trainings and {(len(plan.candidates) - len(compared)) * parts} linear models "
        f"on frozen features, planned as {readable_seconds(plan.seconds)}"
    )
    metric = DevMetric(sample.metric, None)
    over = {"": (classifier, sample, settings)}
    if prompted is not None:
        over["mask"] = (prompted.classifier, prompted.sample, prompted.settings)

    starts: dict[tuple[tuple[str, str], bytes], dict[str, Tensor]] = {}

    def run_of(candidate: Candidate, learnt: NDArray[np.int64]) -> Run:
        assert candidate.training is not None
        classifier, sample, settings = over[candidate.pooling]
        sites = find_sites(classifier.model, candidate.terms, add=settings.base.add_biases)
        start: dict[str, Tensor] = {}
        if candidate.start is not None:
            shared = candidate.start, learnt.tobytes()
            if shared not in starts:
                # From these rows alone, so that no fold's starts from rows that it holds out.
                of_rows = Sample(sample.train.take(learnt), None, sample.metric)
                starts[shared] = head_start(classifier, of_rows, settings, candidate.training)
            start = starts[shared]
        trained = tuple(site for site in sites if site not in frozen)
        return planned_run(classifier, sample, settings, candidate.training, candidate.name, trained, start)

    scores = {
        way.name: _frozen_features_scored(way, classifier, sample, features, folds, progress)
        for way in plan.candidates
        if way.training is None
    }
    for pooling, (of_pooling, encoded, _) in over.items():
        own = [way for way in compared if way.pooling == pooling]
        if not own:
            continue
        outcomes = trained_out_of_fold(
            of_pooling, encoded.train, folds, own, run_of, metric=metric, checkpoints=checkpoints, progress=progress
        )
        for way, outcome in zip(own, outcomes, strict=True):
            scores[way.name] = score_candidate(way, outcome, problem_type, rows, sample.metric)
    scored = [scores[way.name] for way in plan.candidates]
    choice = choose(
        scored, problem_type, rows, sample.metric, folds=plan.folds, repeats=plan.repeats, seed=settings.seed
    )
    for one in scored:
        says = f"failed: {one.failed}" if one.failed else f"{sample.metric} {one.metric:.4f}"
        progress(f"auto: {one.candidate.name}: {says}{' (chosen)' if one is choice.chosen else ''}")
    if choice.chosen.candidate.training is None:
        result = _frozen_result(classifier, sample, settings, by_loss["cross_entropy"], target, features, choice.chosen)
        return result, (target,), choice
    chosen = choice.chosen.candidate
    of_chosen, encoded, _ = over[chosen.pooling]
    result = fit_run(of_chosen, encoded, run_of(chosen, np.arange(len(encoded.train))), checkpoints, progress)
    untrained = [
        site
        for site in find_sites(classifier.model, chosen.terms, add=settings.base.add_biases)
        if site not in result.deltas
    ]
    return with_frozen(result, untrained), chosen.terms, choice


def _frozen_features_scored(
    way: Candidate,
    classifier: Classifier,
    sample: Sample,
    features: Floats,
    folds: NDArray[np.int64],
    progress: Progress,
) -> Scored:
    """The linear model on frozen features with its best penalty."""
    outcomes = linear_out_of_fold(
        classifier.problem_type,
        len(classifier.labels),
        features,
        sample.train,
        folds,
        intercept=classifier.output_layer.bias is not None,
        balanced=way.class_weights == "balanced",
        progress=progress,
    )
    return best_penalty(
        [score_candidate(way, one, classifier.problem_type, sample.train, sample.metric) for one in outcomes]
    )


def _frozen_result(
    classifier: Classifier,
    sample: Sample,
    settings: Settings,
    training: TrainingSettings,
    target: str,
    features: Floats,
    chosen: Scored,
) -> RunResult:
    """The linear model on frozen features as a training that moved no bias."""
    rows, layer, problem_type = sample.train, classifier.output_layer, classifier.problem_type
    weights = chosen.candidate.class_weights
    path = linear_path(
        problem_type,
        len(classifier.labels),
        features,
        rows,
        intercept=layer.bias is not None,
        balanced=weights == "balanced",
    )
    weight, bias = next((weight, bias) for penalty, weight, bias in path if penalty == chosen.penalty)
    outputs = torch.from_numpy(features @ weight.T + bias)
    every = np.arange(len(rows))
    loss = problem_type.mean_loss(outputs, rows.targets(every), rows.sizes_of(every))
    training = training.model_copy(update={"class_weights": weights})
    run = planned_run(classifier, sample, settings, training, chosen.candidate.name, (), {})
    fitted = {f"{classifier.output_name}.weight": torch.from_numpy(weight).float()}
    if layer.bias is not None:
        fitted[f"{classifier.output_name}.bias"] = torch.from_numpy(bias).float()
    # What of the head is below its output layer stays as the features were computed with it.
    named = dict(classifier.model.named_parameters())
    below = [name for name in run.head if name not in fitted]
    own = {name: named[name].detach().to("cpu", wide(named[name]), copy=True) for name in below}
    nothing = RunResult(
        run=run,
        deltas={},
        head=own | fitted,
        history=[{"epoch": 1, "step": 0, "train_loss": loss}],
        best_epoch=1,
        steps=0,
        steps_here=0,
        seconds=0.0,
        peak_memory=peak_memory(classifier.device),
    )
    return with_frozen(nothing, find_sites(classifier.model, [target], add=settings.base.add_biases))
