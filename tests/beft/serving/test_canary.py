"""A canary tells an adapter that is computed as it was registered from one that is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from beft.errors import InputError
from beft.inference.predictor import Predictor
from beft.serving.canary import Canary
from beft.serving.service import LoadedAdapter, Service
from tests.beft.serving.adapters import CHOICES, REGRESSION, Kind, draw_adapter, engine_with, tiny_base


def canary_of(folder: Path, kind: Kind) -> tuple[Canary, Path]:
    """The canary of an adapter that is saved in a folder."""
    base = tiny_base(folder / "base")
    draw_adapter(base, kind).save(folder / "adapter")
    predictor = Predictor(folder / "adapter", base=base.folder, device="cpu")
    return Canary.of(predictor), folder / "base"


@pytest.mark.parametrize("kind", [Kind(), Kind(pooling="model", train="full"), REGRESSION, CHOICES])
def test_the_same_adapter_passes(kind: Kind, tmp_path: Path) -> None:
    canary, _ = canary_of(tmp_path, kind)
    canary.write(tmp_path / "canary.json")
    assert Canary.read(tmp_path / "canary.json") == canary
    base = tiny_base(tmp_path / "again")
    service = Service([engine_with(base, [])[0]])
    [loaded] = service.load([draw_adapter(base, kind)], [canary])
    assert isinstance(loaded, LoadedAdapter) and loaded.verified
    service.close()


def test_another_head_is_refused(tmp_path: Path) -> None:
    canary, _ = canary_of(tmp_path, Kind())
    base = tiny_base(tmp_path / "again")
    other = draw_adapter(base, replace(Kind(), seed=5))
    service = Service([engine_with(base, [])[0]])
    [refused] = service.load([other], [canary])
    assert isinstance(refused, InputError) and "belongs to another adapter" in str(refused)
    [refused] = service.load([other], [replace(canary, adapter_sha256=other.sha256)])
    assert isinstance(refused, InputError) and "answers its canary differently" in str(refused)
    service.close()


def test_a_changed_weight_of_the_base_is_told(tmp_path: Path) -> None:
    canary, _ = canary_of(tmp_path, Kind())
    base = tiny_base(tmp_path / "again")
    engine, _ = engine_with(base, [])
    with torch.no_grad():
        engine.classifier.model.base_model.encoder.layer[0].output.dense.weight.mul_(1.01)
    service = Service([engine])
    [refused] = service.load([draw_adapter(base, Kind())], [canary])
    assert isinstance(refused, InputError)
    service.close()


def test_without_a_canary_it_is_served_unverified(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    service = Service([engine_with(base, [])[0]])
    [loaded] = service.load([draw_adapter(base, Kind())], [None])
    assert isinstance(loaded, LoadedAdapter) and not loaded.verified
    service.close()


@pytest.mark.parametrize("fails", ["load", "encode", "outputs"])
def test_an_unexpected_error_refuses_one_adapter(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary, _ = canary_of(tmp_path, Kind())
    base = tiny_base(tmp_path / "again")
    good, bad = draw_adapter(base, Kind()), draw_adapter(base, Kind(seed=1))
    engine, _ = engine_with(base, [])
    own = getattr(engine, fails)

    def failing(first: Any, *args: Any, **options: Any) -> Any:
        """Fails for the second adapter, or for a batch that has a row of it."""
        if any(bad.sha256 == getattr(one, "adapter", one).sha256 for one in (first if fails == "outputs" else [first])):
            raise RuntimeError("mat1 and mat2 must have the same dtype")
        return own(first, *args, **options)

    monkeypatch.setattr(engine, fails, failing)
    service = Service([engine])
    loaded, refused = service.load([good, bad], [canary, replace(canary, adapter_sha256=bad.sha256)])
    service.close()
    assert isinstance(loaded, LoadedAdapter) and loaded.verified
    assert isinstance(refused, InputError) and str(refused) == "RuntimeError: mat1 and mat2 must have the same dtype"


def test_room_is_made_for_those_that_fit(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    good = draw_adapter(base, Kind())
    bad = replace(good, head={name: value[..., :1] for name, value in good.head.items()})
    service = Service([engine_with(base, [])[0]])
    service.reserve([bad, good])
    reserved = service.table_bytes
    loaded, refused = service.load([good, bad], [None, None])
    assert isinstance(loaded, LoadedAdapter) and isinstance(refused, InputError)
    assert service.table_bytes == reserved > 0
    service.close()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"adapter_sha256": 1}'])
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "canary.json").write_text(text)
    with pytest.raises(InputError, match="register the adapter again"):
        Canary.read(tmp_path / "canary.json")


@pytest.mark.parametrize(("off", "passes"), [(5e-5, True), (1e-3, False), (float("nan"), False)])
def test_the_tolerance(off: float, passes: bool) -> None:
    canary = Canary("0" * 64, "fp32", [[1.0, -1.0]])
    outputs = torch.tensor([[1.0, -1.0 + off]], dtype=torch.float64)
    if passes:
        canary.check(outputs, "fp32")
    else:
        with pytest.raises(InputError):
            canary.check(outputs, "fp32")
    canary.check(torch.tensor([[1.05, -1.0]]), "bf16")
