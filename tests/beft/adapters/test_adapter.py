"""Law 2: what is saved is what was trained, head included; and whatever else is read is refused by name."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.errors import BeftError, InputError
from beft.files import sha256_file, sha256_json
from beft.models.classifier import Classifier
from tests.support.tiny_bases import draw_deltas, draw_head, load, make_adapter, save_base

torch.set_num_threads(1)


def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def rewritten(
    folder: Path, change: Callable[[dict[str, Any]], None], tensors: Mapping[str, Tensor] | None = None
) -> Path:
    """Change the record (and the tensors) of an adapter and sign it again, as a bad writer would."""
    record = json.loads((folder / "beft.json").read_text())
    del record["sha256"]
    if tensors is not None:
        contents = save(dict(tensors), metadata={"format": "pt"})
        (folder / "adapter_model.safetensors").write_bytes(contents)
        record["tensors"]["bytes"] = len(contents)
        record["tensors"]["sha256"] = sha256_file(folder / "adapter_model.safetensors")
    change(record)
    (folder / "beft.json").write_text(json.dumps({**record, "sha256": sha256_json(record)}))
    return folder


def nothing(record: dict[str, Any]) -> None:
    """Change nothing."""


# Saving


def test_what_is_loaded_is_what_was_saved(bert: Classifier, tmp_path: Path) -> None:
    adapter = make_adapter(bert, ("output_norm", "value"))
    sha256 = adapter.save(tmp_path / "adapter")
    found = Adapter.load(tmp_path / "adapter")
    assert sha256 == adapter.sha256 == found.sha256 == sha256_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert list(found.deltas) == list(adapter.deltas)
    assert all(torch.equal(found.deltas[site], delta) for site, delta in adapter.deltas.items())
    assert found.head.keys() == adapter.head.keys()
    assert all(torch.equal(found.head[name], value) for name, value in adapter.head.items())
    for name in ("base_id", "base_sha256", "quantization", "labels", "pooling", "max_length", "dataset", "facts"):
        assert getattr(found, name) == getattr(adapter, name), name
    assert (found.terms, found.head_train) == (("value", "output_norm"), "output")
    assert found.provenance == {"seed": 0, "data_sha256": "0" * 64}
    assert (found.bias_parameters, found.head_parameters) == (2 * 2 * 32, 3 * 32 + 3)


def test_the_order_in_which_tensors_come_does_not_matter(bert: Classifier, tmp_path: Path) -> None:
    adapter = make_adapter(bert, ("value", "key"))
    other = replace(
        adapter,
        deltas=dict(reversed(adapter.deltas.items())),
        head=dict(reversed(adapter.head.items())),
        provenance=dict(reversed(adapter.provenance.items())),
    )
    adapter.save(tmp_path / "one")
    other.save(tmp_path / "other")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def test_nothing_of_the_machine_is_written(bert: Classifier, saved: Path) -> None:
    assert bert.reference is not None
    for path in saved.iterdir():
        contents = path.read_bytes()
        for trace in (bert.reference.folder, saved, Path.home(), Path.cwd(), os.uname().nodename):
            if len(str(trace)) > 2:
                assert str(trace).encode() not in contents


def test_a_later_change_of_what_was_trained_does_not_reach_the_adapter(bert: Classifier) -> None:
    deltas, head = draw_deltas(bert, ("value",)), draw_head(bert)
    adapter = Adapter.trained(
        bert, terms=("value",), deltas=deltas, head=head, max_length=8, head_train="output", dataset="tiny"
    )
    before = adapter.sha256
    for tensor in (*deltas.values(), *head.values()):
        tensor.zero_()
    assert replace(adapter).sha256 == before


def without(values: Mapping[Any, Tensor], key: Any) -> dict[Any, Tensor]:
    return {name: value for name, value in values.items() if name != key}


def test_saving_less_than_was_trained_is_refused(bert: Classifier, tmp_path: Path) -> None:
    adapter = make_adapter(bert, ("value", "query"))
    site = next(site for site in adapter.deltas if site.term == "query" and site.layer == 1)
    half = {site: delta for site, delta in adapter.deltas.items() if site.term == "value"}
    bad = torch.full((32,), float("nan"))
    cases = {
        r"no delta for bert\.encoder\.layer\.1\.attention\.self\.query": {"deltas": without(adapter.deltas, site)},
        "no delta for every site of query": {"deltas": half},
        "deltas of query, which are not among its terms": {"terms": ("value",)},
        "head lacks classifier.bias": {"head": without(adapter.head, "classifier.bias")},
        "head lacks classifier.bias, classifier.weight": {"head": {}},
        "holds bert.pooler.dense.bias": {"head": {**adapter.head, "bert.pooler.dense.bias": torch.zeros(32)}},
        "no finite number": {"deltas": {**adapter.deltas, site: bad}},
        r"fp32 or fp64 of shape \[32\]": {"deltas": {**adapter.deltas, site: torch.zeros(31)}},
        "fp32 or fp64": {"deltas": {**adapter.deltas, site: torch.zeros(32, dtype=torch.bfloat16)}},
        "one type": {"deltas": {**adapter.deltas, site: torch.zeros(32, dtype=torch.float64)}},
        "made in memory": {"base_id": ""},
    }
    for message, change in cases.items():
        with pytest.raises(InputError, match=message):
            replace(adapter, **change).save(tmp_path / "adapter")
        # Without the model's facts a gap is still seen.
        if "self" in message or "every site" in message:
            with pytest.raises(InputError, match="query"):
                replace(adapter, **change, facts=None).save(tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_less_than_its_terms_is_not_even_made(bert: Classifier) -> None:
    deltas, head = draw_deltas(bert, ("value",)), draw_head(bert)
    site = next(iter(deltas))
    common = {"max_length": 8, "head_train": "output", "dataset": "tiny"}
    with pytest.raises(InputError, match="no delta for bert"):
        Adapter.trained(bert, terms=("value",), deltas=without(deltas, site), head=head, **common)
    with pytest.raises(InputError, match="every site of key"):
        Adapter.trained(bert, terms=("value", "key"), deltas=deltas, head=head, **common)
    with pytest.raises(InputError, match=r"head lacks classifier\.weight"):
        Adapter.trained(bert, terms=("value",), deltas=deltas, head=without(head, "classifier.weight"), **common)
    with pytest.raises(InputError, match=r"classifier\.weight has shape \[4, 32\]"):
        Adapter.trained(
            bert, terms=("value",), deltas=deltas, head={**head, "classifier.weight": torch.zeros(4, 32)}, **common
        )


def test_what_the_base_does_not_hold_is_part_of_the_adapter(tiny: Callable[..., Any], tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("roberta")))
    adapter = make_adapter(classifier)
    assert set(adapter.head) == {
        f"classifier.{layer}.{name}" for layer in ("dense", "out_proj") for name in ("weight", "bias")
    }
    drawn = "classifier.dense.weight"
    assert torch.equal(adapter.head[drawn], classifier.model.classifier.dense.weight)
    with pytest.raises(InputError, match=drawn):
        replace(adapter, head=without(adapter.head, drawn)).save(tmp_path / "adapter")


def test_another_folder_is_never_replaced(bert: Classifier, tmp_path: Path) -> None:
    adapter = make_adapter(bert)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"other files \(notes.txt\)"):
        adapter.save(tmp_path)
    with pytest.raises(BeftError, match="cannot be written"):
        adapter.save(tmp_path / "notes.txt" / "adapter")
    with pytest.raises((BeftError, InputError), match=r"notes\.txt"):
        adapter.save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    adapter.save(tmp_path / "adapter")
    make_adapter(bert, ("output_norm",)).save(tmp_path / "adapter")  # which PEFT cannot open
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == ["adapter_model.safetensors", "beft.json"]


def test_the_current_folder_is_never_replaced(
    bert: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(bert)
    monkeypatch.chdir(tmp_path)
    for folder in (".", "", "new/..", tmp_path):
        with pytest.raises(BeftError, match=r"cannot be written to .*: the current folder, .*; name a new folder"):
            adapter.save(folder)
    assert list(tmp_path.iterdir()) == []
    adapter.save("new")
    assert Adapter.load("new").sha256 == adapter.sha256


def test_no_space_left_leaves_nothing(bert: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    adapter = make_adapter(bert)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BeftError, match="No space left on device"):
        adapter.save(tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


# Loading what is damaged or foreign


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_every_flipped_bit_is_found(saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flipped") / "adapter"
    shutil.copytree(saved, folder)
    path = folder / data.draw(st.sampled_from(["beft.json", "adapter_model.safetensors"]))
    contents = bytearray(path.read_bytes())
    at, bit = data.draw(st.integers(0, len(contents) - 1)), data.draw(st.integers(0, 7))
    contents[at] ^= 1 << bit
    path.write_bytes(contents)
    with pytest.raises(InputError, match="adapter"):
        Adapter.load(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["beft.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_found(saved: Path, tmp_path: Path, name: str, share: float) -> None:
    path = copied(saved, tmp_path) / name
    contents = path.read_bytes()
    path.write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(InputError, match=r"cut short.*copy the adapter again"):
        Adapter.load(tmp_path / "copy")


def test_what_is_no_adapter_is_named(saved: Path, bert: Classifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no adapter at"):
        Adapter.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file; name the adapter's folder"):
        Adapter.load(saved / "beft.json")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"has no beft\.json"):
        Adapter.load(empty)
    (empty / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(InputError, match=r"adapter of PEFT \(LORA\)"):
        Adapter.load(empty)
    for foreign in ("[]", "{}", '{"format": "another"}', '{"format": 1}', "null"):
        (empty / "beft.json").write_text(foreign)
        with pytest.raises(InputError, match="not a record of beft"):
            Adapter.load(empty)
    for broken in ("", "{", "\x00", '{"format": NaN}', "[" * 100_000):
        (empty / "beft.json").write_text(broken)
        with pytest.raises(InputError, match="not valid JSON"):
            Adapter.load(empty)
    (empty / "beft.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not valid JSON"):
        Adapter.load(empty)


def test_the_tensors_of_another_adapter_are_refused(saved: Path, bert: Classifier, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="is missing: the adapter is incomplete"):
        Adapter.load(folder)
    make_adapter(bert, ("query",)).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "adapter_model.safetensors", folder)
    with pytest.raises(InputError, match=r"not the file that beft\.json describes|cut short"):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("version", "advice"), [(3, "install a newer beft"), (0, "save the adapter again"), ("1", "save")]
)
def test_an_unknown_format_version_is_refused(saved: Path, tmp_path: Path, version: Any, advice: str) -> None:
    folder = rewritten(copied(saved, tmp_path), lambda record: record.update(format_version=version))
    with pytest.raises(InputError, match=f"format version {version!r}, this beft reads 1 and 2; {advice}"):
        Adapter.load(folder)


def test_a_record_that_was_signed_but_is_wrong_is_refused(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / "adapter_model.safetensors")
    bias = next(name for name in tensors if name.endswith("beft_bias"))
    changes: dict[str, tuple[Callable[[dict[str, Any]], Any], Mapping[str, Tensor] | None]] = {
        "has no head": (lambda r: r["head"].update(tensors={}), None),
        "no tensor head.nothing": (lambda r: r["head"]["tensors"].update({"classifier.weight": "head.nothing"}), None),
        "pooling": (lambda r: r.update(pooling="median"), None),
        "max_length": (lambda r: r.update(max_length=0), None),
        "Extra inputs": (lambda r: r.update(more=1), None),
        "labels": (lambda r: r.update(labels=[]), None),
        "unknown bias term": (lambda r: r["sites"][0]["site"].update(term="values"), None),
        "exactly the fields": (lambda r: r["sites"][0]["site"].pop("layer"), None),
        "wider than|shape": (lambda r: r["sites"][0]["site"].update(stop=99), None),
        "every site of key": (lambda r: r.update(terms=["value", "key"]), None),
        r"the tensors extra are not those": (nothing, {**tensors, "extra": torch.zeros(1)}),
        r"no tensor base_model": (nothing, without(tensors, bias)),
        r"has shape \[1, 31\]": (nothing, {**tensors, bias: tensors[bias][:, :31].clone()}),
        "are not those": (nothing, {**tensors, bias: torch.cat([tensors[bias], tensors[bias]], 1)}),
        "no finite number": (nothing, {**tensors, bias: tensors[bias] * float("inf")}),
        "fp32 or fp64": (nothing, {**tensors, bias: tensors[bias].half()}),
    }
    for number, (message, (change, other)) in enumerate(changes.items()):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        with pytest.raises(InputError, match=message):
            Adapter.load(rewritten(folder, change, other))


def test_a_file_that_is_no_safetensors_file_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    path = folder / "adapter_model.safetensors"
    for contents in (b"", b"\x00" * 8, b"\xff" * 64, b"PK\x03\x04" + b"\x00" * 100):
        path.write_bytes(contents)

        def describe(record: dict[str, Any], contents: bytes = contents) -> None:
            record["tensors"].update(bytes=len(contents), sha256=sha256_file(path))

        with pytest.raises(InputError, match="no safetensors file"):
            Adapter.load(rewritten(folder, describe))


def test_saved_files_are_plain_safetensors(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / "adapter_model.safetensors")
    save_file(tensors, tmp_path / "again.safetensors", metadata={"format": "pt"})
    assert sha256_file(tmp_path / "again.safetensors") == sha256_file(saved / "adapter_model.safetensors")
