"""Loading a base as a classifier: only its head may be drawn at random."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from beft.encoding.tokenization import encode
from beft.errors import InputError, SettingsError
from beft.files import read_json, write_json
from beft.models.reference import resolve_base
from beft.settings import Settings
from tests.support.tiny_bases import LABELS, load, save_base

torch.set_num_threads(1)

BARE_HEADS = {
    "bert": {"classifier.bias", "classifier.weight"},
    "roberta": {f"classifier.{layer}.{name}" for layer in ("dense", "out_proj") for name in ("bias", "weight")},
    "distilbert": {f"{layer}.{name}" for layer in ("pre_classifier", "classifier") for name in ("bias", "weight")},
    "gpt2": {"score.weight"},
    "qwen2": {"score.weight"},
}


@pytest.mark.parametrize("family", BARE_HEADS)
def test_what_a_bare_base_does_not_hold_is_drawn_from_the_seed(
    family: str, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base", tiny(family))
    first, same, other = load(folder), load(folder), load(folder, seed=1)
    assert set(first.newly_initialized) == BARE_HEADS[family]
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, same.model.state_dict()[name])
        drawn = name in first.newly_initialized and name.endswith("weight")
        assert torch.equal(value, other.model.state_dict()[name]) == (not drawn)


@pytest.mark.parametrize("pooling", ["model", "mean", "cls"])
def test_a_bf16_base_is_computed_without_a_bank_as_well(pooling: str, tiny: Callable[..., Any], tmp_path: Path) -> None:
    """Its frozen head is as narrow as the base, what is pooled over tokens is wider."""
    folder = save_base(tmp_path / "base", tiny("bert"))
    wide, narrow = (load(folder, pooling=pooling, precision=precision) for precision in ("fp32", "bf16"))
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    found = narrow(batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wide(batch), rtol=0, atol=2e-2)


def test_a_base_with_a_head_of_its_own_keeps_it(tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny("bert")
    model.config.id2label = dict(enumerate(LABELS))
    save_base(tmp_path / "base", model)
    model.save_pretrained(tmp_path / "base")
    classifier = load(tmp_path / "base")
    assert classifier.newly_initialized == ()
    assert torch.equal(classifier.model.classifier.weight, model.classifier.weight)


def test_a_head_of_another_number_of_labels_is_drawn_anew(tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny("bert", num_labels=5)
    save_base(tmp_path / "base", model)
    model.save_pretrained(tmp_path / "base")
    classifier = load(tmp_path / "base")
    assert classifier.newly_initialized == ("classifier.bias", "classifier.weight")
    assert classifier.model.classifier.weight.shape == (3, 32)


@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_outputs_are_read_whatever_form_the_base_gives_them_by_itself(
    pooling: str, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    batch = encode(load(folder).tokenizer, ["a good film", "fine"], max_length=8).batch([0, 1])
    expected = load(folder, pooling=pooling)(batch)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "return_dict": False, "output_hidden_states": True})
    assert torch.equal(load(folder, pooling=pooling)(batch), expected)


def test_a_base_that_lacks_a_weight_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.attention.self.value.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"does not hold bert\.encoder\.layer\.1\.attention\.self\.value\.bias"):
        load(folder)


def test_a_base_without_a_pooler_may_have_one_drawn(tiny: Callable[..., Any], tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} < set(load(folder).newly_initialized)


def test_a_home_folder_of_nobody_is_named() -> None:
    for source in ("~nosuchuser/base", "hub:~nosuchuser/base"):
        with pytest.raises(InputError, match="~nosuchuser/base: there is no home folder of that user; write the path"):
            resolve_base(source)
        with pytest.raises(SettingsError, match=r"base.source: .*no home folder of that user"):
            Settings.from_mapping({"base": {"source": source}, "datasets": {"films": {}}})
