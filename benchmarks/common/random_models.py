"""Models of random weights and rows of random tokens: for speed and memory they do as well as trained ones."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from beft.encoding.tokenization import Encoded
from beft.inference.runs import LabelledRows
from beft.models.classifier import Classifier

LABELS = ("negative", "positive")
_PAD = 1
_FIRST_TOKEN = 3  # those before mark the beginning, the padding and the end


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    Attributes:
        family: The model type, as transformers names it: bert, roberta or opt.
        heads: Attention heads a layer.
        intermediate: Width of the feed-forward layers.
        positions: The most tokens of a text.
    """

    family: str
    layers: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int = 1000
    positions: int = 512

    def configuration(self) -> Any:
        """The configuration that transformers builds the model from."""
        from transformers import AutoConfig

        values: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_labels": len(LABELS),
            "pad_token_id": _PAD,
            "max_position_embeddings": self.positions + _PAD + 1,  # RoBERTa counts positions from the padding's
        }
        if self.family == "opt":
            values |= {"ffn_dim": self.intermediate, "word_embed_proj_dim": self.width}
        else:
            values |= {"intermediate_size": self.intermediate}
        return AutoConfig.for_model(self.family, **values)

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def random_model(shape: Shape, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A classification model of random weights, made where it is to be, in the type that it is to have."""
    from transformers import AutoModelForSequenceClassification

    with torch.device(device):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(shape.configuration(), dtype=dtype).eval()


def random_classifier(shape: Shape, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Classifier:
    """The same as a classifier without a tokenizer, its head the model's own."""
    return Classifier(random_model(shape, device=device, dtype=dtype), None, None, LABELS, "model")


def random_rows(lengths: Sequence[int], vocabulary: int) -> LabelledRows:
    """Rows of random tokens, of the given lengths, with labels in turns."""
    generator = np.random.default_rng(0)
    ids = [generator.integers(_FIRST_TOKEN, vocabulary, length).tolist() for length in lengths]
    labels = np.arange(len(ids), dtype=np.int64) % len(LABELS)
    return LabelledRows(Encoded(ids, None, np.array(lengths, dtype=np.int64), 0, _PAD), labels)
