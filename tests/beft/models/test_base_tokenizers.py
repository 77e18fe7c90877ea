"""A base against its tokenizer: what does not fit is refused, or cut to what the base takes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CanineConfig, CanineForSequenceClassification, PreTrainedTokenizerFast

from beft.datasets.prepared import Rows
from beft.encoding.tokenization import encode, row_of
from beft.errors import InputError
from beft.inference.predictor import Predictor
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.models.tokenizer_loading import check_known, known_tokens, model_positions
from beft.problems.multiple_choice import MultipleChoice
from beft.training.inspection import inspect_base
from tests.beft.inference.test_threads import PROBLEM_TYPES, opened, save_adapter
from tests.beft.models.test_base_files import Change, alone, both, entries, parts, without, write
from tests.support.tiny_bases import TEXTS, load, make_adapter, save_base, tiny_tokenizer

torch.set_num_threads(1)

Tiny = Callable[..., Any]
TOKENIZER = "tokenizer_config.json"


@pytest.fixture(scope="module")
def plain(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("fits") / "base", tiny("bert"))


@pytest.fixture
def base(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "base"))


def newer(**changes: Any) -> Change:
    return entries("tokenizer.json", **changes)


def of_class(name: str, *files: str, **more: Any) -> Change:
    """The tokenizer is of this class, in files of its own that hold nothing of use."""
    old = without("tokenizer.json")
    return both(
        old, *(write(file, "[UNK]\n[PAD]\n") for file in files), entries(TOKENIZER, tokenizer_class=name, **more)
    )


REFUSED: dict[str, tuple[Change, str]] = {
    "no files of a tokenizer": (without("tokenizer.json", TOKENIZER), r"base holds no vocabulary \(no tokenizer.json"),
    "no vocabulary": (without("tokenizer.json"), "base holds no vocabulary"),
    "no vocabulary of a named class": (of_class("T5Tokenizer"), "base holds no vocabulary"),
    "a vocabulary without merges": (
        both(of_class("GPT2Tokenizer"), write("vocab.json", '{"a": 0, "b": 1}')),
        r"base lacks merges.txt, which the base's tokenizer \(GPT2Tokenizer\) reads: copy it too",
    ),
    "no codes of PhoBERT": (of_class("PhobertTokenizer", "vocab.txt"), r"lacks bpe.codes, .*\(PhobertTokenizer\)"),
    "no shapes of words": (
        of_class("RoCBertTokenizer", "vocab.txt"),
        "lacks word_shape.json and word_pronunciation.json, which .*copy them too",
    ),
    "a class that the model names": (
        both(
            of_class("", "vocab.txt"),
            entries(TOKENIZER, tokenizer_class=None),
            entries(tokenizer_class="ProphetNetTokenizer"),
        ),
        "lacks prophetnet.tokenizer, which",
    ),
    "a vocabulary of another class": (of_class("T5Tokenizer", "vocab.txt"), "lacks spiece.model, which"),
    "a vocabulary that is not converted": (of_class("XGLMTokenizer", "spm.model"), "lacks tokenizer.json, which"),
    "a newer tokenizer.json": (newer(version="2.0"), r"tokenizer.json cannot be read by tokenizers 0.*newer version"),
    "a newer part": (newer(pre_tokenizer={"type": "Quantum"}), "tokenizer.json cannot be read by tokenizers"),
    "half a tokenizer.json": (write("tokenizer.json", '{"version": "1.0", '), "tokenizer.json is not valid JSON"),
    "a package for Japanese": (
        of_class("BertJapaneseTokenizer", "vocab.txt", word_tokenizer_type="mecab"),
        "needs a package that is not installed .*pip install fugashi",
    ),
    "a package for XLM": (of_class("XLMTokenizer", "vocab.json", "merges.txt"), "pip install sacremoses"),
    "a package for SentencePiece": (of_class("GPTSw3Tokenizer", "spiece.model"), "pip install sentencepiece"),
    "a package for tiktoken": (of_class("LlamaTokenizer", "tiktoken.model"), "pip install tiktoken"),
    "a damaged SentencePiece model": (of_class("T5Tokenizer", "spiece.model"), "spiece.model cannot be read as a Sent"),
    "neither pad nor end": (
        entries(TOKENIZER, pad_token=None, eos_token=None),
        r'names neither a pad token nor an end token.*add one of its vocabulary, as "pad_token": "\[PAD\]"',
    ),
    "a length in words": (
        entries(TOKENIZER, model_max_length="128"),
        r"model_max_length is '128'.*the base takes \(64\)",
    ),
    "a negative length": (entries(TOKENIZER, model_max_length=-1), "model_max_length is -1"),
    "a length without end": (write(TOKENIZER, '{"model_max_length": Infinity}'), "model_max_length is inf; it must be"),
    "no room for a token": (entries(TOKENIZER, model_max_length=2), "model_max_length is 2; .*3 or more"),
    "padding in the middle": (entries(TOKENIZER, padding_side="middle"), "cannot be loaded .*tokenizer_config.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tokenizer_that_does_not_fit_is_refused_alike_by_a_run_and_by_inspect(case: str, base: Path) -> None:
    change, message = REFUSED[case]
    change(base)
    with pytest.raises(InputError, match=message) as loading:
        load(base)
    with pytest.raises(InputError) as inspecting:
        inspect_base(str(base))
    assert str(inspecting.value) == str(loading.value)


def test_the_advice_on_a_missing_pad_token_helps(base: Path, plain: Path) -> None:
    entries(TOKENIZER, pad_token=None, eos_token=None)(base)
    with pytest.raises(InputError):
        load(base)
    entries(TOKENIZER, pad_token="[PAD]")(base)
    assert load(base).tokenizer.pad_token_id == load(plain).tokenizer.pad_token_id


def test_an_end_token_pads_where_there_is_no_other(base: Path) -> None:
    entries(TOKENIZER, pad_token=None, eos_token="[SEP]")(base)
    classifier = load(base)
    assert classifier.tokenizer.pad_token == "[SEP]"
    assert logits_of(classifier, TEXTS).shape == (len(TEXTS), 3)


def test_a_tokenizer_of_bytes_needs_no_vocabulary(tiny: Tiny, tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", tiny("t5", vocab_size=384))
    without("tokenizer.json")(folder)
    (folder / TOKENIZER).write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    assert load(folder).tokenizer("ab")["input_ids"] == [100, 101, 1]


def test_a_base_that_hashes_characters_has_no_limit_of_tokens() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = CanineForSequenceClassification(CanineConfig(**sizes, num_hash_buckets=16))
    assert known_tokens(model) == 2**63


@pytest.mark.parametrize(
    ("family", "usable"),
    [
        ("bert", 64),
        ("electra", 64),
        ("albert", 64),
        ("distilbert", 64),
        ("roberta", 62),
        ("mpnet", 62),
        ("gpt2", 64),
        ("opt", 64),
        ("bart", 64),
        ("openai-gpt", 64),
        ("qwen2", None),
        ("bloom", None),
        ("t5", None),
        ("deberta-v2", None),
    ],
)
def test_positions_are_as_many_as_the_model_computes(family: str, usable: int | None, tiny: Tiny) -> None:
    model = tiny(family)
    assert model_positions(model) == usable
    for tokens in [64, 65] if usable is None else [usable, usable + 1]:
        ids = torch.full((1, tokens), 7)
        ids[:, -1] = 2
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if usable is not None and tokens > usable:
            with pytest.raises((RuntimeError, IndexError)):
                model(**batch)
        else:
            assert torch.isfinite(model(**batch).logits).all()


def logits_of(classifier: Classifier, texts: Any, pairs: Any = None, max_length: int = 128) -> Any:
    rows = classifier.examples(Rows(list(map(str, range(len(texts)))), list(texts), pairs, []), max_length)
    return classifier(rows.batch(np.arange(len(rows)))).detach()


@pytest.mark.parametrize("stated", [None, 10**30, 5000])
def test_texts_are_cut_to_the_positions_that_the_base_has(stated: int | None, base: Path, plain: Path) -> None:
    """Where the tokenizer names no length, or one that the base does not have."""
    entries(TOKENIZER, model_max_length=stated)(base)
    classifier = load(base)
    long = "a good film " * 100
    rows = classifier.examples(Rows(["1", "2"], [long, "fine"], None, []), 128)
    assert rows.lengths.tolist() == [64, 3]
    assert rows.encoded.truncated == 1
    by_hand = AutoTokenizer.from_pretrained(plain)(long, truncation=True, max_length=64, return_tensors="pt")
    torch.testing.assert_close(logits_of(classifier, [long, "fine"])[0], classifier.model(**by_hand).logits[0].detach())


@pytest.fixture
def typed(base: Path) -> Path:
    """A base whose tokenizer gives token types."""
    entries(TOKENIZER, model_input_names=["input_ids", "token_type_ids", "attention_mask"])(base)
    return base


def one_type(folder: Path) -> None:
    entries(type_vocab_size=1)(folder)
    found = load_file(folder / "model.safetensors")
    name = "embeddings.token_type_embeddings.weight"
    save_file(found | {name: found[name][:1].clone()}, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_base_of_one_token_type_takes_pairs(typed: Path) -> None:
    """As it computes them itself: every token is of its one type."""
    two = logits_of(load(typed), ["a film"], ["not good"])
    one_type(typed)
    classifier = load(typed)
    ids = AutoTokenizer.from_pretrained(typed)("a film", "not good", return_tensors="pt")["input_ids"]
    found = logits_of(classifier, ["a film"], ["not good"])
    torch.testing.assert_close(found, classifier.model(input_ids=ids).logits.detach())
    assert not torch.allclose(found, two)


def test_a_base_that_takes_no_token_types_is_given_none(tiny: Tiny, tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", tiny("distilbert"))
    entries(TOKENIZER, model_input_names=["input_ids", "token_type_ids", "attention_mask"])(folder)
    assert logits_of(load(folder), ["a film"], ["not good"]).shape == (1, 3)


def test_token_types_beyond_those_of_the_base_are_refused(typed: Path) -> None:
    contents = json.loads((typed / "tokenizer.json").read_text())
    for part in contents["post_processor"]["pair"]:
        for token in part.values():
            token["type_id"] *= 4
    (typed / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(InputError, match=r"type 4, but the base knows 2 types \(type_vocab_size of config\.json\)"):
        load(typed)


def added(base: Path, count: int) -> int:
    """Add tokens to the base's tokenizer alone; the number of the first."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    first = len(tokenizer)
    tokenizer.add_tokens([f"new{number}" for number in range(count)])
    tokenizer.save_pretrained(base)
    return first


def test_a_row_with_a_token_beyond_the_embeddings_is_named(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = added(base, 100)
    classifier = load(base)
    assert f"up to the id {first + 99}, but the base has embeddings for 128" in caplog.text
    last = 127 - first
    assert logits_of(classifier, ["a film", f"a new{last} film"]).shape == (2, 3)
    with pytest.raises(
        InputError, match=rf"row 1 has the token 'new{last + 1}' \(id 128\), but the base has embeddings f"
    ):
        logits_of(classifier, ["a film", f"a new{last + 1} film"])
    make_adapter(classifier).save(base.parent / "adapter")
    predictor = Predictor(base.parent / "adapter", base=base)
    with pytest.raises(InputError, match=rf"row 0 has the token 'new{last + 1}'"):
        predictor.predict([f"a new{last + 1} film"])


def test_it_is_the_row_that_is_named_where_rows_have_several_sequences(base: Path) -> None:
    last = 127 - added(base, 100)
    compute = Compute("cpu", "fp32", 1)
    classifier = load_classifier(resolve_base(str(base)), (), compute=compute, problem_type=MultipleChoice())
    rows = Rows(["1", "2"], ["a film", "a film"], None, [0, 0], [["good", "fine", "dull"], ["good", f"new{last + 1}"]])
    with pytest.raises(InputError, match=rf"row 1 has the token 'new{last + 1}'"):
        classifier.examples(rows, 32)
    assert [row_of(sequence, np.array([3, 1, 2])) for sequence in range(6)] == [0, 0, 0, 1, 2, 2]


def test_a_token_beyond_the_embeddings_is_named_before_an_answer_is_generated(tiny: Tiny, tmp_path: Path) -> None:
    base, _ = save_adapter(tiny, tmp_path, *PROBLEM_TYPES["generation"])
    first = added(base, 3)
    make_adapter(opened(base, *PROBLEM_TYPES["generation"])).save(tmp_path / "later")
    predictor = Predictor(tmp_path / "later", base=base, device="cpu")
    with pytest.raises(
        InputError, match=rf"row 1 has the token 'new2' \(id {first + 2}\), but the base has embeddings"
    ):
        predictor.predict(["abc", "abnew2"])


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_the_features_of_a_decoder_are_what_its_head_sees_where_texts_end_with_the_padding_token(
    family: str, tiny: Tiny, tmp_path: Path
) -> None:
    """As bases of embeddings end them; transformers' heads then read the token before."""
    folder = save_base(tmp_path / "base", tiny(family))
    entries(TOKENIZER, pad_token="[SEP]")(folder)
    classifier = load(folder)
    assert classifier.tokenizer("fine")["input_ids"][-1] == classifier.tokenizer.pad_token_id
    rows = classifier.examples(Rows(["1", "2"], ["a good film", "fine"], None, []), 32)
    batch = rows.batch(np.arange(2))
    with torch.no_grad():
        found = classifier.output_layer(classifier.head_features(batch))
        torch.testing.assert_close(found, classifier(batch))


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_text_with_an_end_token_of_its_own_is_named_where_the_head_reads_at_it(
    family: str, tiny: Tiny, tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base", tiny(family))
    classifier = load(folder)
    assert logits_of(classifier, ["a film", "fine"], ["not good", "dull"]).shape == (2, 3)
    with pytest.raises(
        InputError, match=r"row 1 has 2 end tokens \('\[SEP\]'\), the others have 1.*head.pooling to me"
    ):
        logits_of(classifier, ["a film", "a [SEP] film", "fine"])
    assert logits_of(load(folder, pooling="mean"), ["a film", "a [SEP] film", "fine"]).shape == (3, 3)
    entries(eos_token_id=9)(folder)
    with pytest.raises(
        InputError, match=r"the tokenizer ends no text with it; copy the base's own tokenizer, or set he"
    ):
        logits_of(load(folder), ["a film", "fine"])


def test_code_of_a_tokenizer_that_is_not_run_is_said(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries(TOKENIZER, auto_map={"AutoTokenizer": ["tokenization_x.X", None]})(base)
    assert logits_of(load(base), TEXTS).shape == (len(TEXTS), 3)
    assert "tokenizer_config.json names code of its own (auto_map), which is not run" in caplog.text


def test_a_pad_token_beyond_the_embeddings_gives_way_to_the_end_token(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"new{number}" for number in range(60)])
    tokenizer.add_special_tokens({"pad_token": "<later>", "eos_token": "[SEP]"})
    tokenizer.save_pretrained(base)
    classifier = load(base)
    assert classifier.tokenizer.pad_token == "[SEP]"
    assert classifier.model.config.pad_token_id == 3
    assert logits_of(classifier, TEXTS).shape == (len(TEXTS), 3)


def test_texts_that_begin_with_a_token_beyond_the_embeddings_are_refused_at_loading(base: Path) -> None:
    contents = json.loads((base / "tokenizer.json").read_text())
    contents["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [128]
    (base / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(InputError, match=r"starts or ends texts with the token .* \(id 128\), but the base has embedd"):
        load(base)


@pytest.mark.parametrize(
    ("words", "said"), [("dull fine", None), ("dull \u6771 fine " * 4, "20%"), ("\u6771 " * 9 + "dull", "refused")]
)
def test_unknown_tokens_are_told_and_rows_of_nothing_else_refused(
    words: str, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = tiny_tokenizer()
    texts = [words, *(["dull fine dull"] * 4 if said == "20%" else [])]
    encoded = encode(tokenizer, texts, max_length=128)
    if said == "refused":
        with pytest.raises(
            InputError, match=r"90% of the tokens of some rows are unknown .*\(\[UNK\]\): nothing can be"
        ):
            check_known(tokenizer, encoded, "some rows")
        return
    check_known(tokenizer, encoded, "some rows")
    assert ("of the tokens of some rows are unknown" in caplog.text) == (said is not None)


def test_an_unknown_token_that_ends_texts_too_is_not_counted() -> None:
    """Tokenizers of bytes know every text, and name their end token as the unknown one."""
    made = tiny_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer, unk_token="[UNK]", eos_token="[UNK]", pad_token="[PAD]"
    )
    check_known(tokenizer, encode(tokenizer, ["\u6771 " * 9], max_length=128), "some rows")


def test_parts_and_folders_of_the_cases_are_made(tmp_path: Path, plain: Path) -> None:
    """The helpers of these tests change what they say that they change."""
    folder = Path(shutil.copytree(plain, tmp_path / "base"))
    parts()(folder)
    assert len(list(folder.glob("*.safetensors"))) == 2
    alone(lambda _: None)(folder)
    assert not list(folder.iterdir())
