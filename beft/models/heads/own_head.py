"""The head that a base brings with it: its outputs are put into the order of the labels, or a new one is drawn."""

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("beft.models.base")


@torch.no_grad()
def fit_own_head(model: Any, layer: nn.Linear, labels: Sequence[str], seed: int) -> bool:
    """Make the outputs of a base's own head those of the labels, by the names that its configuration gives them.

    Names are compared without regard to case, and to how accents are written. Where they are others (``LABEL_0``, …),
    nothing says which output means which label, and the layer is drawn anew. One output needs no name. What was done
    is logged.

    Args:
        model: The loaded model, or its outline without weights.
        layer: The head's output layer, as the base's files hold it.
        labels: The labels, in the order that the outputs are to have.
        seed: Of what is drawn.

    Returns:
        Whether the layer was drawn anew.
    """
    if len(labels) < 2:
        log.info("the base's own head is used: its one output")
        return False
    names = [str(model.config.id2label.get(number)) for number in range(len(labels))]
    order = _order(names, labels)
    parameters: Mapping[str, Tensor] = dict(layer.named_parameters())
    if order is not None:
        for value in parameters.values():
            value.copy_(value[order].clone())
        how = "as they are" if order == sorted(order) else "put into the order of the labels"
        log.info("the base's own head is used, its outputs (%s) %s", ", ".join(names), how)
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: number for number, label in enumerate(labels)}
        return False
    log.warning(
        "the base's own head is for %s, not for %s: a new one is drawn. Where they are the same, write the labels as "
        "id2label into its config.json",
        ", ".join(names),
        ", ".join(labels),
    )
    generator = torch.Generator().manual_seed(seed)
    for name, value in parameters.items():
        std = float(getattr(model.config, "initializer_range", 0.02))
        drawn = torch.randn(value.shape, generator=generator) * std if name == "weight" else torch.zeros(value.shape)
        value.copy_(drawn)
    return True


def _order(names: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """Where each label stands among the names; None where they are not the same."""
    found = {_plain(name): at for at, name in enumerate(names)}
    wanted = [_plain(label) for label in labels]
    same = len(found) == len(set(wanted)) == len(labels) and found.keys() == set(wanted)
    return [found[label] for label in wanted] if same else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())
