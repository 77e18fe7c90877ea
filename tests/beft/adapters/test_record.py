"""The record of an adapter: format 2 says what the adapter needs, format 1 is read for ever."""

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from beft.adapters.adapter import Adapter
from beft.errors import InputError
from beft.files import read_json, sha256_json, write_json
from beft.inference.predictor import Predictor
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.multiple_choice import MultipleChoice
from tests.support.tiny_bases import LABELS, load, make_adapter, save_base

torch.set_num_threads(1)

# An adapter as the first version of beft wrote it, over a base quantised to 4 bits.
FORMAT_1 = (
    '{"base":{"id":"sha256:bb7caa31a06b589a7779f8f43cd3b7cb2db74dd2ef5a1cbe3c1a177b45ada9c7","model":'
    '"BertForSequenceClassification","sha256":"bb7caa31a06b589a7779f8f43cd3b7cb2db74dd2ef5a1cbe3c1a177b45ada9c7"},'
    '"dataset":"tiny","format":"beft adapter","format_version":1,"head":{"tensors":{"classifier.bias":'
    '"base_model.model.classifier.bias","classifier.weight":"base_model.model.classifier.weight"},"train":"output"},'
    '"labels":["a","b"],"max_length":24,"modules":{"bert.encoder.layer.0.attention.self.value":{"alike":[],"kind":'
    '"Linear","parameters":["bias","weight"],"width":8},"classifier":{"alike":[],"kind":"Linear","parameters":'
    '["bias","weight"],"width":2}},"peft":{"opens":"whole","reasons":[]},"pooling":"model","provenance":{"compute":'
    '{"device":"cpu","precision":"fp32","quantization":"int4","threads":1},"rows":{"train":1}},"sha256":'
    '"a4202612dd873d20a9d343df11fadd7923575b3444b17c7ea15974c3ce12f20b","shape":{"name":"classification"},"sites":'
    '[{"site":{"added":false,"layer":0,"module":"bert.encoder.layer.0.attention.self.value","parameter":"bias",'
    '"start":0,"stop":8,"term":"value"},"tensor":"base_model.model.bert.encoder.layer.0.attention.self.value.beft_bias"'
    '}],"tensors":{"bytes":448,"file":"adapter_model.safetensors","sha256":'
    '"fd0739ab0c3b8d798628d172d8791a54533b31b373d587285198464e14f96050"},"terms":["value"],"tokenizer":{"padding_side":'
    '"right","sample_sha256":"07852f671bb02c1b02a1718b536c361fe8f82b1a9fac3b2fd4e6e1a79ab40c37","vocabulary":91}}'
)
TENSORS_1 = (
    b"c-jkKWB`L|rTF;V)RM%M#FE7LcqOZ9rL_E_+{6+kE2V-GrCJ@Oq{QOX_}u)I)EqqsnUq>oqL-SN4CEB)<s?=DNdvval9JTClFa-(z2elIG`+IK"
    b"oYGXF%CwUBq|C%(kg+Kxl?AClQ{9Y>lysDeGZI0(XhR)~SREy><@sr8#i=Dgwb2GT#zwK&tWM5JEH2JW%LH19-&i9|Lye7eObiH_TArGjo>79wTx"
    b"`xYG0-tIFo~_LRRDq*dsq7a8?k+!h28tNwM?{Ic#&(rF01kWs%AgCrybYqEUwSp=k`Nq--D1>`xaHC?Nfj5v9Hzq`@VhJ-}X#YvEFB1H*KGt#`k@"
    b"pN2B(I&)#KQdn#{VUEQp`3KKf^GE8E$*Ny10jb6cT2LSyoqrm"
)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The folder of that adapter."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "beft.json").write_text(FORMAT_1)
    (folder / "adapter_model.safetensors").write_bytes(zlib.decompress(base64.b85decode(TENSORS_1)))
    return folder


@pytest.fixture(scope="module")
def base(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base in a folder."""
    return save_base(tmp_path_factory.mktemp("record") / "base", tiny("bert"))


def as_format_1(folder: Path, **provenance: Any) -> Path:
    """Write the record of an adapter again, as the first version would have."""
    record = read_json(folder / "beft.json")
    for key in ("sha256", "inputs"):
        del record[key]
    for key in ("quantization", "contents"):
        del record["base"][key]
    record["tokenizer"] = {key: record["tokenizer"][key] for key in ("vocabulary", "padding_side", "sample_sha256")}
    record |= {"format_version": 1, "provenance": provenance}
    write_json(folder / "beft.json", {**record, "sha256": sha256_json(record)})
    return folder


def test_a_record_of_the_first_version_is_read_and_what_it_noted_of_quantisation_holds(
    first: Path, tmp_path: Path
) -> None:
    adapter = Adapter.load(first)
    assert (adapter.quantization, adapter.pairs) == ("int4", None)
    assert adapter.sha256 == json.loads(FORMAT_1)["tensors"]["sha256"]
    adapter.save(tmp_path / "again")
    record = read_json(tmp_path / "again" / "beft.json")
    assert record["format_version"] == 2
    assert record["base"]["quantization"] == "int4"
    assert record["inputs"] == {"pairs": None, "choices": False}
    again = Adapter.load(tmp_path / "again")
    assert (again.quantization, again.pairs, again.provenance) == ("int4", None, adapter.provenance)


def test_the_record_says_what_the_adapter_needs(base: Path, tmp_path: Path) -> None:
    replace(make_adapter(load(base)), pairs=True).save(tmp_path / "pairs")
    record = read_json(tmp_path / "pairs" / "beft.json")
    assert record["format_version"] == 2
    assert record["inputs"] == {"pairs": True, "choices": False}
    assert record["base"]["quantization"] == "none"
    assert (record["tokenizer"]["truncation_side"], record["tokenizer"]["max_tokens"]) == ("right", 24)
    compute = Compute("cpu", "fp32", 1)
    chooser = load_classifier(
        resolve_base(str(base)), (), compute=compute, pooling="model", problem_type=MultipleChoice()
    )
    make_adapter(chooser).save(tmp_path / "choices")
    assert read_json(tmp_path / "choices" / "beft.json")["inputs"] == {"pairs": None, "choices": True}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"inputs": {"pairs": False}}, r"inputs\.choices"),
        ({"inputs": {"pairs": None, "choices": True}}, "choices does not fit its problem type"),
        ({"base": {"quantization": "int5"}}, r"base\.quantization"),
        ({"inputs": None}, "inputs"),
    ],
)
def test_a_record_that_was_signed_but_says_wrong_what_is_needed_is_refused(
    part: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    make_adapter(load(base)).save(tmp_path / "adapter")
    path = tmp_path / "adapter" / "beft.json"
    record = read_json(path)
    del record["sha256"]
    for name, changes in part.items():
        record[name] = {**record[name], **changes} if name == "base" else changes
    write_json(path, {**record, "sha256": sha256_json(record)})
    with pytest.raises(InputError, match=message):
        Adapter.load(tmp_path / "adapter")


def test_what_the_first_format_does_not_say_is_not_checked(base: Path, tmp_path: Path) -> None:
    make_adapter(load(base)).save(tmp_path / "adapter")
    folder = as_format_1(tmp_path / "adapter", seed=0)
    assert Adapter.load(folder).quantization is None
    predictor = Predictor(folder, base=base, device="cpu")
    assert predictor.predict(["a film"])[0]["label"] in LABELS
    assert predictor.predict(["a film"], ["good"])[0]["label"] in LABELS


@pytest.mark.parametrize(
    "change",
    [{"truncation_side": "left"}, {"model_max_length": 12}],
    ids=["the other end is cut", "texts are cut to fewer tokens"],
)
def test_a_tokenizer_that_cuts_texts_otherwise_is_refused(change: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """``tokenizer_config.json`` decides how texts are cut."""
    make_adapter(load(base)).save(tmp_path / "adapter")
    other = Path(shutil.copytree(base, tmp_path / "other"))
    path = other / "tokenizer_config.json"
    write_json(path, {**read_json(path), **change})
    said = "tokenizer is not the one|is not the base|another file of the base was changed"
    with pytest.raises(InputError, match=said):
        Predictor(tmp_path / "adapter", base=other, device="cpu")


def test_a_tokenizer_that_could_take_longer_texts_than_are_cut_is_the_same(base: Path, tmp_path: Path) -> None:
    classifier = load(base)
    adapter = make_adapter(classifier)
    classifier.tokenizer.model_max_length = 24
    adapter.bank(classifier)
    classifier.tokenizer.model_max_length = 10**30
    adapter.bank(classifier)
