"""Prompts and answers as tokens; scores against the whole logits; generated answers against a plain greedy loop."""

import copy

import numpy as np
import pytest
import torch

from beft.adapters.folding import fold
from beft.bank.bank import Bank
from beft.datasets.prepared import Rows
from beft.encoding.prompted import encode_prompted, encode_prompts
from beft.errors import InputError
from beft.inference.generation import generate_answers
from beft.inference.predictions import sequence_outputs
from beft.models.language_model import LanguageModel
from beft.problems.candidates import Candidates
from beft.problems.language_model import LanguageModeling
from beft.problems.prompt import Prompt
from beft.sites.site import find_sites
from tests.conftest import build_tiny
from tests.support.shapes import PROMPT, answer_score, letter_tokenizer, sequences_of, task, text_rows


@pytest.fixture(scope="module")
def tokenizer():
    return letter_tokenizer()


def tokens(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_sequence_is_its_prompt_and_its_answer(tokenizer):
    encoded = encode_prompted(tokenizer, ["ab=", "c="], [["n!", "yes"], ["n!"]], max_length=20)
    assert encoded.input_ids == [tokens(tokenizer, text) for text in ("ab=n!", "ab=yes", "c=n!")]
    assert encoded.answers.tolist() == [2, 3, 2]
    batch = encoded.batch([0, 1])
    assert batch["answer_mask"].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]


def test_what_is_too_long_loses_the_beginning_of_its_prompt(tokenizer):
    encoded = encode_prompted(tokenizer, ["abcdefgh="], [["n!", "yes"]], max_length=7)
    assert encoded.input_ids == [tokens(tokenizer, text) for text in ("fgh=n!", "fgh=yes")]
    assert encoded.truncated == 1
    with pytest.raises(InputError, match="leaves no room"):
        encode_prompted(tokenizer, ["ab="], [["yesyes"]], max_length=6)
    with pytest.raises(InputError, match="row 1 has an answer without a token"):
        encode_prompted(tokenizer, ["ab=", "c="], [["n"], ["y", ""]], max_length=9)
    left = encode_prompts(tokenizer, ["abcdefgh=", "a="], max_length=9, room=4)
    assert left.input_ids == [tokens(tokenizer, "efgh="), tokens(tokenizer, "a=")]
    assert left.batch([0, 1])["attention_mask"].tolist() == [[1] * 5, [0, 0, 0, 1, 1]]
    with pytest.raises(InputError, match="no room for a prompt"):
        encode_prompts(tokenizer, ["a="], max_length=9, room=9)


def test_an_answer_that_is_learnt_for_generating_ends_the_text(tokenizer):
    shape = LanguageModeling(PROMPT, free=True, max_new_tokens=4)
    rows = Rows(["0"], ["ab"], None, [], None, [["x\ny", "other"]])
    encoded = shape.examples(tokenizer, rows, 20).encoded
    assert encoded.input_ids == [[*tokens(tokenizer, "ab=x | y"), tokenizer.eos_token_id]]
    assert encoded.answers.tolist() == [6]


def test_a_start_token_is_put_before_the_prompt_and_never_cut(tokenizer):
    starting = copy.deepcopy(tokenizer)
    starting.add_special_tokens({"bos_token": "^"})
    from tokenizers import processors

    starting.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="^ $A", special_tokens=[("^", starting.bos_token_id)]
    )
    encoded = encode_prompted(starting, ["abcd="], [["yes"]], max_length=6)
    assert encoded.input_ids == [[starting.bos_token_id, *tokens(tokenizer, "d=yes")]]


def test_texts_are_never_taken_for_places_of_the_prompt():
    prompt = Prompt("{text}|{text_pair}=", answer=" {answer}")
    assert prompt.text("{text_pair}", "{text}") == "{text_pair}|{text}="
    assert prompt.written("{answer}") == " {answer}"
    with pytest.raises(InputError, match="second text"):
        prompt.text("alone")
    with pytest.raises(InputError, match="no answer for the label maybe"):
        Candidates(PROMPT, ("yes", "maybe"))


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen2", "llama"])
def test_scores_are_mean_log_likelihoods_of_the_whole_logits(family):
    toy = task("candidates", family=family, rows=6)
    [found] = sequence_outputs(toy.classifier, toy.train.encoded, batch_tokens=60)
    with torch.no_grad():
        expected = [
            float(answer_score(toy.classifier.model, *of_sequence))
            for example in range(6)
            for of_sequence in sequences_of(toy.train, example)
        ]
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=0, atol=1e-10)


def test_no_logits_are_made_but_where_an_answer_is_predicted():
    toy = task("candidates", rows=6)
    seen = []
    hook = toy.classifier.model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape))
    try:
        toy.classifier(toy.train.batch(np.arange(6)))
    finally:
        hook.remove()
    assert [shape[:-1] for shape in seen] == [(1, int(toy.train.encoded.answers.sum()))]


@pytest.mark.parametrize(
    "family", ["gpt2", "opt", "qwen2", "llama", "gptj", "gpt_neox", "bloom", "phi", "phi3", "qwen3", "gemma3_text"]
)
def test_generated_answers_are_those_of_a_folded_copy(family):
    """In batches padded on the left, under two runs at once, against one prompt at a time, greedily."""
    shape = LanguageModeling(PROMPT, free=True, max_new_tokens=5)
    sizes = {"vocab_size": len(letter_tokenizer()), "tie_word_embeddings": False}
    # BLOOM casts its scores to fp32, where the least number of fp64, which masks the padding, has no place.
    dtype = torch.float32 if family == "bloom" else torch.float64
    model = build_tiny(family, dtype=dtype, causal=True, seed=2, **sizes)
    language_model = LanguageModel(model, letter_tokenizer(), None, (), shape)
    prompts = shape.examples(language_model.tokenizer, text_rows("generated", 7, 3), 24).prompts
    sites = find_sites(model, ["value"], add=True)
    generator = torch.Generator().manual_seed(0)
    deltas = {site: torch.randn(2, site.width, generator=generator, dtype=torch.float64) for site in sites}
    axes = {site.module: 0 for site in sites}
    how = {"max_new_tokens": 5, "batch_tokens": 120}
    with Bank(model, deltas, axes=axes) as bank:
        together = generate_answers(language_model, prompts, runs=(0, 1), choose=bank.choose, **how)
    assert len({text for texts in together for text in texts}) > 4, "they must have something to differ in"
    assert together[0] != together[1]
    for run, found in enumerate(together):
        folded = copy.deepcopy(model)
        fold(folded, {site: delta[run] for site, delta in deltas.items()})
        expected = [_greedy(folded, language_model.tokenizer, ids, 5) for ids in prompts.input_ids]
        assert found == expected
        with Bank(model, {site: delta[run] for site, delta in deltas.items()}):
            assert generate_answers(language_model, prompts, **how) == [expected]


def _greedy(model, tokenizer, ids, steps):
    """The most probable token after the other, every time over the whole sequence."""
    text = ""
    for _ in range(steps):
        with torch.no_grad():
            best = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids = [*ids, best]
        text += tokenizer.decode([best], skip_special_tokens=True)
        if "\n" in text:
            break
    parts = [part.strip() for part in text.split("\n")[0].split("|")]
    return "\n".join(part for part in parts if part)
