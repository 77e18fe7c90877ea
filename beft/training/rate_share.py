"""How much of the usual learning rate suits a base: the larger it is, the further a step moves its features."""

import torch
from torch import Tensor

from beft.bank.bank import Bank
from beft.encoding.tokenization import encode
from beft.inference.features import extract_features
from beft.models.classifier import Classifier
from beft.models.tokenizer_loading import check_token_ids
from beft.process_state import with_own_threads
from beft.sites.site import BiasSite, find_sites
from beft.training_settings import TargetSettings

SHARES = (1.0, 0.3, 0.1, 0.03)
"""What the usual learning rate may be multiplied by: steps of about half a decade, for dev cannot tell finer ones."""

FURTHEST = 0.06
"""How far a step may move the features, in units of their spread: between the default encoder, for which the usual rate
was found, and one of five times its size, on which that rate loses (benchmarks/quality/learning_rates.md)."""

_TEXTS = (
    "The train to the coast leaves at nine.",
    "I never received the parcel that I ordered two weeks ago.",
    "What is the boiling point of water on a high mountain?",
    "A tender, funny film that loses its way in the last half hour.",
    "Shares of the company fell by seven percent on Tuesday.",
    "Please reset my password, I cannot log in any more.",
    "The cat slept on the warm stones all afternoon.",
    "She won the final in three sets and thanked her coach.",
    "Mix the flour with butter, sugar and a pinch of salt.",
    "How many moons does Jupiter have?",
    "The court dismissed the appeal for lack of evidence.",
    "My flight was cancelled and nobody told us why.",
    "This phone is the worst thing that I have ever bought.",
    "Researchers found traces of the virus in old samples.",
    "Turn left at the church and follow the river.",
    "The minister will present the new budget tomorrow.",
    "It rained so hard that the streets were flooded.",
    "Who wrote the first novel in this language?",
    "The battery lasts two days, and the screen is bright.",
    "Our neighbours sold their house and moved to Spain.",
    "An error occurred while the file was being saved.",
    "The orchestra played the second movement far too fast.",
    "Can I pay by card, or do you only take cash?",
    "Nothing in this dull sequel is worth your time.",
)
"""Plain sentences about many things. They are always the same, so that the share is a property of the base alone."""


def rate_share(classifier: Classifier) -> float:
    """The largest of ``SHARES`` at which a step of the value biases moves the features by at most ``FURTHEST``.

    In an early step Adam moves every bias by about the learning rate, whatever its gradient. A base whose features such
    a step throws far off learns little with the usual rate of smaller bases, or nothing. Two forward passes over a few
    sentences measure it before the training.

    Returns:
        1 for a language model, whose answers are no function of pooled features alone.
    """
    if not classifier.problem_type.has_head:
        return SHARES[0]
    moved = relative_step(classifier, TargetSettings.usual_learning_rate)
    return next((share for share in SHARES if share * moved <= FURTHEST), SHARES[-1])


@with_own_threads
def relative_step(classifier: Classifier, step: float) -> float:
    """How far a step of every value bias, each up or down at random, moves the mean of the last hidden states.

    Up to twice the largest usual rate the answer is proportional to the step.

    Args:
        step: The size of the step of each bias.

    Raises:
        InputError: The base has no embedding for a token of its tokenizer.

    Returns:
        The median over the sentences of how far their features move, divided by the median of how far they are from
        their mean; 0 where they are all the same. Medians, because in a decoder the first token of a text can have
        features of another magnitude.
    """
    encoded = encode(classifier.tokenizer, _TEXTS, max_length=64)
    check_token_ids(classifier.tokenizer, classifier.model, encoded)
    chance = torch.Generator().manual_seed(0)
    steps: dict[BiasSite, Tensor] = {
        site: step * (2.0 * torch.randint(0, 2, (site.width,), generator=chance) - 1.0)
        for site in find_sites(classifier.model, ["value"], add=True)
    }
    before = extract_features(classifier, encoded, "pooled").double()
    with Bank(classifier.model, steps):
        after = extract_features(classifier, encoded, "pooled").double()
    spread = (before - before.mean(0)).norm(dim=1).median()
    return float((after - before).norm(dim=1).median() / spread) if spread > 0 else 0.0
