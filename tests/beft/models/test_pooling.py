"""What a head sees: the pooling that the files of sentence-transformers ask for, in either of their forms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.errors import InputError
from beft.files import write_json
from beft.models.pooling import base_pooling
from tests.support.tiny_bases import TEXTS, load, make_adapter, save_base

torch.set_num_threads(1)

# By the name of sentence-transformers 5.4: the flag of before, and our name.
MODES = {
    "cls": ("pooling_mode_cls_token", "cls"),
    "max": ("pooling_mode_max_tokens", "max"),
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "mean_sqrt_len_tokens": ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
    "weightedmean": ("pooling_mode_weightedmean_tokens", "weighted_mean"),
    "lasttoken": ("pooling_mode_lasttoken", "last_token"),
}


@pytest.fixture(scope="module")
def base(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("pooling") / "base", tiny("bert"))


def by_hand(states: Tensor, mode: str) -> Tensor:
    """One text's last hidden states, [tokens, hidden], pooled as the papers say it."""
    tokens = len(states)
    if mode == "cls":
        return states[0]
    if mode == "lasttoken":
        return states[-1]
    if mode == "max":
        return torch.stack([max(column, key=float) for column in states.T])
    weights = torch.arange(1.0, tokens + 1) if mode == "weightedmean" else torch.ones(tokens)
    total = sum(weight * state for weight, state in zip(weights, states, strict=True))
    assert isinstance(total, Tensor)
    return total / (tokens**0.5 if mode == "mean_sqrt_len_tokens" else weights.sum())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("form", "padding_side"), [("since 5.4", "right"), ("since 5.4", "left"), ("a list", "right"), ("before", "right")]
)
def test_each_mode_is_read_in_each_form_and_computed(
    mode: str, form: str, padding_side: str, base: Path, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    flag, name = MODES[mode]
    values = {"since 5.4": {"pooling_mode": mode}, "a list": {"pooling_mode": [mode]}, "before": {flag: True}}[form]
    off = {} if form != "before" else {other: False for other, _ in MODES.values() if other != flag}
    write_json(
        folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "include_prompt": True, **off, **values}
    )
    classifier = load(folder, pooling="auto")
    assert classifier.pooling == name
    tokenizer = classifier.tokenizer
    tokenizer.padding_side = padding_side
    batch = dict(tokenizer(list(TEXTS), padding=True, return_tensors="pt"))
    with torch.no_grad():
        found = classifier(batch)
        for row, text in enumerate(TEXTS):
            alone = tokenizer(text, return_tensors="pt")
            positions = classifier.model.base_model(**alone).last_hidden_state[0]
            if padding_side == "left":  # BERT's absolute positions differ there, so the states are those of the batch
                whole = classifier.model.base_model(**batch).last_hidden_state[row]
                positions = whole[batch["attention_mask"][row].bool()]
            expected = classifier.output_layer(by_hand(positions, mode))
            torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode": ["mean", "max"]}, r"several poolings side by side \(mean, max\)"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, r"side by side \(max, mean\)"),
        ({"pooling_mode": "attention"}, "the pooling 'attention', which beft does not know"),
        ({"pooling_mode_attention": True}, "the pooling 'pooling_mode_attention', which beft does not know"),
        ({"pooling_mode": 3}, "pooling_mode is 3"),
        ({"mode": "mean"}, r"of a form that beft does not know \(it holds mode\)"),
        ("{", "is not valid JSON"),
        ([], "holds no JSON object but list"),
    ],
)
def test_what_is_not_known_is_refused_with_the_file_and_the_setting_that_helps(
    config: Any, message: str, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    path = folder / "1_Pooling" / "config.json"
    write_json(path, config)
    if isinstance(config, str):
        path.write_text(config)
    with pytest.raises(InputError, match=message) as refused:
        load(folder, pooling="auto")
    assert str(path) in str(refused.value)
    if isinstance(config, dict):
        assert "set head.pooling to" in str(refused.value)
    assert load(folder, pooling="max").pooling == "max"


def test_where_every_flag_is_off_sentence_transformers_takes_the_mean(base: Path, tmp_path: Path) -> None:
    write_json(
        tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}
    )
    assert base_pooling(tmp_path) == "mean"
    assert base_pooling(base) == "model"


def modules(folder: Path, *kinds: tuple[str, str], library: str = "sentence_transformers.models") -> None:
    found = [
        {"idx": at, "name": str(at), "path": path, "type": f"{library}.{kind}"} for at, (kind, path) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", found)


def test_the_pooling_is_found_where_modules_json_says(tmp_path: Path) -> None:
    write_json(tmp_path / "3_Pool" / "config.json", {"pooling_mode": "lasttoken"})
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    modules(tmp_path, ("Transformer", ""), ("Pooling", "3_Pool"), library="sentence_transformers.base.modules.any")
    assert base_pooling(tmp_path) == "last_token"
    modules(tmp_path, ("Transformer", ""), ("Normalize", "2_Normalize"))
    assert base_pooling(tmp_path) == "model"
    (tmp_path / "modules.json").unlink()
    write_json(tmp_path / "2_Pooling" / "config.json", {"pooling_mode": "max"})
    with pytest.raises(InputError, match=r"several poolings \(1_Pooling, 2_Pooling\)"):
        base_pooling(tmp_path)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([("Transformer", ""), ("WeightedLayerPooling", "1_W"), ("Pooling", "2_P")], r"does not know, 1_W \(Weighted"),
        ([("Transformer", ""), ("Pooling", "2_P")], "2_P/config.json is missing, which .*modules.json names"),
        ([("Transformer", ""), ("Pooling", "1_Pooling"), ("Pooling", "2_P")], r"several poolings \(1_Pooling, 2_P\)"),
    ],
)
def test_modules_that_change_what_is_pooled_are_refused(
    kinds: list[tuple[str, str]], message: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    modules(tmp_path, *kinds)
    with pytest.raises(InputError, match=message):
        base_pooling(tmp_path)


def test_what_follows_the_pooling_and_is_left_out_is_said(
    tiny: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"), pooling="mean", lowercase=False)
    modules(folder, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize"))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": True})
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    assert load(folder, pooling="auto").pooling == "mean"
    assert "without its 2_Dense (Dense) of modules.json" in caplog.text
    assert "sentence_bert_config.json asks for lower-cased texts" in caplog.text
    assert "config_sentence_transformers.json asks for a prompt" in caplog.text
    caplog.clear()
    load(folder, pooling="mean")  # what is named is not the base's own
    assert not caplog.records


def test_a_tokenizer_that_lower_cases_by_itself_is_not_warned_of(
    tiny: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"), pooling="mean")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": True})
    load(folder, pooling="auto")
    assert not caplog.records


def test_an_adapter_keeps_its_pooling(base: Path, tmp_path: Path) -> None:
    classifier = load(base, pooling="weighted_mean")
    make_adapter(classifier).save(tmp_path / "adapter")
    found = Adapter.load(tmp_path / "adapter")
    assert found.pooling == "weighted_mean"
    with found.attached(classifier):
        pass
    with pytest.raises(InputError, match="pooling is weighted_mean, the classifier's mean"):
        found.bank(load(base, pooling="mean"))
