"""Methods over language models: zero-shot, demonstrations in the prompt, and prefixes while text is generated."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model

from beft.comparison.baselines.prefix import Prefix
from beft.comparison.demonstrations import BETWEEN, draw_demonstrations, with_demonstrations
from beft.comparison.measuring import measure, measure_many
from beft.comparison.registry import MethodOptions
from beft.comparison.result import MethodRun, NotAvailable
from beft.datasets.prepared import PreparedData, load_split, save_split
from beft.errors import InputError
from beft.inference.generation import generate_answers
from beft.settings import Settings
from beft.training.session import Session
from tests.support.rows import tiny_classifier
from tests.support.shapes import Task, answer_score, sequences_of, task, text_rows

METRICS = {"candidates": "accuracy", "ranked": "accuracy", "generated": "squad_exact_match"}
LENGTH = 44


def quiet(_line):
    """Progress that nobody reads."""


def opened_task(name, folder: Path, *, family: str = "") -> tuple[Session, Task]:
    """A tiny language model with prepared rows of one shape."""
    made = task(name, family=family)
    for split, rows, seed in (("train", 30, 0), ("dev", 14, 1), ("test", 14, 2), ("gate", 5, 3)):
        save_split(folder, split, text_rows(name, rows, seed))
    training = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-2}
    settings = Settings.from_mapping(
        {
            "base": {"source": "of-the-tests", "precision": "fp64", "threads": 1, "device": "cpu"},
            "datasets": {name: {"max_length": LENGTH}},
            "train": training,
            "probe": training,
            "evaluate": {"resamples": 100},
        }
    )
    facts = {"dataset": name, "metric": METRICS[name], "rows": {"train": 30}, "labels": ["no", "yes"]}
    return Session(made.classifier, settings, PreparedData(facts, partial(load_split, folder))), made


@pytest.fixture(scope="module")
def ranked(tmp_path_factory) -> Session:
    return opened_task("candidates", tmp_path_factory.mktemp("candidates"))[0]


def plain_probabilities(model, tokenizer, prompts, candidates):
    """A softmax over the mean log-likelihoods, one unpadded sequence at a time."""
    found = []
    for prompt, of_row in zip(prompts, candidates, strict=True):
        scores = [
            answer_score(model, torch.tensor([tokenizer(prompt + one)["input_ids"]]), len(tokenizer(one)["input_ids"]))
            for one in of_row
        ]
        found.append(torch.softmax(torch.stack(scores), 0).detach().numpy())
    return np.array(found)


def test_untouched_is_zero_shot(ranked: Session) -> None:
    found = measure(ranked, "untouched", progress=quiet)
    texts = text_rows("candidates", 14, 2).texts
    expected = plain_probabilities(
        ranked.classifier.model, ranked.classifier.tokenizer, [f"{text}=" for text in texts], [["n!", "yes"]] * 14
    )
    np.testing.assert_allclose(found.predictions["test"], expected, atol=1e-10)
    assert found.trainable_parameters == 0
    assert "zero-shot" in found.details["what"]
    assert found.dev is not None and found.seconds == 0


def test_in_context_shows_drawn_rows_of_train_with_their_answers(ranked: Session) -> None:
    """Against sequences that are put together by hand."""
    shape, tokenizer = ranked.classifier.problem_type, ranked.classifier.tokenizer
    train, test = text_rows("candidates", 30, 0), text_rows("candidates", 14, 2)
    shown = draw_demonstrations(shape, train, 6, seed=4)
    labels = dict(zip(train.texts, train.labels, strict=True))
    assert all(one == f"{one.split('=')[0]}={('n!', 'yes')[labels[one.split('=')[0]]]}" for one in shown)
    assert sum(one.endswith("yes") for one in shown) == 3, "labels take turns"
    assert shown != draw_demonstrations(shape, train, 6, seed=5)
    assert shown == draw_demonstrations(shape, train, 12, seed=4)[:6]
    behind, counts = with_demonstrations(shape, tokenizer, ranked.rows("test"), shown, LENGTH)
    prompts = [
        BETWEEN.join([*shown[:count], f"{text}="]) for text, count in zip(test.texts, counts.tolist(), strict=True)
    ]
    assert len(set(counts.tolist())) > 1, "the rows differ in how many fit"
    assert behind.encoded.truncated == 0
    for prompt, count, length in zip(prompts, counts.tolist(), behind.lengths.tolist(), strict=True):
        assert length == len(prompt) + len("yes") <= LENGTH
        assert count == len(shown) or length + len(shown[count] + BETWEEN) + len(shown[: count + 1]) > LENGTH
    options = MethodOptions(demonstrations=6)
    [found] = measure_many(ranked, [MethodRun("in_context", 4, options=options)], progress=quiet)
    expected = plain_probabilities(ranked.classifier.model, tokenizer, prompts, [["n!", "yes"]] * 14)
    np.testing.assert_allclose(found.predictions["test"], expected, atol=1e-10)
    told = found.details["demonstrations"]["test"]
    assert (told["least"], told["most"]) == (counts.min(), counts.max())
    assert found.trainable_parameters == 0
    [fewer] = measure_many(ranked, [MethodRun("in_context", 5, options=options)], progress=quiet)
    assert not np.allclose(fewer.predictions["test"], found.predictions["test"])


@pytest.mark.parametrize("name", ["ranked", "generated"])
def test_other_shapes_of_language_models_are_shown_their_answers_too(name, tmp_path) -> None:
    session, _ = opened_task(name, tmp_path)
    shape = session.classifier.problem_type
    train = text_rows(name, 30, 0)
    right = {
        text: answers[0] if train.answers else train.choices[row][train.labels[row]]
        for row, (text, answers) in enumerate(zip(train.texts, train.answers or [[]] * 30, strict=True))
    }
    for one in draw_demonstrations(shape, train, 4, seed=0):
        text, answer = one.split("=")
        assert answer == right[text]
    behind, counts = with_demonstrations(
        shape, session.classifier.tokenizer, session.rows("test"), draw_demonstrations(shape, train, 9, 0), LENGTH
    )
    encoded = behind.encoded if behind.prompts is None else behind.prompts
    assert encoded.lengths.max() <= LENGTH - shape.new_tokens
    assert counts.min() >= 1
    found = measure(session, "in_context", progress=quiet)
    assert len(found.predictions["test"]) == 14
    assert 0 <= found.scores["test"][METRICS[name]].value <= 1


def test_terms_and_weights_train_without_a_head(ranked: Session) -> None:
    asked = [("value", 0), ("query", 1), ("key", 0), ("head_only", 0), ("logistic_regression", 0), ("lora", 0)]
    value, query, *without, lora = measure_many(ranked, asked, progress=quiet)
    assert value.runs_in_pass == query.runs_in_pass == 2
    for one in (value, query):
        alone = measure(ranked, one.run.method, seed=one.run.seed, progress=quiet)
        for site, delta in alone.deltas.items():
            torch.testing.assert_close(one.deltas[site], delta, rtol=0, atol=1e-9)
        assert one.trainable_parameters == 2 * 32
    assert lora.trained_parameters > 0 == lora.head_parameters
    assert all(isinstance(one, NotAvailable) for one in without)
    assert "every key bias is inert" in without[0].reason
    assert "no head" in without[1].reason or "by a head" in without[1].reason
    assert "by a head" in without[2].reason


@pytest.mark.parametrize("family", ["qwen2", "opt"])
def test_a_prefix_s_gradient_is_that_of_peft_s_language_model(family) -> None:
    made = task("candidates", family=family)
    rows = np.arange(6)
    method = Prefix(4)
    state = method.start(made.classifier, (), made.train.batch(rows[:1]), 0)
    with method.attached(made.classifier, state) as [trained]:
        outputs = made.classifier(made.train.batch(rows))
        losses = made.classifier.problem_type.losses(outputs, made.train.targets(rows), made.train.sizes_of(rows))
        [found] = torch.autograd.grad(losses.sum(), [trained.value])
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    wrapped = get_peft_model(made.classifier.model, config)
    [prefix] = [value for name, value in wrapped.named_parameters() if "prompt_encoder" in name]
    prefix.data = state.values["prefix"].clone()
    loss = torch.stack([made.plain_loss(wrapped, made.train, row) for row in rows.tolist()]).sum()
    torch.testing.assert_close(found, torch.autograd.grad(loss, [prefix])[0], rtol=0, atol=1e-10)
    assert float(found.abs().max()) > 1e-3
    assert len(sequences_of(made.train, 0)) == 2


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gpt_neox"])
def test_text_is_generated_behind_a_prefix(family) -> None:
    """Against a loop that computes all tokens again for each new one, without a cache."""
    made = task("generated", family=family)
    classifier, prompts = made.classifier, made.dev.prompts
    method = Prefix(3)
    state = method.start(classifier, (), made.train.batch(np.array([0])), 1)
    before = generate_answers(classifier, prompts, max_new_tokens=5)[0]
    expected = []
    with method.attached(classifier, state), torch.no_grad():
        found = generate_answers(classifier, prompts, max_new_tokens=5)[0]
        for row in prompts.input_ids:
            tokens = torch.tensor([row])
            for _ in range(5):
                logits = classifier.model(
                    input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
                ).logits
                tokens = torch.cat([tokens, logits[:, -1].argmax(-1)[:, None]], 1)
                if classifier.tokenizer.decode(tokens[0, -1:]) in ("$", "\n"):
                    break
            text = classifier.tokenizer.decode(tokens[0, len(row) :], skip_special_tokens=True).split("\n")[0]
            expected.append("\n".join(part.strip() for part in text.split("|") if part.strip()))
    assert found == expected
    assert found != before


def test_demonstrations_are_for_language_models(ranked: Session) -> None:
    with pytest.raises(InputError, match="0 demonstrations"):
        draw_demonstrations(ranked.classifier.problem_type, text_rows("candidates", 5, 0), 0, 0)
    headed = Session(tiny_classifier(), ranked.settings, ranked.data)
    headed.classifier.tokenizer = ranked.classifier.tokenizer
    with pytest.raises(InputError, match="shows examples to a language model, and this is classification by a head"):
        measure(headed, "in_context", progress=quiet)
