"""Which shape a base has on a dataset: by what the dataset is, what the base is, and what the settings ask for."""

from collections.abc import Mapping, Sequence
from typing import Any

from beft.datasets.words import WordRule
from beft.errors import InputError
from beft.names import known_name
from beft.problems.candidates import Candidates
from beft.problems.classification import Classification
from beft.problems.language_model import NEW_TOKENS, LanguageModeling
from beft.problems.multi_label import MultiLabel
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.problem_type import ProblemType
from beft.problems.prompt import Prompt
from beft.problems.regression import Regression
from beft.problems.token_classification import TokenClassification
from beft.settings import Settings
from beft.training_settings import MIN_CONTRASTIVE_BATCH, TrainingSettings

_UNDER_A_HEAD: dict[str, type[ProblemType]] = {
    "classification": Classification,
    "regression": Regression,
    "multiple_choice": MultipleChoice,
}
_SEARCHED: tuple[str, ...] = ("classification", "multi_label", "token_classification", "regression")
"""What ``train.method: auto`` is made for: cross-validation divides the examples, and a head predicts them."""

_LEARNS_FROM_DEV: tuple[str, ...] = ("classification", "token_classification", "regression")
"""What ``train.learn_from_dev: true`` is made for: that, but thresholds of label sets would need dev."""

_OF_DATA = (*_UNDER_A_HEAD, "multi_label", "token_classification", "generation")


def choose_problem_type(
    data: str,
    *,
    prompt: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
    decoder: bool = False,
    kind: str = "auto",
    objective: str = "auto",
    max_new_tokens: int = NEW_TOKENS,
    words: WordRule = "punctuation",
) -> ProblemType:
    """The shape of a task.

    Args:
        data: The dataset's shape: ``classification``, ``multi_label``, ``token_classification``, ``regression``,
            ``multiple_choice`` or ``generation``.
        prompt: The dataset's prompt, as ``data.json`` holds it.
        labels: Names of the dataset's labels.
        decoder: Whether the base is a causal language model.
        kind: ``classifier``, ``language_model``, or ``auto``: no head for a decoder whose dataset has a prompt.
        objective: What trains a language model: ``candidates``, ``language_model``, or ``auto``: over the candidates
            where there are some.
        max_new_tokens: Tokens of a generated answer at most.
        words: What divides the texts of a token classification into words.

    Raises:
        InputError: The dataset, the base and the settings do not fit each other.
    """
    known_name(data, _OF_DATA, "shape of a dataset")
    rankable = data not in ("regression", "multi_label", "token_classification")
    prompted = kind == "language_model" or (kind == "auto" and decoder and prompt is not None and rankable)
    if not prompted:
        if data == "multi_label":
            return MultiLabel(len(labels))
        if data == "token_classification":
            return TokenClassification(len(labels), words)
        if data not in _UNDER_A_HEAD:
            raise InputError(
                "a dataset whose answers are generated needs a language model and a prompt: name a decoder as base, "
                "and leave head.kind at auto"
            )
        return _UNDER_A_HEAD[data]()
    if not decoder:
        raise InputError("head.kind is language_model, but the base is no decoder; use auto or classifier")
    if data == "regression":
        raise InputError("a number cannot be ranked among candidates: use head.kind: classifier for a regression")
    if data == "multi_label":
        raise InputError(
            "a set of labels cannot be ranked among candidates: use head.kind: classifier for multi-label data"
        )
    if data == "token_classification":
        raise InputError("tags on words are not ranked among candidates: use head.kind: classifier for them")
    if prompt is None:
        raise InputError("head.kind is language_model, but the dataset has no prompt; add one to its description")
    read = Prompt.from_json(prompt)
    if data == "generation":
        if objective == "candidates":
            raise InputError("train.objective is candidates, but the dataset has none; use auto or language_model")
        return LanguageModeling(read, free=True, max_new_tokens=max_new_tokens)
    candidates = labels if data == "classification" else ()
    return LanguageModeling(read, candidates) if objective == "language_model" else Candidates(read, candidates)


def check_loss(problem_type: ProblemType, training: TrainingSettings) -> None:
    """Check that a training's loss is one that the problem type has, and that its batches are large enough for it.

    Raises:
        InputError: It is contrastive, and no two of the examples have like targets, or a batch has too few rows.
    """
    if not training.contrastive:
        return
    if not problem_type.has_pairs:
        raise InputError(
            f"train.loss is {training.loss}, which needs labels or values that rows share, and {problem_type.name} "
            "has none: use cross_entropy"
        )
    if training.batch_size < MIN_CONTRASTIVE_BATCH:
        raise InputError(
            f"train.loss is {training.loss}, which compares the rows of a batch, and batch_size is "
            f"{training.batch_size}: set it to {MIN_CONTRASTIVE_BATCH} or more, and micro_batch_size to save memory"
        )


def check_learns_from_dev(settings: Settings, shape: str) -> None:
    """Check that what trains on dev as well is made for a problem type, or for the shape of a dataset.

    That is ``train.method: auto``, or ``train.learn_from_dev: true``; ``protocol: paper`` knows no dev.

    Raises:
        InputError: It is not.
    """
    if settings.train.method == "auto":
        made_for, named = _SEARCHED, "labels, label sets, tags and values"
        asked, instead = "train.method is auto", "use fixed"
    elif settings.train.learn_from_dev and settings.protocol != "paper":
        made_for, named = _LEARNS_FROM_DEV, "labels, tags and values"
        asked, instead = "train.learn_from_dev is true", "remove it"
    else:
        return
    if shape not in made_for:
        raise InputError(f"{asked}, which is made for {named} of texts, not for {shape}: {instead}")
