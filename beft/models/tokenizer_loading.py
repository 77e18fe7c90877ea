"""A base's tokenizer: loaded, checked against the model, and held to what the model can take."""

import inspect
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from beft.commands import pip_install
from beft.encoding.tokenization import Encoded, row_of
from beft.errors import InputError, RowError
from beft.models.base_files import read_mapping, vocabulary_files
from beft.models.gguf import gguf_file, gguf_options

log = logging.getLogger("beft.models.base")

_POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe")
_NO_LIMIT = 10**6
"""A larger model_max_length is what transformers writes where it knows none."""

_PACKAGES = {"SentencePiece": "sentencepiece"}
_LIKELY_PADS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>", "[SEP]", "[UNK]", "<unk>")

_OPTIONAL = (
    "entity_vocab_file",
    "normalizer_file",
    "spm_file",
    "target_vocab_file",
    "tokenizer_config_file",
    "tokenizer_file",
)
"""Of the files that a class of tokenizers names, those that a text is divided into tokens without."""

_INSTEAD = ("tekken.json", "tokenizer.model", "tiktoken.model")
"""Files that transformers takes for the ``vocab_file`` of any class."""

_WARNED, _REFUSED = 0.05, 0.8
"""Shares of the tokens of the user's rows that may be unknown: above the first it is said, above the second refused."""


def load_tokenizer(folder: Path, model: Any) -> Any:
    """Load a base's tokenizer; it then cuts texts to the model's positions and gives no token type that it lacks.

    Args:
        folder: The base's files.
        model: The loaded model, or its outline without weights.

    Raises:
        InputError: The tokenizer's files are missing, damaged, of a newer version or need a package that is not
            installed, or it does not fit the model.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **gguf_options(folder)
        )
    except InputError:
        raise
    except Exception as error:  # tokenizers itself raises a plain Exception for a file that it cannot read
        raise _explained(folder, error) from None
    _check_vocabulary(folder, tokenizer)
    _warn_of_own_code(folder, tokenizer)
    _limit_positions(folder, tokenizer, model)
    _limit_types(tokenizer, model)
    _choose_pad(folder, tokenizer, model)
    _check_special_tokens(folder, tokenizer, model)
    return tokenizer


def _explained(folder: Path, error: Exception) -> InputError:
    """Why a tokenizer cannot be loaded, and what to do."""
    import tokenizers

    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0]
    if not vocabulary_files(folder) and gguf_file(folder) is None:
        return _no_vocabulary(folder)
    if isinstance(error, ImportError):
        found = re.search(r"install (\w[\w.-]*) to use|requires the (\w+) library|No module named '([\w.]+)'", text)
        package = next((name for name in found.groups() if name), "") if found else ""
        advice = f"run: {pip_install(_PACKAGES.get(package, package))}" if package else "install it"
        return InputError(f"the tokenizer of {folder} needs a package that is not installed ({first}); {advice}")
    if isinstance(error, ValueError) and "pip install tiktoken" in text:
        models = [path for path in vocabulary_files(folder) if path.suffix == ".model" and "tiktoken" not in path.name]
        if models:
            return InputError(
                f"{models[0]} cannot be read as a SentencePiece model: it is damaged or cut short; copy or download it "
                "again"
            )
        return InputError(
            f"the tokenizer of {folder} needs a package that is not installed; run: {pip_install('tiktoken')}"
        )
    if missing := _missing_vocabulary(folder, _tokenizer_class(folder)):
        return missing
    if (path := folder / "tokenizer.json").is_file():
        read_mapping(path)
        if type(error) is Exception:
            return InputError(
                f"{path} cannot be read by tokenizers {tokenizers.__version__} ({first}): it was written by a newer "
                "version. Install that version, or save the tokenizer again with this one"
            )
    return InputError(f"the tokenizer of {folder} cannot be loaded ({first}); look at its tokenizer_config.json")


def _no_vocabulary(folder: Path) -> InputError:
    return InputError(
        f"{folder} holds no vocabulary (no tokenizer.json, vocab.txt, vocab.json or *.model): without one every word "
        "is unknown. Copy the tokenizer's files too, or save it there with its save_pretrained(…)"
    )


def _check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Where there is no vocabulary, transformers makes a tokenizer that knows its special tokens alone."""
    kind = type(tokenizer)
    if not kind.vocab_files_names or gguf_file(folder) is not None:  # none for tokenizers of bytes or characters
        return
    if not vocabulary_files(folder):
        raise _no_vocabulary(folder)
    if missing := _missing_vocabulary(folder, kind):
        raise missing


def _missing_vocabulary(folder: Path, kind: Any) -> InputError | None:
    """What is to be said of files that a class of tokenizers reads and that are not there; None where all are."""
    from transformers import PreTrainedTokenizerFast

    fast = isinstance(kind, type) and issubclass(kind, PreTrainedTokenizerFast)
    if kind in (None, PreTrainedTokenizerFast) or (fast and (folder / "tokenizer.json").is_file()):
        return None
    named = {key: name for key, name in kind.vocab_files_names.items() if key not in _OPTIONAL}
    if any(path.name.startswith(_INSTEAD) for path in vocabulary_files(folder)):
        named.pop("vocab_file", None)
    elif not named and kind.vocab_files_names:
        named = {"tokenizer_file": "tokenizer.json"}
    missing = [name for name in named.values() if not (folder / name).is_file()]
    if not missing:
        return None
    return InputError(
        f"{folder} lacks {' and '.join(missing)}, which the base's tokenizer ({kind.__name__}) reads: copy "
        f"{'it' if len(missing) == 1 else 'them'} too, or save the tokenizer there with its save_pretrained(…)"
    )


def _tokenizer_class(folder: Path) -> Any:
    """The class that a base names for its tokenizer, or that goes with its type; None where neither says."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    of_tokenizer, of_model = (
        read_mapping(path) if path.is_file() else {}
        for path in (folder / "tokenizer_config.json", folder / "config.json")
    )
    name = of_tokenizer.get("tokenizer_class") or of_model.get("tokenizer_class")
    name = name or TOKENIZER_MAPPING_NAMES.get(of_model.get("model_type"))
    return tokenizer_class_from_name(name) if isinstance(name, str) else None


def _warn_of_own_code(folder: Path, tokenizer: Any) -> None:
    path = folder / "tokenizer_config.json"
    if path.is_file() and read_mapping(path).get("auto_map"):
        log.warning(
            "%s names code of its own (auto_map), which is not run: transformers' %s makes the tokens, which need not "
            "be the same",
            path,
            type(tokenizer).__name__,
        )


def model_positions(model: Any) -> int | None:
    """How many tokens a model's position embeddings are for; None where it has none, as with rotary positions."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITIONS:
            # RoBERTa counts from behind its padding token, OPT and BART from an offset.
            first = getattr(module, "offset", None) or (0 if module.padding_idx is None else module.padding_idx + 1)
            found.append(module.num_embeddings - int(first))
    stated = getattr(model.config, "max_position_embeddings", None)
    return min([*found, *([stated] if isinstance(stated, int) else [])]) if found else None


def _limit_positions(folder: Path, tokenizer: Any, model: Any) -> None:
    stated, positions = tokenizer.model_max_length, model_positions(model)
    path = folder / "tokenizer_config.json"
    least = tokenizer.num_special_tokens_to_add(pair=False) + 1
    if not isinstance(stated, int | float) or not least <= stated < math.inf:
        raise InputError(
            f"{path}: model_max_length is {stated!r}; it must be a number of tokens, {least} or more. Write how many "
            f"the base takes ({positions or 'see its max_position_embeddings'}), or leave it out"
        )
    if positions is None or stated <= positions:
        return
    if stated < _NO_LIMIT:
        log.warning("%s: model_max_length is %d, but the base has %d positions: those count", path, stated, positions)
    tokenizer.model_max_length = positions


def _limit_types(tokenizer: Any, model: Any) -> None:
    """A model that has one token type, or none, gets none: each of its tokens is of the first type."""
    types = [
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] == "token_type_embeddings"
    ]
    known = "token_type_ids" in inspect.signature(model.forward).parameters
    if not known or (types and min(types) < 2):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        return
    given = [max(tokenizer("a", "b").get("token_type_ids") or [0])]
    if types and max(given) >= min(types):
        raise InputError(
            f"the base's tokenizer gives the tokens of a pair type {max(given)}, but the base knows {min(types)} types "
            "(type_vocab_size of config.json): the tokenizer is another model's; copy the base's own"
        )


def _choose_pad(folder: Path, tokenizer: Any, model: Any) -> None:
    """Pad with the end token where there is no pad token that the model has an embedding for."""
    tokens = known_tokens(model)
    if tokenizer.pad_token is not None and not 0 <= tokenizer.pad_token_id < tokens:
        log.warning(
            "the pad token %r of %s has the id %d, but the base has embeddings for %d tokens: its end token is used",
            tokenizer.pad_token,
            folder,
            tokenizer.pad_token_id,
            tokens,
        )
        tokenizer.pad_token = None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        likely = next((token for token in _LIKELY_PADS if vocabulary.get(token, tokens) < tokens), "TOKEN")
        raise InputError(
            f"{folder / 'tokenizer_config.json'} names neither a pad token nor an end token, and rows of a batch are "
            f'padded with one; add one of its vocabulary, as "pad_token": "{likely}"'
        )


def known_tokens(model: Any) -> int:
    """For how many token ids a model has embeddings; without a table of them, for any."""
    try:
        embeddings = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # CANINE hashes characters
        return 2**63
    return int(embeddings.num_embeddings) if isinstance(embeddings, nn.Embedding) else 2**63


def _check_special_tokens(folder: Path, tokenizer: Any, model: Any) -> None:
    tokens = known_tokens(model)
    ids = {tokenizer.pad_token_id, *tokenizer("")["input_ids"], *tokenizer("", "")["input_ids"]}
    if beyond := sorted(number for number in ids if number >= tokens):
        raise InputError(_beyond(tokenizer, beyond[0], tokens, f"the tokenizer of {folder} starts or ends texts with"))
    largest = max(tokenizer.get_vocab().values(), default=0) if len(tokenizer) > tokens else 0
    if largest >= tokens:
        log.warning(
            "the tokenizer of %s has tokens up to the id %d, but the base has embeddings for %d: a text with a token "
            "beyond them is refused",
            folder,
            largest,
            tokens,
        )


def check_token_ids(tokenizer: Any, model: Any, encoded: Encoded, sizes: np.ndarray | None = None) -> None:
    """Check that a model has an embedding for every token.

    Args:
        sizes: How many sequences each row has; None: one each.

    Raises:
        RowError: It lacks one; the message names the token.
    """
    tokens = known_tokens(model)
    for sequence, ids in enumerate(encoded.input_ids):
        if max(ids) >= tokens:
            raise RowError(row_of(sequence, sizes), _beyond(tokenizer, max(ids), tokens, "has"))


def check_end_tokens(tokenizer: Any, model: Any, encoded: Encoded, sizes: np.ndarray | None = None) -> None:
    """Check that texts end where the head of an encoder and decoder reads: at their last end token.

    Args:
        sizes: How many sequences each row has; None: one each.

    Raises:
        InputError: A text has no end token, or more of them than the others, which such a model refuses.
    """
    end = model.config.eos_token_id
    token = None if end is None else tokenizer.convert_ids_to_tokens(end)
    counts = [ids.count(end) for ids in encoded.input_ids]
    usual = max(set(counts), key=counts.count)
    if usual == 0:
        raise InputError(
            f"the head of the base reads at the end token of a text, {token!r} (eos_token_id {end!r} of config.json), "
            "but the tokenizer ends no text with it; copy the base's own tokenizer, or set head.pooling to mean"
        )
    if odd := [sequence for sequence, count in enumerate(counts) if count != usual]:
        raise RowError(
            row_of(odd[0], sizes),
            f"has {counts[odd[0]]} end tokens ({token!r}), the others have {usual}, and the head of the "
            "base reads at them; take them out of the text, or set head.pooling to mean",
        )


def _beyond(tokenizer: Any, number: int, tokens: int, where: str) -> str:
    return (
        f"{where} the token {tokenizer.convert_ids_to_tokens(number)!r} (id {number}), but the base has embeddings for "
        f"{tokens} tokens: its tokenizer is another model's, or tokens were added to it without "
        "resize_token_embeddings. Copy the base's own tokenizer, or take the token out of tokenizer.json"
    )


def check_known(tokenizer: Any, encoded: Encoded, what: str) -> None:
    """Say how many tokens of some rows are unknown to the tokenizer, where it is more than a few.

    Args:
        what: What the rows are, for the message.

    Raises:
        InputError: Nearly all of them are.
    """
    unknown, special = tokenizer.unk_token_id, set(tokenizer.all_special_ids)
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    if unknown is None or unknown in others:  # a tokenizer of bytes knows all, and names one of these for form's sake
        return
    special -= {unknown}
    plain = sum(1 for ids in encoded.input_ids for number in ids if number not in special)
    share = sum(ids.count(unknown) for ids in encoded.input_ids) / max(plain, 1)
    said = f"{share:.0%} of the tokens of {what} are unknown to the base's tokenizer ({tokenizer.unk_token})"
    if share > _REFUSED:
        raise InputError(f"{said}: nothing can be learnt from them. Use a base for the texts' language and script")
    if share > _WARNED:
        log.warning("%s: a base for the texts' language and script would see more of them", said)
