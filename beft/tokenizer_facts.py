"""What a tokenizer does, in a few facts: the same model with another tokenizer gives other answers without an error."""

from typing import Any

from beft.files import sha256_json

# Case, accents, punctuation, numbers, white space, another script: what tokenizers' settings differ in.
_TEXTS = ("A Fine, touching FILM... naïve? 42% of it!", "  NOT bad;\tnot\ngood \u2014 \u6771\u4eac", "unbelievably")


def tokenizer_facts(tokenizer: Any) -> dict[str, int | str]:
    """The size of the vocabulary, the side of the padding, and a hash of the tokens of a few fixed texts and a pair."""
    encoded = tokenizer(list(_TEXTS), truncation=False)["input_ids"]
    encoded = [*encoded, tokenizer(_TEXTS[0], _TEXTS[2], truncation=False)["input_ids"]]
    return {
        "vocabulary": len(tokenizer),
        "padding_side": str(tokenizer.padding_side),
        "sample_sha256": sha256_json(encoded),
    }
