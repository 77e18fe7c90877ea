"""The masked-language-model head of an encoder: what it makes of a mask token, and the words that it predicts there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beft.errors import InputError
from beft.models.base_files import read_mapping
from beft.models.device import Compute
from beft.models.loading import FROM_FILES, quiet_transformers

_ADVICE = "use another head.pooling, or a base that was saved with that head, such as google-bert/bert-base-uncased"


def load_mask_head(folder: Path, compute: Compute, *, weights: bool = True) -> nn.Module:
    """What stands between the last hidden state at a mask token and the words: frozen, [rows, hidden] to the same.

    Args:
        weights: Whether the weights are read; without them it is checked that they are there.

    Raises:
        InputError: The base's files hold no such head, or one of a kind that is not known here.
    """
    model = _load(folder, compute, weights=weights)
    head: Any = getattr(model, "lm_head", None)
    transform: nn.Module
    if hasattr(model, "cls"):  # BERT and DeBERTa
        transform = model.cls.predictions.transform
    elif hasattr(model, "vocab_transform"):  # DistilBERT
        transform = nn.Sequential(model.vocab_transform, model.activation, model.vocab_layer_norm)
    elif all(hasattr(head, name) for name in ("dense", "layer_norm")):  # RoBERTa and MPNet
        transform = nn.Sequential(head.dense, nn.GELU(), head.layer_norm)
    else:
        raise InputError(f"the masked-language-model head of {type(model).__name__} is not known here; {_ADVICE}")
    return transform.requires_grad_(False).eval()


@torch.no_grad()
def word_outputs(folder: Path, compute: Compute, words: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The rows of the output layer for some words: their logits are what the head gives at a mask token.

    Args:
        words: The token ids of each; of several tokens the mean is taken.

    Returns:
        Weight [words, hidden] and bias [words], fp32 or wider.

    Raises:
        InputError: As ``load_mask_head``.
    """
    layer = _load(folder, compute).get_output_embeddings()
    wide = torch.promote_types(layer.weight.dtype, torch.float32)
    weight = torch.stack([layer.weight[list(ids)].to(wide).mean(0) for ids in words])
    if layer.bias is None:
        return weight, weight.new_zeros(len(words))
    return weight, torch.stack([layer.bias[list(ids)].to(wide).mean() for ids in words])


def _load(folder: Path, compute: Compute, *, weights: bool = True) -> Any:
    """The base with its masked-language-model head."""
    from transformers import AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = read_mapping(folder / "config.json") if (folder / "config.json").is_file() else {}
    kind = config.get("model_type")
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.get("is_encoder_decoder"):
        raise InputError(
            f"head.pooling is mask, but a base of the type {kind!r} is no masked language model; {_ADVICE}"
        )
    device = compute.device if weights else "meta"
    places = {} if device == "cpu" else {"device_map": {"": device}}
    with quiet_transformers():
        model, found = AutoModelForMaskedLM.from_pretrained(folder, dtype=compute.dtype, **FROM_FILES, **places)
    inside = f"{model.base_model_prefix}."
    if lacking := sorted(name for name in found["missing_keys"] if not name.startswith(inside)):
        raise InputError(
            f"head.pooling is mask, but the base in {folder} was saved without its masked-language-model head (it "
            f"lacks {lacking[0]}); {_ADVICE}"
        )
    return model
