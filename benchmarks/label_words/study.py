"""Ways of training on a base with its masked-language-model head, over draws with few labels."""

from collections.abc import Callable, Mapping

from torch import Tensor

from beft.bank.bank import Bank
from beft.encoding.examples import LabelledRows
from beft.inference.predictions import sequence_outputs
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute
from beft.models.heads.mask_head import load_mask_head
from beft.models.reference import resolve_base
from beft.settings import BaseSettings
from beft.training.head_start import head_start
from beft.training.sample import Sample
from benchmarks.few_labels.methods import (
    MAX_LENGTH,
    Trained,
    contrastive,
    logistic_regression,
    settings_of_draw,
    train_value,
)
from benchmarks.few_labels.pools import Pool

ROWS = (16, 64)
DRAWS = 5
LABEL_WORDS = {
    "sst2": {"negative": "terrible", "positive": "great"},
    "rotten_tomatoes": {"negative": "terrible", "positive": "great"},
    "rte": {"entailment": "yes", "not_entailment": "no"},
}
"""By data set and label: those of Gao et al. (2021, arXiv 2012.15723, table 1)."""

UNTRAINED, TRAINED = "label words, untrained", "label words, value biases"
METHODS = ("logistic_regression", "contrastive", UNTRAINED, TRAINED)


def measure_draw(base: BaseSettings, pool: Pool, rows_of_label: int, number: int) -> dict[str, float]:
    """The accuracy on test of each method, trained on the same rows.

    Raises:
        InputError: The base has no masked-language-model head, or no token for a word.
    """
    compute, drawn = resolve_compute(base), pool.draw(rows_of_label, number)
    reference = resolve_base(base.source)
    plain = load_classifier(reference, pool.labels, compute=compute, pooling="mean", seed=number)
    plain.threads = base.threads
    masked = plain.with_pooling("mask", load_mask_head(reference.folder, compute))
    head = {"pooling": "mask", "label_words": LABEL_WORDS[pool.name]}
    settings = settings_of_draw({"loss": "cross_entropy"}, number, head=head)
    sample = Sample(masked.examples(drawn, MAX_LENGTH), None, "accuracy")

    def untrained() -> Trained:
        def outputs(rows: LabelledRows) -> Tensor:
            with Bank(masked.model, {}, head_start(masked, sample, settings)):
                return sequence_outputs(masked, rows.encoded)[0]

        return Trained(outputs, numbers=0)

    ways: Mapping[str, tuple[Classifier, Callable[[], Trained]]] = {
        "logistic_regression": (plain, lambda: logistic_regression(plain, drawn, number)),
        "contrastive": (plain, lambda: contrastive(plain, drawn, number)),
        UNTRAINED: (masked, untrained),
        TRAINED: (masked, lambda: train_value(masked, sample, settings)),
    }
    found = {}
    for name, (classifier, train) in ways.items():
        test = classifier.examples(pool.test, MAX_LENGTH)
        found[name] = float((train().outputs(test).argmax(-1).numpy() == test.labels).mean())
    return found
