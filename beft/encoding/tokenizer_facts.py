"""What a tokenizer does, in a few facts: the same model with another tokenizer gives other answers without an error."""

from typing import Any

from beft.encoding.tokenization import TOKENIZING, token_limit
from beft.files import sha256_json

# Case, accents, punctuation, numbers, white space, another script: what tokenizers' settings differ in.
_TEXTS = ("A Fine, touching FILM... naïve? 42% of it!", "  NOT bad;\tnot\ngood \u2014 \u6771\u4eac", "unbelievably")


def tokenizer_facts(tokenizer: Any, max_length: int) -> dict[str, int | str]:
    """The size of the vocabulary, padding, truncation, and a hash of the tokens of a few fixed texts and a pair.

    Args:
        max_length: Tokens that texts are to be cut to; the tokenizer itself may cut them to fewer.
    """
    with TOKENIZING:
        encoded = tokenizer(list(_TEXTS), truncation=False, verbose=False)["input_ids"]
        encoded = [*encoded, tokenizer(_TEXTS[0], _TEXTS[2], truncation=False, verbose=False)["input_ids"]]
    return {
        "vocabulary": len(tokenizer),
        "padding_side": str(tokenizer.padding_side),
        "truncation_side": str(tokenizer.truncation_side),
        "max_tokens": token_limit(tokenizer, max_length),
        "sample_sha256": sha256_json(encoded),
    }
