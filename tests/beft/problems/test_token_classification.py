"""Token classification: tags at first tokens, its adapters on disk and in PEFT, long texts, and what does not fit."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForTokenClassification

from beft.adapters.adapter import Adapter
from beft.comparison.versions import CHALLENGER, CHAMPION, Version, compare_versions
from beft.datasets.dataset import Dataset
from beft.datasets.prepared import Rows
from beft.datasets.words import words_of
from beft.encoding.iob2 import NO_WORD
from beft.errors import BeftError, InputError
from beft.evaluation.promotion.rules import PromotionRules
from beft.inference.predictions import sequence_outputs
from beft.inference.predictor import Predictor
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.choosing import choose_problem_type
from beft.problems.registry import read_problem_type
from beft.problems.token_classification import TokenClassification
from beft.settings import Settings
from beft.training.head_start import head_start
from beft.training.opening import open_session
from tests.conftest import build_tiny
from tests.support.tiny_bases import WORDS, make_adapter, save_base

LABELS = ("person", "place")
LONG = "the film was good, dull fine story " * 9


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), build_tiny("bert"))


@pytest.fixture(scope="module")
def data():
    chooser = random.Random(0)
    texts = list(dict.fromkeys(" ".join(chooser.choices(WORDS, k=6)) for _ in range(150)))
    spans = [
        [
            (first, last, text[first:last])
            for first, last in words_of(text, "spaces")
            if text[first:last] in ("film", "good")
        ]
        for text in texts
    ]
    return Dataset.from_rows(texts, spans, test_rows=30, gate_rows=30)


def opened(folder, labels=LABELS, rule="punctuation", **options):
    problem_type = TokenClassification(len(labels), rule)
    compute = Compute("cpu", "fp32", 1)
    return load_classifier(resolve_base(str(folder)), labels, compute=compute, problem_type=problem_type, **options)


def session_of(base, data, **sections):
    training = {"epochs": 2, "learning_rate": 0.02, "batch_size": 8}
    settings = {
        "base": {"source": str(base), "threads": 1, "precision": "fp32", "device": "cpu"},
        "probe": training,
        "train": training,
        "evaluate": {"resamples": 100},
        **sections,
    }
    return open_session(Settings.from_mapping(settings), data)


def test_words_have_tags_and_rows_their_spans(base):
    rows = Rows(["1", "2"], ["the good film.", "dull"], None, [], spans=[[[4, 13, 1]], []])
    found = opened(base).examples(rows, 16)
    assert found.labels.tolist() == [[0, 3, 4, 0], [0, NO_WORD, NO_WORD, NO_WORD]]
    assert found.truth.spans == rows.spans and found.output_sizes.tolist() == [4, 1]
    assert [tuple(span[:3]) for span in found.take(np.array([0])).truth.spans[0]] == [(4, 13, 1)], "from the tags"
    with pytest.raises(InputError, match="row 1 has a span with the label 2, but there are 2"):
        opened(base).examples(replace(rows, spans=[[], [[0, 4, 2]]]), 16)
    with pytest.raises(InputError, match="single texts"):
        opened(base).examples(replace(rows, pairs=["a", "b"]), 16)


def test_the_loss_of_an_example_is_the_sum_over_its_words():
    problem_type = TokenClassification(1)
    outputs = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 2], [NO_WORD, NO_WORD, NO_WORD], [2, 0, NO_WORD]])
    each = functional.cross_entropy(outputs, torch.tensor([0, 1, 2, 2, 0]), reduction="none")
    found = problem_type.losses(outputs, targets, torch.ones(3))
    torch.testing.assert_close(found, torch.stack([each[:3].sum(), torch.zeros(()).double(), each[3:].sum()]))
    assert problem_type.loss_units(targets.numpy()).tolist() == [3, 0, 2]
    # What transformers computes for such a batch is this mean over its words.
    assert problem_type.mean_loss(outputs, targets, torch.ones(3)) == pytest.approx(float(each.mean()))


def test_the_best_constant_has_no_slope():
    targets = np.array([[0, 0, 1], [2, NO_WORD, NO_WORD], [0, 0, NO_WORD]])
    found = TokenClassification(1).best_constant(targets, 1)
    more = torch.tensor([0, 0, 1, 2, 0, 0, 0, 1, 2])  # each tag once more
    outputs = found.repeat(9, 1).requires_grad_(True)
    functional.cross_entropy(outputs, more).backward()
    assert outputs.grad.sum(0).abs().max() < 1e-12


@pytest.mark.parametrize("family", ["bert", "qwen2"])
def test_peft_opens_an_adapter_with_its_task_and_gives_its_logits(family, tmp_path):
    from peft import PeftModel, PeftModelForTokenClassification

    save_base(tmp_path / "base", build_tiny(family))
    classifier = opened(tmp_path / "base")
    adapter = make_adapter(classifier, ("query", "value"))
    adapter.save(tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / "beft.json").read_text())
    assert record["shape"] == {"name": "token_classification", "labels": 2, "words": "punctuation"}
    assert record["labels"] == list(LABELS) and record["pooling"] == "model"
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "TOKEN_CLS" and adapter.peft.opens == "whole" and not adapter.peft.reasons
    again = Adapter.load(tmp_path / "adapter")
    assert again.problem_type.to_json() == adapter.problem_type.to_json()
    with pytest.raises(InputError, match="tags for 3 labels, but 2 labels"):
        replace(adapter, problem_type=TokenClassification(3)).save(tmp_path / "other")

    rows = classifier.examples(Rows(["1", "2"], ["a good film", LONG], None, []), 16)
    with adapter.attached(classifier):
        [expected] = sequence_outputs(classifier, rows.encoded)
    batch = rows.batch(np.arange(2))
    positions = batch.pop("word_positions")

    def at_words(model):
        with torch.no_grad():
            logits = model(**batch).logits.double()
        return torch.cat([logits[row, of_row[of_row >= 0]] for row, of_row in enumerate(positions)])

    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "base", num_labels=5)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert isinstance(theirs, PeftModelForTokenClassification)
    assert expected.shape == (3 + 9 * 8, 5)
    torch.testing.assert_close(at_words(theirs), expected, rtol=0, atol=1e-5)
    adapter.fold(classifier, tmp_path / "plain")
    folded = AutoModelForTokenClassification.from_pretrained(tmp_path / "plain").eval()
    assert list(folded.config.id2label.values()) == ["O", "B-person", "I-person", "B-place", "I-place"]
    torch.testing.assert_close(at_words(folded), expected, rtol=0, atol=1e-5)


def test_a_tagger_s_own_head_is_kept_where_its_tags_are_the_labels(tmp_path):
    model = build_tiny("bert", of_words=True, num_labels=5)
    names = ["I-place", "B-person", "O", "B-place", "I-person"]
    model.config.id2label = dict(enumerate(names))
    save_base(tmp_path, model)
    model.save_pretrained(tmp_path)
    classifier = opened(tmp_path)
    assert classifier.newly_initialized == ()
    order = [names.index(name) for name in ("O", "B-person", "I-person", "B-place", "I-place")]
    torch.testing.assert_close(classifier.output_layer.weight, model.classifier.weight[order])


def test_answers_are_spans_and_long_texts_are_not_cut(base, data, tmp_path):
    result = session_of(base, data).train(["value"])
    result.adapter.save(tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", base=base)
    texts = ["a good film", LONG, ""]
    answers = predictor.predict(texts)
    assert answers[2] == {"spans": []} and predictor.predict([]) == []
    assert predictor.answer(texts).truncated == 0
    named = [(text, span) for text, row in zip(texts, answers, strict=True) for span in row["spans"]]
    assert named, "what 300 steps teach is to find film and good"
    for text, span in named:
        assert set(span) == {"start", "end", "label", "text", "score"}
        assert span["text"] == text[span["start"] : span["end"]] and 0 < span["score"] <= 1
        assert span["label"] in ("film", "good")
    late = [span["start"] for text, span in named if text == LONG]
    assert max(late) > len(LONG) - 40, "the last of many windows has answers too"
    with pytest.raises(InputError, match="have no probabilities"):
        predictor.answer(texts).probabilities  # noqa: B018
    alone = predictor.predict([LONG])[0]["spans"]
    assert [{**span, "score": 0} for span in alone] == [{**span, "score": 0} for span in answers[1]["spans"]]


def test_outputs_that_are_no_numbers_are_no_answer(base, tmp_path):
    classifier = opened(base)
    adapter = make_adapter(classifier, ("query",))
    adapter.save(tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", base=base)
    with torch.no_grad():
        predictor.classifier.model.get_input_embeddings().weight[5] = float("nan")
    with pytest.raises(BeftError, match="row 1"):
        predictor.predict(["fine", "a film"])


def test_the_head_starts_where_a_regression_of_the_tags_does(base, data):
    session = session_of(base, data)
    start = head_start(session.classifier, session.sample, session.settings)
    assert {name.rpartition(".")[2] for name in start} == {"weight", "bias"}
    paper = session_of(base, data, protocol="paper")
    assert head_start(paper.classifier, paper.sample, paper.settings) == {}


def test_versions_meet_on_gate(base, data):
    session = session_of(base, data)
    adapter = session.train(["value"]).adapter
    versions = [
        Version(CHALLENGER, adapter, 1000, frozenset(data.rows("train").ids)),
        Version(CHAMPION, adapter, 1000, frozenset()),
    ]
    met = compare_versions(session, versions, PromotionRules(slice_rows=10))
    assert met.gain is not None and met.gain.difference == 0
    assert met.floor == 0 and met.metric == "entity_f1" and met.slices == []
    assert met.sides[CHALLENGER].score > 0.2
    assert all(0 <= rate <= 1 for rate in met.sides[CHALLENGER].flips.values())


def test_what_does_not_fit_is_refused(base, data, tmp_path):
    with pytest.raises(InputError, match=r"head\.pooling is 'mean', but the head reads every word"):
        opened(base, pooling="mean")
    with pytest.raises(InputError, match="use cross_entropy"):
        session_of(base, data, train={"loss": "contrastive"}).train(["value"])
    with pytest.raises(InputError, match="class_weights is balanced"):
        session_of(base, data, train={"class_weights": "balanced"}).train(["value"])
    with pytest.raises(InputError, match=r"use head\.kind: classifier"):
        choose_problem_type("token_classification", labels=LABELS, decoder=True, kind="language_model")
    save_base(tmp_path / "opt", build_tiny("opt"))
    with pytest.raises(InputError, match="no model of the type 'opt' that can classify tokens"):
        opened(tmp_path / "opt")


@pytest.mark.parametrize("value", [{}, {"labels": 0, "words": "spaces"}, {"labels": 2}, {"labels": 2, "words": "x"}])
def test_what_is_no_token_classification_is_refused(value):
    with pytest.raises(InputError, match="token_classification"):
        read_problem_type({"name": "token_classification", **value})
