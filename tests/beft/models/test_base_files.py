"""Bases that are not whole, or not what they say: each is refused in one sentence with its file and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from beft.errors import InputError
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.candidates import Candidates
from beft.problems.prompt import Prompt
from beft.training.inspection import inspect_base
from tests.support.tiny_bases import LABELS, load, save_base

torch.set_num_threads(1)

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 1234\n"
WEIGHTS = "model.safetensors"

Change = Callable[[Path], object]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def plain(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("whole") / "base", tiny("bert"))


@pytest.fixture
def base(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "base"))


def write(name: str, contents: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(contents.encode() if isinstance(contents, str) else contents)


def entries(name: str = "config.json", **changes: Any) -> Change:
    """Change entries of a JSON file, which need not be there; None takes one out."""

    def change(folder: Path) -> None:
        path = folder / name
        values = json.loads(path.read_text()) if path.is_file() else {}
        values |= changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return change


def without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str, size: int | None = None) -> Change:
    def change(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2 if size is None else size])

    return change


def tensors(change: Callable[[Tensors], Tensors], name: str = WEIGHTS) -> Change:
    def rewrite(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        save_file(change(found), folder / name, metadata={"format": "pt"})

    return rewrite


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def parts(*missing: str) -> Change:
    """Weights in two files with an index, of which some are then taken away."""

    def change(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        places = {name: names[at % 2] for at, name in enumerate(found)}
        for file in names:
            save_file({name: found[name] for name in found if places[name] == file}, folder / file, {"format": "pt"})
        (folder / WEIGHTS).unlink()
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        for name in missing:
            (folder / name).unlink()

    return change


def alone(change: Change) -> Change:
    """In a folder that holds nothing else."""
    return lambda folder: [shutil.rmtree(folder), folder.mkdir(), change(folder)]


def as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("weights")


def below(name: str) -> Change:
    def move(folder: Path) -> None:
        moved = folder.rename(folder.with_name("moved"))
        folder.mkdir()
        moved.rename(folder / name)

    return move


def nan(found: Tensors) -> Tensors:
    found["encoder.layer.0.output.dense.weight"][3, 4] = float("nan")
    return found


LORA = entries("adapter_config.json", peft_type="LORA", base_model_name_or_path="org/bert", task_type="SEQ_CLS")

REFUSED: dict[str, tuple[Change, str]] = {
    "an empty folder": (alone(lambda _: None), "no model folder: it has neither a config.json nor a GGUF"),
    "a file": (as_file, "base is no model folder: it is a file; name the folder"),
    "nothing": (shutil.rmtree, "base is no model folder: it is not there"),
    "no config": (without("config.json"), "it has neither a config.json"),
    "a model in a folder below": (below("0_Transformer"), "base/0_Transformer is one: name that"),
    "an adapter of PEFT alone": (
        alone(LORA),
        r"is an adapter of PEFT \(adapter_config.json\).*'org/bert', as base.sour",
    ),
    "an adapter of PEFT beside it": (LORA, "adapter_config.json.* beside a base.*Move adapter_config.json to another"),
    "a damaged adapter of beft": (alone(write("beft.json", '{"base": null}')), "an adapter of beft, no base: predict"),
    "a pooling elsewhere": (
        lambda folder: (folder / "modules.json").write_text('[{"type": "a.Pooling", "path": "/tmp/1_Pooling"}]'),
        "modules.json names /tmp/1_Pooling, which is not below",
    ),
    "a pooling above": (
        lambda folder: (folder / "modules.json").write_text('[{"type": "a.Pooling", "path": "../1_Pooling"}]'),
        "modules.json names ../1_Pooling, which is not below",
    ),
    "an adapter of beft": (
        alone(write("beft.json", "{}")),
        r"an adapter of beft, no base: predict with it \(\S*beft predict",
    ),
    "a config of no JSON": (write("config.json", "{ no"), "config.json is not valid JSON"),
    "a config of a list": (write("config.json", "[]"), "config.json holds no JSON object but list"),
    "a config in Latin-1": (write("config.json", b'{"a": "\xe9"}'), "config.json is not valid JSON"),
    "a config not downloaded": (write("config.json", POINTER), "config.json is a Git LFS pointer.*git lfs pull"),
    "a tokenizer not downloaded": (write("tokenizer.json", POINTER), "tokenizer.json is a Git LFS pointer"),
    "weights not downloaded": (write(WEIGHTS, POINTER), "model.safetensors is a Git LFS pointer.*git lfs pull"),
    "half of the weights' file": (cut(WEIGHTS), "model.safetensors cannot be read.*cut short; copy or download"),
    "a cut header": (cut(WEIGHTS, 100), "model.safetensors cannot be read.*cut short"),
    "an empty file of weights": (cut(WEIGHTS, 0), "model.safetensors cannot be read.*cut short"),
    "a part is missing": (parts("model-00002-of-00002.safetensors"), "00002-of-00002.safetensors is missing"),
    "a part is cut": (
        both(parts(), cut("model-00001-of-00002.safetensors")),
        "00001-of-00002.safetensors cannot be read",
    ),
    "parts without an index": (parts(f"{WEIGHTS}.index.json"), "but no model.safetensors.index.json; copy"),
    "one part, no index": (
        parts(f"{WEIGHTS}.index.json", "model-00002-of-00002.safetensors"),
        "holds parts of weights .*, but no model.safetensors.index.json",
    ),
    "an index of no JSON": (both(parts(), write(f"{WEIGHTS}.index.json", "{")), "index.json is not valid JSON"),
    "an index of nothing": (both(parts(), write(f"{WEIGHTS}.index.json", "{}")), "index.json has no weight_map"),
    "weights of another name": (tensors(dict, "weights.safetensors"), "rename it to model.safetensors"),
    "a link to nothing": (
        lambda folder: [(folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to("../blobs/a1")],
        r"model.safetensors is a link to ../blobs/a1, which is not there",
    ),
    "pickled weights": (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
        r"pytorch_model.bin, which is pickled.*save it again with save_pretrained",
    ),
    "weights of TensorFlow": (
        lambda folder: (folder / WEIGHTS).rename(folder / "tf_model.h5"),
        "holds no .*safetensors weights; other formats are not loaded. Save",
    ),
    "weights without a value": (tensors(nan), "values in bert.encoder.layer.0.output.dense.weight that are no finite"),
    "integers": (
        tensors(lambda found: {name: value.to(torch.int32) for name, value in found.items()}),
        "as I32, as a quantised base does, but config.json has no quantization_config",
    ),
    "8 bit floats": (
        tensors(lambda found: {name: value.to(torch.float8_e4m3fn) for name, value in found.items()}),
        "as F8_E4M3, as a quantised base does",
    ),
    "weights of other names": (
        tensors(lambda found: {f"other.{name}": value for name, value in found.items()}),
        "does not hold .* and 34 more: its files are incomplete, or of another model",
    ),
    "a larger vocabulary": (
        entries(vocab_size=200),
        r"word_embeddings.weight of shape \[128, 32\], but its config.json asks for \[200, 32\]",
    ),
    "another width": (entries(hidden_size=64), r"of shape \[.*32\], but its config.json asks for \[.*64\]"),
    "more layers": (entries(num_hidden_layers=3), "does not hold bert.encoder.layer.2"),
    "fewer layers": (entries(num_hidden_layers=1), "holds encoder.layer.1.*, which its config.json leaves out"),
    "five heads": (entries(num_attention_heads=5), "not a multiple of the number of attention heads.*config.json"),
    "a width in words": (entries(hidden_size="wide"), "cannot be loaded as a classifier.*base/config.json"),
    "padding beyond the vocabulary": (entries(pad_token_id=500), "cannot be loaded as a classifier.*base/config.json"),
    "labels without numbers": (entries(id2label={"x": "good"}), "cannot be loaded as a classifier.*base/config.json"),
    "an unknown type": (
        entries(model_type="frobnicate"),
        "config.json: the model_type 'frobnicate' is not known to tra",
    ),
    "no type": (entries(model_type=None), "config.json names no model_type"),
    "a model of images": (entries(model_type="vit"), "no model of the type 'vit' that can classify sequences"),
    "an encoder with a decoder": (entries(model_type="encoder-decoder"), "'encoder-decoder' that can classify sequ"),
    "code of its own": (
        entries(model_type="mine", auto_map={"AutoModel": "modeling_mine.Mine"}),
        r"names code of its own \(auto_map\) for the model_type 'mine', and such code is never run",
    ),
    "types in a list": (entries(model_type=["bert"]), r"config.json: model_type is \['bert'\], no name; copy"),
    "an odd type of numbers": (entries(dtype="float13"), "config.json: dtype is 'float13'"),
    "an older odd type": (entries(dtype=None, torch_dtype="auto"), "config.json: dtype is 'auto'"),
    "quantised, in words": (entries(quantization_config="int4"), "quantization_config must be an object"),
    "quantised by others": (entries(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised by 'gptq'"),
    "compressed": (
        entries(compression_config={"quant_method": "compressed-tensors"}),
        "quantised by 'compressed-tensors'",
    ),
    "quantised to nothing": (
        entries(quantization_config={"quant_method": "bitsandbytes"}),
        "names bitsandbytes, but neither load_in_4bit nor load_in_8bit",
    ),
    "quantised by name only": (
        entries(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "says that the base is quantised, but none of its weights is; take quantization_config out",
    ),
    "generation of no JSON": (write("generation_config.json", "{"), "generation_config.json is not valid JSON"),
    "special tokens of no JSON": (write("special_tokens_map.json", "{"), "special_tokens_map.json is not valid JSON"),
    "added tokens of no JSON": (write("added_tokens.json", "{"), "added_tokens.json is not valid JSON"),
    "tokenizer's config of no JSON": (write("tokenizer_config.json", "{"), "tokenizer_config.json is not valid JSON"),
    "a GGUF file of something else": (alone(write("a.gguf", "weights")), "a.gguf is no GGUF file"),
    "a cut GGUF file": (alone(write("a.gguf", b"GGUF\3\0\0\0")), "a.gguf is damaged or cut short"),
    "a GGUF file not downloaded": (alone(write("a.gguf", POINTER)), "a.gguf is a Git LFS pointer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_base_that_is_not_whole_is_refused(case: str, base: Path) -> None:
    change, message = REFUSED[case]
    change(base)
    with pytest.raises(InputError, match=message) as loading:
        load(base)
    if "no finite" in message:  # which the weights alone tell
        return
    with pytest.raises(InputError) as inspecting:
        inspect_base(str(base))
    assert str(inspecting.value) == str(loading.value)


@pytest.mark.parametrize(
    "change",
    [
        parts(),
        tensors(lambda found: {name.replace("LayerNorm.weight", "LayerNorm.gamma"): found[name] for name in found}),
        tensors(lambda found: {name: value.double() for name, value in found.items()}),
        lambda folder: save_file(load_file(folder / WEIGHTS), folder / WEIGHTS),
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"left over"),
        tensors(lambda found: found | {"encoder.layer.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool)}),
        tensors(lambda found: found | {"encoder.layer.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8)}),
        lambda folder: (folder / "README.md").symlink_to("../blobs/a1"),
        lambda folder: [(folder / f"old{suffix}").mkdir() for suffix in (".model", ".safetensors", ".gguf", ".spm")],
    ],
    ids=[
        "in parts",
        "old names",
        "fp64",
        "without metadata",
        "what an adapter left",
        "a mask",
        "a mask of bytes",
        "a link that is not read",
        "folders beside it",
    ],
)
def test_unusual_files_of_a_whole_base_give_its_logits(change: Change, base: Path, plain: Path) -> None:
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    expected = load(plain)(batch)
    change(base)
    torch.testing.assert_close(load(base)(batch), expected)


def test_following_the_advice_helps(base: Path, plain: Path) -> None:
    """Of an adapter beside a base, weights of another name, and a wrong quantisation."""
    both(LORA, tensors(dict, "weights.safetensors"), entries(quantization_config="int4"))(base)
    (base / "adapter_config.json").rename(base.parent / "adapter_config.json")
    (base / "weights.safetensors").rename(base / WEIGHTS)
    entries(quantization_config=None)(base)
    assert inspect_base(str(base)).terms == inspect_base(str(plain)).terms


def test_code_that_is_not_run_and_weights_that_are_not_used_are_said(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"encoder.layer.0.adapter.down.weight": torch.zeros(2, 2), "cls.predictions.bias": torch.zeros(3)}
    both(entries(auto_map={"AutoModel": "modeling_x.X"}), tensors(lambda found: found | own))(base)
    load(base)
    assert "code of its own (auto_map), which is not run: transformers' BertForSequenceClassification" in caplog.text
    assert "1 weights of the base's layers are not used" in caplog.text
    assert "encoder.layer.0.adapter.down.weight" in caplog.text


def test_a_language_model_whose_output_embeddings_are_missing_is_refused(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    """Tied, they are the input's; untied, they would be drawn at random."""
    folder = save_base(tmp_path / "base", tiny("gpt2", causal=True))
    shape = Candidates(Prompt("{text} is", {label: f" {label}" for label in LABELS}), LABELS)

    def language_model() -> Any:
        return load_classifier(
            resolve_base(str(folder)), LABELS, compute=Compute("cpu", "fp32", 1), problem_type=shape
        ).model

    model = language_model()
    assert model.lm_head.weight is model.transformer.wte.weight
    entries(tie_word_embeddings=False)(folder)
    with pytest.raises(InputError, match=r"does not hold lm_head\.weight"):
        language_model()
    entries(model_type="bert", tie_word_embeddings=None)(folder)
    with pytest.raises(InputError, match=r"config\.json"):
        language_model()
