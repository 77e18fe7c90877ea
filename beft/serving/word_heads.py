"""Heads that read every word: one linear layer of the adapter on the last hidden states of the shared base."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.adapters.checks import listed
from beft.errors import InputError
from beft.serving.served_adapter import EncodedRow, HeadRows


def word_head(adapter: Adapter, model: Any) -> tuple[Tensor, Tensor | None]:
    """Weight [tags, hidden] and bias of an adapter's head.

    Args:
        model: The base as it is served.

    Raises:
        InputError: It is more than one layer on the last hidden states, which the base as it is served does not have.
    """
    if model.config.is_encoder_decoder:
        raise InputError("tags on words over a base of encoder and decoder are not served; use 'beft predict'")
    outputs = adapter.problem_type.outputs(len(adapter.labels))
    weights = [name for name, value in adapter.head.items() if value.dim() == 2]
    layer = weights[0].removesuffix(".weight") if weights else ""
    if others := sorted(set(adapter.head) - {f"{layer}.weight", f"{layer}.bias"}):
        raise InputError(
            f"the head of the adapter is more than one layer on every word ({listed(others)}), and is not served; use "
            "'beft predict'"
        )
    weight, bias = adapter.head[f"{layer}.weight"], adapter.head.get(f"{layer}.bias")
    if tuple(weight.shape) != (outputs, model.config.hidden_size):
        raise InputError(
            f"{layer}.weight has the shape {list(weight.shape)}; over this base it must be "
            f"[{outputs}, {model.config.hidden_size}]"
        )
    return weight, bias


def word_outputs(rows: Sequence[EncodedRow], hidden: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
    """The outputs of the words of each sequence that is read by words, fp64, [words, tags], by its number.

    Args:
        rows: Those of a batch.
        hidden: The last hidden states of their sequences [sequences, tokens, hidden].
        dtype: That the head is computed in.
    """
    found: dict[int, Tensor] = {}
    number = 0
    for row in rows:
        head = row.adapter.head
        for at in range(len(row.input_ids)):
            if row.adapter.problem_type.reads_words and row.positions is not None and head is not None:
                found[number] = _outputs(hidden[number], row.positions[at], head, dtype)
            number += 1
    return found


def _outputs(hidden: Tensor, positions: Sequence[int], head: HeadRows, dtype: torch.dtype) -> Tensor:
    device = head.weights.rows.device
    seen = hidden[torch.tensor(positions, dtype=torch.int64, device=hidden.device)].to(device, dtype)
    outputs = seen @ head.weights.rows[head.weight].T
    if head.biases is not None:
        outputs = outputs + head.biases.rows[head.bias]
    return outputs.double().cpu()
