"""Adapters of every shape on disk: what they say of themselves, and what opens them."""

import json
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM

from beft.adapters.adapter import Adapter
from beft.encoding.prompted import encode_prompted
from beft.errors import InputError
from beft.files import sha256_json
from beft.inference.predictor import Predictor
from beft.models.base import is_decoder, load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.candidates import Candidates
from beft.problems.choosing import choose_problem_type
from beft.problems.classification import Classification
from beft.problems.language_model import LanguageModeling
from beft.problems.multi_label import MultiLabel
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.registry import read_problem_type
from beft.problems.regression import Regression
from beft.problems.token_classification import TokenClassification
from tests.conftest import build_tiny
from tests.support.shapes import PROMPT, letter_tokenizer
from tests.support.tiny_bases import load, make_adapter, save_base

PROBLEM_TYPES = [
    Classification(),
    Regression(),
    MultiLabel(2),
    MultiLabel(3, [0.1, 0.5, 0.97]),
    TokenClassification(3, "spaces"),
    MultipleChoice(),
    Candidates(PROMPT, ("no", "yes")),
    LanguageModeling(PROMPT, ("no", "yes")),
    LanguageModeling(PROMPT, free=True, max_new_tokens=7),
]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """The folder of a tiny decoder with all of its weights."""
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = letter_tokenizer()
    build_tiny("opt", causal=True, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def opened(folder, shape, labels=()):
    return load_classifier(resolve_base(str(folder)), labels, compute=Compute("cpu", "fp32", 1), problem_type=shape)


def adapter_of(language_model):
    return make_adapter(language_model, ("query", "value"))


@pytest.mark.parametrize("shape", PROBLEM_TYPES)
def test_a_shape_is_read_as_it_was_written(shape):
    value = json.loads(json.dumps(shape.to_json()))
    again = read_problem_type(value)
    assert type(again) is type(shape) and again.to_json() == shape.to_json()
    assert again.new_tokens == shape.new_tokens


def test_what_is_no_shape_is_named():
    with pytest.raises(InputError, match="regression"):
        read_problem_type({"name": "regresion"})
    with pytest.raises(InputError, match="needs a prompt"):
        read_problem_type({"name": "candidates"})
    with pytest.raises(InputError, match="max_new_tokens"):
        read_problem_type({**PROBLEM_TYPES[-1].to_json(), "max_new_tokens": 0})


def test_peft_opens_an_adapter_of_a_language_model(decoder, tmp_path):
    from peft import PeftModel

    language_model = opened(decoder, PROBLEM_TYPES[6], ("no", "yes"))
    adapter = adapter_of(language_model)
    adapter.save(tmp_path / "adapter")
    assert adapter.peft.opens == "whole" and not adapter.head
    ids = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    plain = AutoModelForCausalLM.from_pretrained(decoder).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        untouched = plain(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()(input_ids=ids).logits
        with adapter.attached(language_model):
            ours = language_model.model(input_ids=ids).logits
    assert (ours - untouched).abs().max() > 1e-2
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_a_folded_language_model_is_a_plain_one(decoder, tmp_path):
    language_model = opened(decoder, PROBLEM_TYPES[8])
    adapter = adapter_of(language_model)
    adapter.fold(language_model, tmp_path / "plain")
    encoded = encode_prompted(language_model.tokenizer, ["abc="], [["yes", "n!"]], max_length=20)
    batch = encoded.batch([0, 1])
    folded = language_model.with_model(AutoModelForCausalLM.from_pretrained(tmp_path / "plain"))
    with torch.no_grad(), adapter.attached(language_model):
        torch.testing.assert_close(folded(batch), language_model(batch), rtol=0, atol=1e-5)


def test_an_adapter_fits_its_own_shape_alone(decoder, tmp_path):
    adapter = adapter_of(opened(decoder, PROBLEM_TYPES[6], ("no", "yes")))
    with pytest.raises(InputError, match="shape is candidates, the classifier's language_model"):
        adapter.bank(opened(decoder, PROBLEM_TYPES[7], ("no", "yes")))


def test_a_record_from_before_there_were_shapes_is_of_a_classification(tmp_path):
    base = save_base(tmp_path / "base", build_tiny("bert"))
    make_adapter(load(base)).save(tmp_path / "adapter")
    path = tmp_path / "adapter" / "beft.json"
    record = json.loads(path.read_text())
    del record["shape"], record["sha256"]
    path.write_text(json.dumps({**record, "sha256": sha256_json(record)}))
    assert Adapter.load(tmp_path / "adapter").problem_type.name == "classification"
    assert Predictor(tmp_path / "adapter", base=base).predict(["fine"])[0]["label"] in ("bad", "so-so", "good")


def test_a_base_without_its_output_layer_is_no_language_model(tmp_path):
    model = build_tiny("opt", causal=True, tie_word_embeddings=False)
    save_base(tmp_path, model)  # without what stands on top
    with pytest.raises(InputError, match=r"does not hold lm_head\.weight"):
        opened(tmp_path, PROBLEM_TYPES[8])


@pytest.mark.parametrize(("family", "expected"), [("opt", True), ("gpt2", True), ("qwen2", True), ("bert", False)])
def test_decoders_are_told_by_their_type(family, expected, tmp_path):
    assert is_decoder(resolve_base(str(save_base(tmp_path, build_tiny(family))))) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"data": "classification"}, "classification"),
        ({"data": "classification", "decoder": True}, "classification"),
        ({"data": "classification", "decoder": True, "prompt": True}, "candidates"),
        ({"data": "classification", "decoder": True, "prompt": True, "kind": "classifier"}, "classification"),
        ({"data": "multiple_choice", "prompt": True}, "multiple_choice"),
        ({"data": "multiple_choice", "decoder": True, "prompt": True, "objective": "language_model"}, "language_model"),
        ({"data": "regression", "decoder": True}, "regression"),
        ({"data": "generation", "decoder": True, "prompt": True}, "language_model"),
        ({"data": "generation"}, "needs a language model and a prompt"),
        ({"data": "generation", "decoder": True, "prompt": True, "objective": "candidates"}, "the dataset has none"),
        ({"data": "classification", "prompt": True, "kind": "language_model"}, "no decoder"),
        ({"data": "classification", "decoder": True, "kind": "language_model"}, "no prompt"),
        ({"data": "regression", "decoder": True, "prompt": True, "kind": "language_model"}, "cannot be ranked"),
    ],
)
def test_the_shape_follows_dataset_base_and_settings(given, expected):
    given = dict(given)
    prompt = PROMPT.to_json() if given.pop("prompt", False) else None
    data = given.pop("data")
    if " " in expected:
        with pytest.raises(InputError, match=expected):
            choose_problem_type(data, prompt=prompt, labels=("no", "yes"), **given)
    else:
        assert choose_problem_type(data, prompt=prompt, labels=("no", "yes"), **given).name == expected
