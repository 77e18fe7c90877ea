"""Added biases in plain checkpoints: a fresh process with transformers alone gives the adapter's logits, per family."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from beft.encoding.tokenization import encode
from beft.errors import BeftError, InputError
from beft.sites.site import find_sites
from tests.support.tiny_bases import TEXTS, load, make_adapter, save_base

torch.set_num_threads(1)

LONG = ("a film was not good but the story was touching and the film was fine, not dull", *TEXTS)
GROUPED = {"num_key_value_heads": 2}

# Family, its configuration, the terms, the class of the plain model, what its configuration got.
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str, dict[str, bool]]] = {
    "llama": ("llama", GROUPED, ("value",), "Llama", {"attention_bias": True}),
    "llama-all": (
        "llama",
        GROUPED,
        ("query", "key", "value", "attention_output", "intermediate", "output"),
        "Llama",
        {"attention_bias": True, "mlp_bias": True},
    ),
    "gemma": ("gemma", {**GROUPED, "head_dim": 16}, ("value", "query"), "Gemma", {"attention_bias": True}),
    "gemma2": ("gemma2", {**GROUPED, "head_dim": 8}, ("value",), "Gemma2", {"attention_bias": True}),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 16}, ("value",), "Qwen3", {"attention_bias": True}),
    "mistral": ("mistral", {**GROUPED, "sliding_window": None}, ("value", "output"), "Llama", {}),
    "gptj": ("gptj", {"rotary_dim": 4}, ("value", "attention_output"), "GPTJ", {}),
    "mistral-window": ("mistral", {**GROUPED, "sliding_window": 5}, ("key", "value"), "Qwen2", {}),
}

# Runs without anything of the project: nothing but transformers and the folders.
PLAIN = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
torch.set_num_threads(1)
root, found, classes = sys.argv[1], {}, {}
for name in sys.argv[2:]:
    model, told = AutoModelForSequenceClassification.from_pretrained(
        f"{root}/{name}/plain", dtype="auto", output_loading_info=True
    )
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), (name, told)
    batch = load_file(f"{root}/{name}/batch.safetensors")
    with torch.no_grad():
        found[name] = model.eval()(**batch).logits.contiguous()
    classes[name] = [type(model).__name__, model.config.to_dict()]
assert not any(module.split(".")[0] == "beft" for module in sys.modules)
save_file(found, f"{root}/logits.safetensors")
json.dump(classes, open(f"{root}/classes.json", "w"))
"""


@pytest.fixture(scope="module")
def plain(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Logits of every case under its adapter, those of the plain models, and classes and configurations of these."""
    root = tmp_path_factory.mktemp("plain")
    expected = {}
    for name, (family, configuration, terms, *_) in CASES.items():
        for precision in ("fp64", "fp32"):
            folder = root / f"{name}-{precision}"
            classifier = load(save_base(folder / "base", tiny(family, **configuration)), precision=precision)
            adapter = make_adapter(classifier, terms, add=True)
            batch = dict(encode(classifier.tokenizer, LONG, max_length=24).batch(range(len(LONG))))
            with torch.no_grad():
                untouched = classifier(batch)
                with adapter.attached(classifier):
                    expected[folder.name] = classifier(batch)
            assert (expected[folder.name] - untouched).abs().max() > 0.1
            adapter.fold(classifier, folder / "plain")
            save_file({key: value.contiguous() for key, value in batch.items()}, folder / "batch.safetensors")
    command = [sys.executable, "-c", PLAIN, str(root), *expected]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    classes = json.loads((root / "classes.json").read_text())
    return {"root": root, "expected": expected, "found": load_file(root / "logits.safetensors"), "classes": classes}


@pytest.mark.parametrize("name", CASES)
def test_a_plain_model_gives_the_adapters_logits(plain: Mapping[str, Any], name: str) -> None:
    for precision, tolerance in (("fp64", 1e-9), ("fp32", 1e-5)):
        found, expected = (plain[which][f"{name}-{precision}"] for which in ("found", "expected"))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_it_is_a_class_with_such_biases_and_unused_ones_are_zero(plain: Mapping[str, Any], name: str) -> None:
    _, _, terms, kind, settings = CASES[name]
    found, configuration = plain["classes"][f"{name}-fp32"]
    assert found == f"{kind}ForSequenceClassification"
    assert {key: configuration[key] for key in settings} == settings
    tensors = load_file(plain["root"] / f"{name}-fp32" / "plain" / "model.safetensors")
    used = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "attention_output": "o_proj"}
    for key, tensor in tensors.items():
        for term, module in used.items():
            if key.endswith(f"{module}.bias"):
                assert tensor.any() == (term in terms), key
            if term in terms and key.endswith(f"{module}.weight") and name != "gptj":
                assert tensors[key.replace("weight", "bias")].shape == tensor.shape[:1], "the width of the projection"


def test_where_attention_and_feed_forward_are_added_up_the_feed_forward_takes_the_bias(
    plain: Mapping[str, Any],
) -> None:
    """In GPT-J, whose attention has no bias at all: W_o·b_v + b_o goes into fc_out's."""
    folder = plain["root"] / "gptj-fp64" / "plain"
    tensors = load_file(folder / "model.safetensors")
    assert not [name for name in tensors if ".attn." in name and name.endswith("bias")]
    moved = json.loads((folder / "beft_fold.json").read_text())["materialised"]["moved"]
    projections = [f"transformer.h.{layer}.attn.{name}" for layer in range(2) for name in ("out_proj", "v_proj")]
    assert moved == {path: path[: path.index(".attn")] + ".mlp.fc_out" for path in projections}


@pytest.mark.parametrize(
    ("family", "configuration", "term"),
    [
        ("qwen3", {**GROUPED, "head_dim": 8}, "output"),
        ("qwen2", GROUPED, "attention_output"),
        ("mistral", {**GROUPED, "sliding_window": 5}, "attention_output"),
        ("gptj", {"rotary_dim": 4}, "query"),
        ("phi3", GROUPED, "value"),
        ("t5", {}, "value"),
    ],
)
def test_what_has_no_place_is_refused(
    family: str, configuration: dict[str, Any], term: str, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    classifier = load(save_base(tmp_path / "base", tiny(family, **configuration)))
    adapter = make_adapter(classifier, (term,), add=True)
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    with pytest.raises(InputError, match=r"no configuration with a bias at .*0.*use the adapter as it is"):
        adapter.fold(classifier, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    after = classifier.model.state_dict()
    assert list(before) == list(after) and all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_does_not_give_the_logits_is_not_kept(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that reads the files otherwise than they were written: found before the folder is there."""
    classifier = load(save_base(tmp_path / "base", tiny("llama")))
    adapter = make_adapter(classifier, ("value",), add=True)
    kind = type(classifier.model)
    original = kind.from_pretrained

    def other(*arguments: Any, **options: Any) -> Any:
        model = original(*arguments, **options)
        model.model.layers[0].self_attn.v_proj.bias.data += 0.1
        return model

    monkeypatch.setattr(kind, "from_pretrained", other)
    with pytest.raises(BeftError, match="gives other logits"):
        adapter.fold(classifier, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_sites_are_as_wide_as_the_grouped_heads(tiny: Callable[..., Any]) -> None:
    model = tiny("llama", num_key_value_heads=2)
    widths = {site.term: site.width for site in find_sites(model, ("query", "value"), add=True)}
    assert widths == {"query": 32, "value": 16}
