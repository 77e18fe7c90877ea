"""Opening a session: the base loaded for one dataset, or only checked against it."""

import logging
from collections.abc import Callable

from beft.datasets.prepared import PreparedData, Split
from beft.models.base import is_decoder, load_classifier, usual_length
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute
from beft.models.reference import resolve_base
from beft.problems.choosing import check_learns_from_dev, choose_problem_type
from beft.settings import DatasetSettings, Settings
from beft.training.session import Session

log = logging.getLogger("beft.training.opening")


def check_base(settings: Settings, data: PreparedData) -> None:
    """Check the base and the settings of its trainings against all rows of a dataset, as a run would.

    Weights are not read.

    Raises:
        InputError: As ``open_session``, ``Session.training`` and ``Session.sample``.
    """
    session = open_session(settings, data, weights=False)
    check_learns_from_dev(settings, session.problem_type.name)
    for section in (session.settings.probe, session.settings.train):
        named = section.learning_rate or section.usual_learning_rate  # without weights none can be measured
        session.training(section.model_copy(update={"learning_rate": named}))
    _ = session.sample  # encoding the rows checks them
    splits: tuple[Split, ...] = ("gate", "test")
    for split in splits:
        if session.facts["rows"][split]:
            session.rows(split)


def open_session(
    settings: Settings,
    data: PreparedData,
    *,
    weights: bool = True,
    load: Callable[..., Classifier] = load_classifier,
) -> Session:
    """Load the base for a dataset, for the problem type that the two have together.

    It is computed with the settings' number of threads, whatever the process uses otherwise.

    Args:
        weights: Whether the weights are read; without them rows can be encoded, and nothing computed.
        load: Loads the classifier; one that has it loaded already may give that.

    Raises:
        InputError: The base cannot be reached, or does not fit the dataset or the settings.
    """
    own = settings.datasets.get(data.name, DatasetSettings())
    settings = settings.model_copy(update={"datasets": {data.name: own}})
    compute = resolve_compute(settings.base)
    facts = data.facts
    reference = resolve_base(settings.base.source)
    labels = facts["labels"] if facts["shape"] in ("classification", "multi_label", "token_classification") else []
    problem_type = choose_problem_type(
        facts["shape"],
        prompt=facts["prompt"],
        labels=labels,
        decoder=is_decoder(reference),
        kind=settings.head.kind,
        objective=settings.train.objective,
        max_new_tokens=settings.evaluate.max_new_tokens,
        words=facts.get("words", "punctuation"),
    )
    classifier = load(
        reference,
        labels,
        compute=compute,
        pooling=settings.head.pooling,
        seed=settings.seed,
        problem_type=problem_type,
        weights=weights,
    )
    classifier.threads = compute.threads
    _warn_of_length(data.name, own.max_length, classifier)
    log.info("%s on %s in %s, %d threads", reference.portable_id, compute.device, compute.precision, compute.threads)
    return Session(classifier, settings, data)


def _warn_of_length(dataset: str, longest: int, classifier: Classifier) -> None:
    """Say where texts are cut to fewer tokens than was asked for, or may be longer than those that the base knows."""
    limit, reference = int(classifier.tokenizer.model_max_length), classifier.reference
    usual = None if reference is None else usual_length(reference.folder)
    if longest > limit:
        log.warning(
            "datasets.%s.max_length is %d, but the base takes %d tokens: texts are %s there",
            dataset,
            longest,
            limit,
            "divided into windows" if classifier.problem_type.reads_words else "cut",
        )
    elif usual is not None and longest > usual:
        log.warning(
            "datasets.%s.max_length is %d, but the base was made for texts of %d tokens (sentence_bert_config.json)",
            dataset,
            longest,
            usual,
        )
