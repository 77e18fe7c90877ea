"""A frozen base with a head on every token: from a batch of tokens to the outputs of its words."""

import torch
from torch import Tensor

from beft.models.classifier import Classifier, seen_by_output_layer
from beft.sites.batch_axis import Batch


class TokenClassifier(Classifier):
    """A ``…ForTokenClassification`` model in the place of a classifier: its outputs are those of the words.

    All that it gives is of the words that ``word_positions`` of a batch names, one after the other in the order of the
    sequences.
    """

    head_sees_pooled = True

    def forward(self, batch: Batch) -> Tensor:
        """The outputs of each word in fp32 or wider, [words, tags]."""
        logits: Tensor = self.model(**_inputs(batch)).logits.to(self.device)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return _at_words(wide, batch)

    def pooled(self, batch: Batch, pooling: str = "mean") -> Tensor:
        """What the head's output layer sees of each word; where no words are named, each text pooled."""
        return self.head_features(batch) if "word_positions" in batch else super().pooled(batch, pooling)

    def outputs_and_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both of one pass: those of ``forward``, and what the head's output layer sees of each word."""
        with seen_by_output_layer() as seen:
            outputs = self(batch)
        return outputs, _at_words(seen[-1], batch)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != "word_positions"}


def _at_words(values: Tensor, batch: Batch) -> Tensor:
    """Values [rows, tokens, …] at the words, [words, …]."""
    positions = batch["word_positions"].to(values.device)
    rows, words = (positions >= 0).nonzero(as_tuple=True)
    return values[rows, positions[rows, words]]
