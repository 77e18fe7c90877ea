"""The masked-language-model head at a mask token: its features, the words of the labels, and adapters over it."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from beft.adapters.adapter import Adapter
from beft.bank.bank import Bank
from beft.datasets.dataset import Dataset
from beft.datasets.prepared import Rows
from beft.encoding.masked import with_mask
from beft.encoding.tokenization import Encoded
from beft.errors import InputError
from beft.inference.predictions import sequence_outputs
from beft.inference.predictor import Predictor
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.serving.engine import Engine
from beft.settings import Settings
from beft.sites.site import find_sites
from beft.training.head_start import head_start, label_word_outputs
from beft.training.opening import open_session
from beft.training.probe import inert_components
from tests.conftest import build_tiny
from tests.support.small_data import reviews
from tests.support.tiny_bases import TEXTS, WORDS, save_base, tiny_tokenizer

FAMILIES = ("bert", "roberta", "mpnet", "distilbert", "deberta-v2")
LABELS = ("good", "dull")
COMPUTE = Compute("cpu", "fp64", 1)


def tokenizer_with_mask() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer


def save_masked(folder, family, **more):
    """A tiny base with its own masked-language-model head."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(build_tiny(family, **more).config)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(folder)
    tokenizer_with_mask().save_pretrained(folder)
    return folder


def loaded(folder, labels=LABELS, **more):
    return load_classifier(resolve_base(str(folder)), labels, compute=COMPUTE, pooling="mask", **more)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pairs", [None, TEXTS[::-1]])
def test_the_head_starts_with_the_base_s_own_logits_of_the_words(family, pairs, tmp_path):
    """Against transformers' masked language model on texts that end with its mask token."""
    folder = save_masked(tmp_path, family)
    classifier = loaded(folder)
    weight, bias = label_word_outputs(classifier, {}, COMPUTE)
    rows = classifier.examples(Rows([""] * len(TEXTS), list(TEXTS), pairs, [0] * len(TEXTS)), 32)
    head = {f"{classifier.output_name}.weight": weight, f"{classifier.output_name}.bias": bias}
    with Bank(classifier.model, {}, head):
        [found] = sequence_outputs(classifier, rows.encoded)

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = tokenizer_with_mask()
    words = tokenizer.convert_tokens_to_ids(list(LABELS))
    for number, text in enumerate(TEXTS):
        both = (f"{text} [MASK]",) if pairs is None else (text, f"{pairs[number]} [MASK]")
        batch = tokenizer(*both, return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch).logits[0]
        at = int((batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[-1])
        torch.testing.assert_close(found[number].double(), logits[at, words], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_that_is_cut_keeps_its_mask(side, tmp_path):
    classifier = loaded(save_masked(tmp_path, "bert"))
    classifier.tokenizer.truncation_side = side
    texts = [" ".join(WORDS), "good [MASK] film", "fine"]
    rows = classifier.examples(Rows([""] * 3, texts, None, [0] * 3), 8).encoded
    assert rows.lengths.tolist() == [8, 6, 4] and rows.truncated == 1
    mask = classifier.tokenizer.mask_token_id
    assert [ids[-2] for ids in rows.input_ids] == [mask] * 3
    hidden = torch.arange(3 * 8 * 32, dtype=torch.float64).reshape(3, 8, 32)
    classifier.mask_head = torch.nn.Identity()
    found = classifier.pool(hidden, rows.batch(range(3)), "mask")
    assert torch.equal(found, hidden[torch.arange(3), torch.tensor([6, 4, 2])])


def test_the_mask_has_the_segment_of_the_text_before_it():
    tokenizer = tokenizer_with_mask()
    mask, end = tokenizer.mask_token_id, tokenizer.sep_token_id
    pair = Encoded([[2, 5, end, 6, end], [2, 5, 6]], [[0, 0, 0, 1, 1], [0, 0, 0]], np.array([5, 3]), 0, 1)
    found = with_mask(pair, tokenizer)
    assert found.input_ids == [[2, 5, end, 6, mask, end], [2, 5, 6, mask]]
    assert found.type_ids == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0]]
    assert found.lengths.tolist() == [6, 4]


def test_bases_without_such_a_head_are_named(tmp_path):
    with pytest.raises(InputError, match="saved without its masked-language-model head"):
        loaded(save_base(tmp_path / "plain", build_tiny("bert")))
    with pytest.raises(InputError, match="is no masked language model"):
        loaded(save_base(tmp_path / "decoder", build_tiny("gpt2")))
    with pytest.raises(InputError, match="ElectraForMaskedLM is not known here"):
        loaded(save_masked(tmp_path / "electra", "electra"))
    folder = save_masked(tmp_path / "nomask", "bert")
    tiny_tokenizer().save_pretrained(folder)
    with pytest.raises(InputError, match="no mask token"):
        loaded(folder).examples(Rows([""], ["good"], None, [0]), 8)
    with pytest.raises(InputError, match="saved without"):
        loaded(tmp_path / "plain", weights=False)


def test_words_that_say_nothing_are_named(tmp_path, caplog):
    folder = save_masked(tmp_path, "bert")
    for labels, words, message in (
        (("good", "dull"), {"dull": "good"}, "'good' and 'dull' have the same word"),
        (("good", "日本"), {}, "no token for '日本', the word of the label '日本'"),
    ):
        with pytest.raises(InputError, match=message):
            label_word_outputs(loaded(folder, labels), words, COMPUTE)
    label_word_outputs(loaded(folder), {"bad": "dull"}, COMPUTE)
    assert "head.label_words names bad, but here the labels are good, dull" in caplog.text
    several = label_word_outputs(loaded(folder, ("not_good", "dull")), {}, COMPUTE)[0]
    rows = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).get_output_embeddings().weight
    ids = tokenizer_with_mask().convert_tokens_to_ids(["not", "good"])
    torch.testing.assert_close(several[0], rows[ids].mean(0))


def opened(base, **sections):
    texts, labels = zip(*reviews(), strict=True)
    settings = {
        "base": {"source": str(base), "threads": 1, "precision": "fp32", "device": "cpu"},
        "datasets": {"data": {"max_length": 16}},
        "head": {"pooling": "mask", "label_words": {"bad": "dull"}},
        "train": {"epochs": 2},
        "probe": {"epochs": 1},
        **sections,
    }
    data = Dataset.from_rows(texts, labels, test_rows=40, gate_rows=40, name="data")
    return open_session(Settings.from_mapping(settings), data)


def test_from_training_to_served_answers(tmp_path):
    """Few rows take cross-entropy, for it begins at the words; adapter, predictor and server answer alike."""
    base = save_masked(tmp_path / "base", "bert")
    session = opened(base)
    training = session.training(session.settings.train)
    assert training.loss == "cross_entropy"
    start = head_start(session.classifier, session.sample, session.settings, training)
    weight, _ = label_word_outputs(session.classifier, {"bad": "dull"}, Compute("cpu", "fp32", 1))
    assert torch.equal(start[f"{session.classifier.output_name}.weight"], weight)

    trained = session.train(["value"]).adapter
    trained.save(tmp_path / "adapter")
    adapter = Adapter.load(tmp_path / "adapter")
    assert adapter.pooling == "mask"
    texts = [text for text, _ in reviews(30, seed=5)]
    alone = Predictor(tmp_path / "adapter", base=base).predict(texts)
    engine = Engine(resolve_base(str(base)), Compute("cpu", "fp32", 1))
    served = engine.load(adapter)
    outputs = engine.outputs(engine.encode(served, texts))
    for one, row in zip(alone, outputs, strict=True):
        probabilities = torch.softmax(row.squeeze(0), -1).numpy()
        assert np.allclose(list(one["probabilities"].values()), probabilities, atol=1e-5)


def test_a_probe_measures_which_biases_are_inert(tmp_path):
    """In a copy of the base that computes in fp64."""
    session = opened(save_masked(tmp_path, "bert"))
    frozen = {site.term for site in session.probe().frozen}
    assert frozen == {"key"}


def test_long_texts_are_measured_up_to_their_mask(tmp_path):
    """What the base's head sees, against transformers' hidden states at the mask token of each whole text."""
    folder = save_masked(tmp_path, "bert")
    classifier = loaded(folder)
    classifier.tokenizer.model_max_length = 64
    texts = [" ".join([*WORDS] * 4 + [*WORDS[:more]]) for more in range(4)]
    rows = classifier.examples(Rows([""] * 4, texts, None, [0] * 4), 64)
    seen: list[torch.Tensor] = []
    classifier.mask_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    inert_components(classifier, find_sites(classifier.model, ["value"]), rows.encoded, 0)

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = tokenizer_with_mask()
    for number, text in enumerate(texts):
        batch = tokenizer(f"{text} [MASK]", return_tensors="pt")
        at = batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        with torch.no_grad():
            expected = model.base_model(**batch).last_hidden_state[0, at]
        torch.testing.assert_close(seen[0][number], expected, rtol=1e-9, atol=1e-9)  # the first shifts are none


def test_label_words_need_a_mask():
    with pytest.raises(InputError, match=r"head\.init is label_words, which needs head\.pooling: mask"):
        Settings.from_mapping({"head": {"init": "label_words", "pooling": "mean"}})
