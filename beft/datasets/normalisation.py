"""When are two texts the same text? When they are equal after this normalisation."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_BREAK = re.compile(r"<br\s*/?>")
_NOTHING = re.compile(
    r"(?:[\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2060-\u2064\ufeff]|<br\s*/?>)*", re.IGNORECASE
)  # as data/expectations has it


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space, HTML line breaks, and characters without width or picture."""
    return _NOTHING.fullmatch(text) is not None


@lru_cache(maxsize=256)  # neighbouring rows often share a long passage
def normalised(text: str) -> str:
    """The text in Unicode form NFKC, without case, HTML line breaks as spaces, white space folded to single spaces."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_BREAK.sub(" ", plain).split())


def text_key(text: str, text_pair: str | None = None, choices: Sequence[str] = ()) -> str:
    """20 hexadecimal digits that are the same for the same text (and pair, and choices), and for no other.

    The texts are joined by control characters, which white space folding leaves in none of them.
    """
    joined = normalised(text) if text_pair is None else f"{normalised(text)}\x1f{normalised(text_pair)}"
    joined += "".join(f"\x1e{normalised(choice)}" for choice in choices)
    return hashlib.sha256(joined.encode(errors="surrogatepass")).hexdigest()[:20]
