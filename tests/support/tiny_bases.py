"""Tiny random bases in folders, as a user has them: weights without a head, a tokenizer, no network."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from beft.adapters.adapter import Adapter
from beft.files import write_json
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.sites.site import BiasSite, find_sites

LABELS = ("bad", "so-so", "good")
WORDS = ("a", "film", "good", "not", "touching", "fine", "dull", "story", "the", "was")
TEXTS = ("a good film", "not good", "the story was dull dull dull, the film was not touching", "fine", "was a film")


def tiny_tokenizer(*, lowercase: bool = True) -> Any:
    """Word pieces over ten words and the letters: 128 tokens at most, padding has id 1."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = [
        "[UNK]",
        "[PAD]",
        "[CLS]",
        "[SEP]",
        *WORDS,
        *",.!?;%",
        *letters[1:],
        *(f"##{letter}" for letter in letters),
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
        model_input_names=["input_ids", "attention_mask"],
    )


def save_base(folder: Path, model: Any, *, lowercase: bool = True, pooling: str | None = None) -> Path:
    """Save a model without its head, as pre-trained bases come."""
    if model.config.is_encoder_decoder:
        model.config.eos_token_id = 3  # [SEP] ends a text, and there the head reads
    model.base_model.save_pretrained(folder)
    tiny_tokenizer(lowercase=lowercase).save_pretrained(folder)
    if pooling is not None:
        modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
        write_json(folder / "1_Pooling" / "config.json", {modes[pooling]: True})
    return folder


def load(folder: Path, *, pooling: str = "model", precision: str = "fp32", seed: int = 0) -> Classifier:
    """The classifier over a saved base."""
    compute = Compute("cpu", precision, 1)
    return load_classifier(resolve_base(str(folder)), LABELS, compute=compute, pooling=pooling, seed=seed)


def draw_deltas(
    classifier: Classifier, terms: tuple[str, ...], *, add: bool = False, seed: int = 0
) -> dict[BiasSite, Tensor]:
    """Random deltas, large enough to change every logit."""
    generator = torch.Generator().manual_seed(seed)
    return {
        site: torch.randn(site.width, generator=generator) * 0.5
        for site in find_sites(classifier.model, terms, add=add)
    }


def draw_head(classifier: Classifier, train: str = "output", *, seed: int = 1) -> dict[str, Tensor]:
    """A random head, fp32."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in classifier.model.named_parameters()}
    return {name: torch.randn(shapes[name], generator=generator) * 0.3 for name in classifier.head_parameters(train)}


def make_adapter(
    classifier: Classifier, terms: tuple[str, ...] = ("value",), *, add: bool = False, train: str = "output"
) -> Adapter:
    """An adapter with random deltas and a random head."""
    return Adapter.trained(
        classifier,
        terms=terms,
        deltas=draw_deltas(classifier, terms, add=add),
        head=draw_head(classifier, train),
        max_length=24,
        head_train=train,
        dataset="tiny",
        provenance={"seed": 0, "data_sha256": "0" * 64},
    )
