"""Generation: the greedy answer, whatever settings of generation the base brings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from beft.encoding.prompted import encode_prompts
from beft.inference.generation import generate_answers
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.language_model import LanguageModeling
from tests.support.shapes import PROMPT, letter_tokenizer

torch.set_num_threads(1)

NEW_TOKENS = 8
PROMPTS = ("abc=", "a=", "hhgfe=", "dd=", "bdcahg=", "e=")

# What bases bring in their generation_config.json, by name; tokens 8 to 60 are signs, letters and digits.
BROUGHT: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 5.0},
    "n-grams once": {"no_repeat_ngram_size": 1},
    "suppressed tokens": {"suppress_tokens": list(range(8, 40))},
    "suppressed at the beginning": {"begin_suppress_tokens": list(range(8, 40))},
    "bad words": {"bad_words_ids": [[token] for token in range(8, 40)]},
    "a forced beginning": {"forced_bos_token_id": 20},
    "a forced end": {"forced_eos_token_id": 20},
    "a bias of a token": {"sequence_bias": [[[20], 100.0]]},
    "a penalty of length": {"exponential_decay_length_penalty": [1, 100.0]},
    "a least length": {"min_length": 40, "min_new_tokens": 8},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True, "length_penalty": 9.0},
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.2},
    "a contrast": {"penalty_alpha": 0.6, "top_k": 4},
    "guidance": {"guidance_scale": 3.0},
    "looking up the prompt": {"prompt_lookup_num_tokens": 3},
    "a watermark": {"watermarking_config": {"greenlist_ratio": 0.25, "bias": 50.0}},
    "strings that stop": {"stop_strings": ["a", "b", "1"]},
    "a time limit": {"max_time": 1e-9},
    "a greatest length": {"max_length": 2},
    "another end of text": {"eos_token_id": list(range(8, 40)), "pad_token_id": 9},
    "an object as the result": {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True},
    "a static cache": {"cache_implementation": "static", "max_cache_len": 4},
    "no cache": {"use_cache": False},
    "healed tokens": {"token_healing": True},
}


@pytest.fixture(scope="module")
def base(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder in a folder."""
    folder = tmp_path_factory.mktemp("generation") / "base"
    tokenizer = letter_tokenizer()
    tiny("qwen2", causal=True, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def opened(base: Path) -> Classifier:
    shape = LanguageModeling(PROMPT, free=True, max_new_tokens=NEW_TOKENS)
    return load_classifier(resolve_base(str(base)), (), compute=Compute("cpu", "fp32", 1), problem_type=shape)


def answers(classifier: Classifier) -> list[str]:
    prompts = encode_prompts(classifier.tokenizer, PROMPTS, max_length=32, room=NEW_TOKENS)
    [found] = generate_answers(classifier, prompts, max_new_tokens=NEW_TOKENS, batch_tokens=60)
    return found


@torch.no_grad()
def greedy(classifier: Classifier, prompt: str) -> str:
    """The most probable token, one after the other, from the logits alone."""
    tokenizer: Any = classifier.tokenizer
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(NEW_TOKENS):
        ids.append(int(classifier.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id or "\n" in tokenizer.decode(ids[-1:]):
            break
    text = tokenizer.decode(ids[start:], skip_special_tokens=True).split("\n", 1)[0]
    return "\n".join(span.strip() for span in text.split("|") if span.strip())


@pytest.fixture(scope="module")
def expected(base: Path) -> list[str]:
    """The greedy answers."""
    classifier = opened(base)
    return [greedy(classifier, prompt) for prompt in PROMPTS]


def test_answers_are_greedy(base: Path, expected: list[str]) -> None:
    assert answers(opened(base)) == expected
    assert len(set(expected)) > 2 and max(map(len, expected)) == NEW_TOKENS


@pytest.mark.parametrize("name", BROUGHT)
def test_answers_are_greedy_whatever_the_base_brings(
    name: str, base: Path, expected: list[str], tmp_path: Path
) -> None:
    brought = tmp_path / "base"
    brought.mkdir()
    for path in base.iterdir():
        (brought / path.name).symlink_to(path)
    settings = brought / "generation_config.json"
    own = json.loads(settings.read_text()) if settings.exists() else {}
    settings.unlink(missing_ok=True)
    settings.write_text(json.dumps({**own, **BROUGHT[name]}))
    classifier = opened(brought)
    assert answers(classifier) == expected
    kept = classifier.model.generation_config.to_dict()
    assert all(kept[key] for key, value in BROUGHT[name].items() if value), "the model itself is not changed"
