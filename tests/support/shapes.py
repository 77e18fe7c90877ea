"""A learnable toy task of every shape over tiny random models, and its loss computed the plain way."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from beft.datasets.prepared import Rows
from beft.encoding.iob2 import NO_WORD
from beft.encoding.tokenization import Encoded
from beft.inference.runs import LabelledRows
from beft.models.classifier import Classifier
from beft.models.language_model import LanguageModel
from beft.models.token_classifier import TokenClassifier
from beft.problems.candidates import Candidates
from beft.problems.language_model import LanguageModeling
from beft.problems.multi_label import MultiLabel
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.problem_type import ProblemType
from beft.problems.prompt import Prompt
from beft.problems.regression import Regression
from beft.problems.token_classification import TokenClassification
from tests.conftest import PAD, VOCABULARY, build_tiny

TASKS = ("regression", "multi_label", "token_classification", "multiple_choice", "candidates", "ranked", "generated")
LETTERS = "abcdefgh"
PROMPT = Prompt("{text}=", {"no": "n!", "yes": "yes"}, "{choice}")


@dataclass(frozen=True)
class Task:
    """A classifier with examples of its shape, and the loss of one example as a careful user would compute it."""

    classifier: Classifier
    train: LabelledRows
    dev: LabelledRows
    plain_loss: Callable[[Any, LabelledRows, int], Tensor]
    units: Callable[[LabelledRows, int], int] = lambda rows, example: 1
    """What the loss of one example is a sum over, and a mean over examples divides by."""


def letter_tokenizer() -> Any:
    """One token a character, so that where an answer begins is plain to see; the end of a text is ``$``."""
    characters = ["?", "_", "$", *"\n |=!.:", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"]
    model = WordLevel({character: number for number, character in enumerate(characters)}, unk_token="?")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="?",
        pad_token="_",
        eos_token="$",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def task(name: str, *, dtype: torch.dtype = torch.float64, family: str = "", rows: int = 26) -> Task:
    """One of ``TASKS``; its dev rows are others than its train rows."""
    if name == "multi_label":
        model = build_tiny(family or "bert", dtype=dtype, num_labels=3)
        classifier = Classifier(model, None, None, ("a", "b", "c"), problem_type=MultiLabel(3))
        return Task(classifier, _sets(rows, 0), _sets(12, 1), _set_loss)
    if name == "token_classification":
        model = build_tiny(family or "bert", dtype=dtype, num_labels=5, of_words=True)
        tagger = TokenClassifier(model, None, None, ("a", "b"), problem_type=TokenClassification(2, "spaces"))
        return Task(tagger, _tags(rows, 0), _tags(12, 1), _tag_loss, lambda rows, example: len(rows.words[example]))
    if name in ("regression", "multiple_choice"):
        shape: ProblemType = Regression() if name == "regression" else MultipleChoice()
        model = build_tiny(family or "bert", dtype=dtype, num_labels=1)
        classifier = Classifier(model, None, None, (), problem_type=shape)
        make, loss = (_values, _squared_error) if name == "regression" else (_choices, _choice_loss)
        return Task(classifier, make(rows, 0), make(12, 1), loss)
    shapes: dict[str, tuple[ProblemType, str, Callable[..., Tensor]]] = {
        "candidates": (Candidates(PROMPT, ("no", "yes")), "gpt2", _candidate_loss),
        "ranked": (LanguageModeling(PROMPT), "opt", _answer_loss),
        "generated": (LanguageModeling(PROMPT, free=True, max_new_tokens=4), "qwen2", _answer_loss),
    }
    shape, usual, loss = shapes[name]
    model = build_tiny(family or usual, dtype=dtype, causal=True, tie_word_embeddings=False)
    labels = ("no", "yes") if name == "candidates" else ()
    language_model = LanguageModel(model, letter_tokenizer(), None, labels, shape)

    def encoded(count: int, seed: int, training: bool) -> LabelledRows:
        return shape.examples(language_model.tokenizer, text_rows(name, count, seed), 24, training=training)

    return Task(language_model, encoded(rows, 0, True), encoded(12, 1, False), loss)


def text_rows(name: str, rows: int, seed: int) -> Rows:
    """Texts of letters; the last one decides what is right."""
    random = np.random.default_rng(seed)
    texts = ["".join(random.choice(list(LETTERS), random.integers(2, 9))) for _ in range(rows)]
    last = [LETTERS.index(text[-1]) for text in texts]
    ids = [str(row) for row in range(rows)]
    if name == "candidates":
        return Rows(ids, texts, None, [number % 2 for number in last])
    if name == "ranked":
        choices = [[text[-1].upper() * (1 + at % 3) for at in range(2 + row % 3)] for row, text in enumerate(texts)]
        labels = [number % len(of_row) for number, of_row in zip(last, choices, strict=True)]
        return Rows(ids, texts, None, labels, choices)
    return Rows(ids, texts, None, [], None, [[text[-1].upper() * 2, "other"] for text in texts])


def _random_tokens(random: np.random.Generator, rows: int) -> Encoded:
    lengths = random.integers(3, 13, rows)
    ids = [random.integers(3, VOCABULARY, length).tolist() for length in lengths]
    return Encoded(ids, None, lengths.astype(np.int64), 0, PAD)


def _values(rows: int, seed: int) -> LabelledRows:
    encoded = _random_tokens(np.random.default_rng(seed), rows)
    return LabelledRows(encoded, np.array([4 * row[0] / VOCABULARY for row in encoded.input_ids]))


def _sets(rows: int, seed: int) -> LabelledRows:
    encoded = _random_tokens(np.random.default_rng(seed), rows)
    return LabelledRows(encoded, np.array([[row[0] % 2, row[1] % 2, row[0] % 3 == 0] for row in encoded.input_ids]) * 1)


def _tags(rows: int, seed: int) -> LabelledRows:
    """Texts in one window or two, of which some tokens are read; one text has no word."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 3, rows).astype(np.int64)
    encoded = _random_tokens(random, int(sizes.sum()))
    read = [np.sort(random.permutation(length)[: length // 2]).tolist() for length in encoded.lengths]
    read[0] = [] if sizes[0] == 1 else read[0]
    labels = np.full((rows, 40), NO_WORD)
    words, first = [], 0
    for row, size in enumerate(sizes.tolist()):
        windows = range(first, first + size)
        tags = [encoded.input_ids[at][place] % 5 for at in windows for place in read[at]]
        labels[row, : len(tags)] = tags
        words.append([(2 * at, 2 * at + 1) for at in range(len(tags))])
        first += size
    return LabelledRows(replace(encoded, positions=read), labels, sizes, words=words)


def _choices(rows: int, seed: int) -> LabelledRows:
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 5, rows).astype(np.int64)
    encoded = _random_tokens(random, int(sizes.sum()))
    first = np.split(np.array([row[0] for row in encoded.input_ids]), np.cumsum(sizes)[:-1])
    return LabelledRows(encoded, np.array([of_row.argmax() for of_row in first]), sizes)


def sequences_of(rows: LabelledRows, example: int) -> list[tuple[Tensor, int]]:
    """Tokens [1, tokens] of each sequence of an example, unpadded, and how many of them are the answer."""
    sizes = np.ones(len(rows), np.int64) if rows.sizes is None else rows.sizes
    start = int(sizes[:example].sum())
    answers = rows.encoded.answers
    return [
        (torch.tensor([rows.encoded.input_ids[at]]), 0 if answers is None else int(answers[at]))
        for at in range(start, start + int(sizes[example]))
    ]


def answer_score(model: Any, tokens: Tensor, answer: int) -> Tensor:
    """The mean log-likelihood of the last tokens, from the logits of the whole vocabulary at every position."""
    every = torch.log_softmax(model(input_ids=tokens).logits, -1)[0, :-1]
    each = every[torch.arange(len(every)), tokens[0, 1:]]
    return each[-answer:].mean()


def _squared_error(model: Any, rows: LabelledRows, example: int) -> Tensor:
    [(tokens, _)] = sequences_of(rows, example)
    loss: Tensor = (model(input_ids=tokens).logits[0, 0] - float(rows.labels[example])) ** 2
    return loss


def _set_loss(model: Any, rows: LabelledRows, example: int) -> Tensor:
    [(tokens, _)] = sequences_of(rows, example)
    given = torch.sigmoid(model(input_ids=tokens).logits[0])
    has = torch.tensor(rows.labels[example], dtype=torch.bool)
    loss: Tensor = -torch.where(has, given, 1 - given).log().sum()
    return loss


def _tag_loss(model: Any, rows: LabelledRows, example: int) -> Tensor:
    sizes = rows.sizes
    assert sizes is not None and rows.encoded.positions is not None
    first, loss = int(sizes[:example].sum()), torch.zeros((), dtype=torch.float64)
    tags = rows.labels[example].tolist()
    for (tokens, _), read in zip(sequences_of(rows, example), rows.encoded.positions[first:], strict=False):
        logits = model(input_ids=tokens).logits[0]
        for place in read:
            loss = loss - torch.log_softmax(logits[place], -1)[tags.pop(0)]
    return loss


def _choice_loss(model: Any, rows: LabelledRows, example: int) -> Tensor:
    scores = torch.stack([model(input_ids=tokens).logits[0, 0] for tokens, _ in sequences_of(rows, example)])
    return functional.cross_entropy(scores, torch.tensor(rows.labels[example]))


def _candidate_loss(model: Any, rows: LabelledRows, example: int) -> Tensor:
    scores = torch.stack([answer_score(model, *of_sequence) for of_sequence in sequences_of(rows, example)])
    return functional.cross_entropy(scores, torch.tensor(rows.labels[example]))


def _answer_loss(model: Any, rows: LabelledRows, example: int) -> Tensor:
    return -answer_score(model, *sequences_of(rows, example)[int(rows.labels[example])])
