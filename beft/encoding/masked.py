"""Texts that end with a mask token: a null prompt, at which a masked language model says a word (Logan et al. 2021)."""

from dataclasses import replace
from typing import Any

import numpy as np

from beft.encoding.tokenization import Encoded
from beft.errors import InputError


def with_mask(encoded: Encoded, tokenizer: Any) -> Encoded:
    """The texts with a mask token after their last word, before what the tokenizer puts at their end.

    Args:
        encoded: Texts that have one token less than the most that they may have.

    Raises:
        InputError: The tokenizer has no mask token.
    """
    mask = tokenizer.mask_token_id
    if mask is None:
        raise InputError("head.pooling is mask, but the base's tokenizer has no mask token; use another pooling")
    ends = {tokenizer.sep_token_id, tokenizer.eos_token_id}

    def put(values: list[int], ids: list[int], value: int) -> list[int]:
        at = len(ids) - 1 if ids[-1] in ends else len(ids)
        return [*values[:at], value, *values[at:]]

    types = encoded.type_ids
    return replace(
        encoded,
        input_ids=[put(ids, ids, mask) for ids in encoded.input_ids],
        type_ids=None
        if types is None
        else [put(of_row, ids, of_row[-1]) for of_row, ids in zip(types, encoded.input_ids, strict=True)],
        lengths=(encoded.lengths + 1).astype(np.int64),
    )
