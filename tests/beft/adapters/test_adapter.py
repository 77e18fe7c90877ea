"""Law 2: what is saved is what was trained, head included; and whatever else is read is refused by name."""

import json
import os
import shutil
import subprocess
import sys
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
from transformers import AutoModelForSequenceClassification

from beft.adapters.adapter import Adapter
from beft.bank.bank import Bank
from beft.encoding.tokenization import encode
from beft.errors import BeftError, InputError
from beft.files import sha256_file, sha256_json
from beft.models.classifier import Classifier
from tests.conftest import BIAS_FREE
from tests.support.tiny_bases import LABELS, TEXTS, draw_deltas, draw_head, load, make_adapter, save_base

torch.set_num_threads(1)

ROOT = Path(__file__).parents[3]

# family, pooling, precision, head.train, terms: among them heads that the base's files do not hold (RoBERTa's inner
# layer, DistilBERT's), added biases (Llama, T5), slices of a Conv1D (GPT-2) and interleaved ones (GPT-NeoX), layer
# norms, shared layers (ALBERT), an encoder with a decoder.
CASES = (
    ("bert", "model", "fp32", "output", ("value",)),
    ("bert", "mean", "bf16", "output", ("query", "embedding_norm", "output_norm")),
    ("bert", "cls", "fp64", "output", ("intermediate",)),
    ("bert", "model", "fp32", "paper", ("value",)),
    ("roberta", "model", "fp32", "output", ("value",)),
    ("roberta", "model", "bf16", "full", ("value",)),
    ("mpnet", "model", "bf16", "output", ("value", "key")),
    ("distilbert", "model", "fp32", "output", ("attention_output",)),
    ("opt", "model", "fp32", "output", ("value", "final_norm")),
    ("gpt2", "model", "fp32", "output", ("value", "query")),
    ("qwen2", "model", "fp32", "output", ("value",)),
    ("llama", "model", "fp32", "output", ("value", "output")),
    ("deberta-v2", "model", "fp32", "output", ("value", "key")),
    ("albert", "model", "bf16", "full", ("value", "embedding_norm")),
    ("gpt_neox", "model", "fp32", "output", ("value", "query")),
    ("bart", "model", "fp32", "output", ("value", "attention_norm", "embedding_norm")),
    ("t5", "mean", "fp32", "output", ("value", "intermediate")),
)

# Runs without anything of this test: only the saved folders, and none of the packages of training.
FRESH = """
import sys
for name in ("peft", "sklearn", "scipy", "pandas", "evaluate", "datasets", "mlflow", "prefect", "dvc", "accelerate",
             "great_expectations", "matplotlib", "sentence_transformers", "tests"):
    sys.modules[name] = None
import json
from pathlib import Path
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
from beft.adapters.adapter import Adapter
from beft.models.base import load_classifier, resolve_base
from beft.models.device import Compute
from beft.encoding.tokenization import encode
from beft.inference.predictor import Predictor

root = Path(sys.argv[1])
logits, predictions = {}, {}
for case in json.loads((root / "cases.json").read_text()):
    adapter = Adapter.load(root / case["adapter"])
    compute = Compute("cpu", case["precision"], 1)
    reference = resolve_base(str(root / case["base"]))
    classifier = load_classifier(reference, adapter.labels, compute=compute, pooling=adapter.pooling, seed=777)
    encoded = encode(classifier.tokenizer, case["texts"], max_length=adapter.max_length)
    with torch.no_grad(), adapter.attached(classifier):
        logits[case["adapter"]] = classifier(encoded.batch(range(len(encoded))))
    adapter.save(root / "again" / case["adapter"])
    predictor = Predictor(root / case["adapter"], base=root / case["base"], device="cpu", precision=case["precision"])
    predictions[case["adapter"]] = predictor.predict(case["texts"])
save_file(logits, root / "logits.safetensors")
(root / "predictions.json").write_text(json.dumps(predictions))
"""


@pytest.fixture(scope="module")
def fresh(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """Every case trained and saved here, and opened by one fresh process; its results are files in the folder."""
    root = tmp_path_factory.mktemp("fresh")
    cases, logits = [], {}
    for number, (family, pooling, precision, train, terms) in enumerate(CASES):
        name, base = f"adapter-{number}", f"base-{family}"
        if not (root / base).exists():
            save_base(root / base, tiny(family))
        classifier = load(root / base, pooling=pooling, precision=precision)
        deltas = draw_deltas(classifier, terms, add=family in BIAS_FREE, seed=number)
        head = draw_head(classifier, train)
        if precision == "fp64":  # training over an fp64 base is fp64 throughout
            deltas = {site: delta.double() / 3 for site, delta in deltas.items()}
            head = {key: value.double() / 3 for key, value in head.items()}
        encoded = encode(classifier.tokenizer, TEXTS, max_length=24)
        with torch.no_grad(), Bank(classifier.model, deltas, head):
            logits[name] = classifier(encoded.batch(range(len(TEXTS))))
        Adapter.trained(
            classifier,
            terms=terms,
            deltas=deltas,
            head=head,
            max_length=24,
            head_train=train,
            dataset="tiny",
            provenance={"b": 1, "a": [0.1]},
        ).save(root / name)
        cases.append({"adapter": name, "base": base, "precision": precision, "texts": TEXTS})
    (root / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", FRESH, str(root)], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return root, logits


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case[:4])) for case in CASES])
def test_a_fresh_process_gives_bit_identical_logits(fresh: tuple[Path, dict[str, Tensor]], number: int) -> None:
    root, logits = fresh
    name = f"adapter-{number}"
    found = load_file(root / "logits.safetensors")[name]
    assert found.dtype == logits[name].dtype
    assert torch.equal(found, logits[name])


def test_a_fresh_process_predicts_the_same(fresh: tuple[Path, dict[str, Tensor]]) -> None:
    root, logits = fresh
    predictions = json.loads((root / "predictions.json").read_text())
    for number, case in enumerate(CASES):
        name = f"adapter-{number}"
        expected = torch.softmax(logits[name].float(), -1)
        found = torch.tensor([[row["probabilities"][label] for label in LABELS] for row in predictions[name]])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-2 if case[2] == "bf16" else 1e-5)


def test_the_same_adapter_has_the_same_bytes_in_another_process(fresh: tuple[Path, dict[str, Tensor]]) -> None:
    root, _ = fresh
    for number in range(len(CASES)):
        first, again = root / f"adapter-{number}", root / "again" / f"adapter-{number}"
        assert {path.name: sha256_file(path) for path in first.iterdir()} == {
            path.name: sha256_file(path) for path in again.iterdir()
        }


@pytest.fixture(scope="module")
def bert(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A classifier over a tiny BERT in a folder."""
    return load(save_base(tmp_path_factory.mktemp("bert") / "base", tiny("bert")))


@pytest.fixture(scope="module")
def saved(bert: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved adapter of it, only to be copied."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    make_adapter(bert).save(folder)
    return folder


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


# Attaching


def test_attached_and_then_the_base_bit_for_bit(bert: Classifier) -> None:
    adapter = make_adapter(bert, ("value", "output_norm"))
    before = {name: value.clone() for name, value in bert.model.state_dict().items()}
    batch = encode(bert.tokenizer, TEXTS, max_length=24).batch(range(len(TEXTS)))
    with torch.no_grad():
        plain = bert(batch)
        with adapter.attached(bert) as same:
            assert same is bert
            assert not torch.allclose(bert(batch), plain)
            with pytest.raises(InputError, match="attached already"), adapter.attached(bert):
                pass
        assert torch.equal(bert(batch), plain)
        with pytest.raises(ZeroDivisionError), adapter.attached(bert):
            _ = 1 / 0
        assert torch.equal(bert(batch), plain)
    assert all(torch.equal(value, before[name]) for name, value in bert.model.state_dict().items())


def test_an_adapter_of_a_bf16_base_is_computed_in_fp32_over_an_fp32_base(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    # RoBERTa's inner layer was drawn in bf16; over the fp32 base its values are the same, the arithmetic is not.
    base = save_base(tmp_path / "base", tiny("roberta"))
    adapter = make_adapter(load(base, precision="bf16"))
    assert adapter.head["classifier.dense.weight"].dtype == torch.bfloat16
    classifier = load(base)
    batch = encode(classifier.tokenizer, TEXTS, max_length=24).batch(range(len(TEXTS)))
    wide = {name: value.float() for name, value in adapter.head.items()}
    with torch.no_grad():
        with Bank(classifier.model, adapter.deltas, wide):
            expected = classifier(batch)
        with adapter.attached(classifier):
            assert torch.equal(classifier(batch), expected)


def test_what_does_not_fit_is_refused_by_name(tiny: Callable[..., Any], bert: Classifier, tmp_path: Path) -> None:
    adapter = make_adapter(bert)
    other = load(save_base(tmp_path / "other", tiny("bert", seed=1)))
    deeper = load(save_base(tmp_path / "deeper", tiny("bert", num_hidden_layers=3)))
    wider = load(save_base(tmp_path / "wider", tiny("bert", hidden_size=64)))
    memory = Classifier(tiny("bert"), bert.tokenizer, None, LABELS)
    renamed = Classifier(bert.model, bert.tokenizer, bert.reference, LABELS[::-1], "model", bert.drawn)
    mean = Classifier(bert.model, bert.tokenizer, bert.reference, LABELS, "mean", bert.drawn)
    cased = load(save_base(tmp_path / "cased", tiny("bert"), lowercase=False))
    for classifier, message in (
        (other, r"trained over the base sha256:.*not over sha256:.*load the one that it names"),
        (deeper, "trained over the base"),
        (memory, "a model in memory"),
        (renamed, "labels are bad, so-so, good, the classifier's good, so-so, bad"),
        (mean, "pooling is model, the classifier's mean"),
    ):
        with pytest.raises(InputError, match=message), adapter.attached(classifier):
            pass
    # With the hash of the base forged, or another version of transformers, the shapes and sites still tell.
    for classifier, message in (
        (deeper, r"sites .* differ \(bert\.encoder\.layer\.2"),
        (wider, r"classifier\.weight has shape \[3, 32\], BertForSequenceClassification has \[3, 64\]"),
        (cased, r"tokenizer is not the one .*sample_sha256 differ"),
    ):
        assert classifier.reference is not None
        forged = replace(adapter, base_sha256=classifier.reference.sha256, base_contents=classifier.reference.contents)
        with pytest.raises(InputError, match=message), forged.attached(classifier):
            pass


def test_a_head_that_lacks_what_the_base_lacks_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    # Over a base that brings RoBERTa's inner layer the head is the output layer alone.
    model = tiny("roberta")
    save_base(tmp_path / "base", model)
    model.save_pretrained(tmp_path / "base")
    whole = load(tmp_path / "base")
    adapter = make_adapter(whole)
    assert set(adapter.head) == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    bare = load(save_base(tmp_path / "bare", model))
    assert bare.reference is not None
    with pytest.raises(InputError, match=r"lacks classifier\.dense\.bias, classifier\.dense\.weight"):
        replace(adapter, base_sha256=bare.reference.sha256, base_contents=bare.reference.contents).bank(bare)


# Merging


def test_other_deltas_under_the_same_head(bert: Classifier, tmp_path: Path) -> None:
    value, query = make_adapter(bert, ("value",)), make_adapter(bert, ("query",))
    union = {**value.deltas, **{site: 0.5 * delta for site, delta in query.deltas.items()}}
    merged = value.with_deltas(union, beside=[query], provenance={"merged": "mean"})
    merged.save(tmp_path / "merged")
    found = Adapter.load(tmp_path / "merged")
    assert found.terms == ("query", "value")
    assert all(torch.equal(found.deltas[site], delta) for site, delta in union.items())
    assert all(torch.equal(found.head[name], tensor) for name, tensor in value.head.items())
    assert (found.peft.opens, found.provenance) == ("whole", {"merged": "mean"})
    with pytest.raises(InputError, match="every site of query"):
        value.with_deltas(value.deltas, beside=[query]).save(tmp_path / "half")
    with pytest.raises(InputError, match="different bases"):
        value.with_deltas(union, beside=[replace(query, base_sha256="f" * 64)])


# Folding


@pytest.mark.parametrize(
    ("family", "terms"),
    [
        ("bert", ("value", "output_norm", "embedding_norm")),
        ("roberta", ("value",)),
        ("distilbert", ("output",)),
        ("gpt2", ("value", "intermediate")),
        ("qwen2", ("query",)),
        ("gpt_neox", ("value", "query")),
        ("albert", ("value", "output_norm")),
        ("bart", ("value", "embedding_norm")),
        ("llama", ("value",)),
        ("llama", ("value", "output")),
    ],
)
def test_a_folded_model_gives_the_same_logits(
    family: str, terms: tuple[str, ...], tiny: Callable[..., Any], tmp_path: Path
) -> None:
    classifier = load(save_base(tmp_path / "base", tiny(family)))
    adapter = make_adapter(classifier, terms, add=family == "llama")
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    report = adapter.fold(classifier, tmp_path / "folded")
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())
    torch.manual_seed(99)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "folded").eval()
    batch = encode(classifier.tokenizer, TEXTS, max_length=24).batch(range(len(TEXTS)))
    with torch.no_grad(), adapter.attached(classifier):
        torch.testing.assert_close(plain(**batch).logits, classifier(batch), rtol=0, atol=1e-6)
    assert plain.config.id2label == dict(enumerate(LABELS))
    assert report.largest == 0.0  # deltas are fp32, and so is the model


def test_folding_into_bf16_says_what_it_rounds(tiny: Callable[..., Any], tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")), precision="bf16")
    adapter = make_adapter(classifier)
    adapter.fold(classifier, tmp_path / "folded")
    told = json.loads((tmp_path / "folded" / "beft_fold.json").read_text())
    value = classifier.model.get_submodule("bert.encoder.layer.0.attention.self.value")
    other = classifier.model.get_submodule("bert.encoder.layer.1.attention.self.value")
    sums = [module.bias.float() + delta for module, delta in zip((value, other), adapter.deltas.values(), strict=True)]
    expected = max(float((total - total.bfloat16().float()).abs().max()) for total in sums)
    assert told["precision"] == "bfloat16"
    assert told["largest_rounding_of_biases"] == expected > 0
    head = adapter.head["classifier.weight"]
    assert told["largest_rounding_of_head"] == float((head - head.bfloat16().float()).abs().max()) > 0


def test_what_cannot_be_folded_says_so(tiny: Callable[..., Any], bert: Classifier, tmp_path: Path) -> None:
    mean = Classifier(bert.model, bert.tokenizer, bert.reference, LABELS, "mean", bert.drawn)
    with pytest.raises(InputError, match="pooling 'mean' cannot be folded"):
        make_adapter(mean).fold(mean, tmp_path / "folded")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="is there already"):
        make_adapter(bert).fold(bert, tmp_path / "there")
    qwen2 = load(save_base(tmp_path / "qwen2", tiny("qwen2")))
    with pytest.raises(InputError, match="no configuration with a bias at"):
        make_adapter(qwen2, ("attention_output",), add=True).fold(qwen2, tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


def test_saved_files_are_plain_safetensors(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / "adapter_model.safetensors")
    save_file(tensors, tmp_path / "again.safetensors", metadata={"format": "pt"})
    assert sha256_file(tmp_path / "again.safetensors") == sha256_file(saved / "adapter_model.safetensors")
