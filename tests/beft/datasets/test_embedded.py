"""What the embedded descriptions say, held against the published protocol and the published data."""

from pathlib import Path
from typing import Any

import pytest

from beft.datasets.description import Description
from beft.datasets.preparation import prepare_source
from beft.datasets.prepared import Rows, load_split, load_summary
from beft.datasets.reading.loaders import fetch_source, whereabouts
from beft.datasets.reading.local import VARIABLE, data_folder
from beft.datasets.registry import find_dataset
from beft.datasets.sources import HubSource
from beft.settings import SplitSettings
from tests.beft.datasets.test_description import EMBEDDED, GLUE, SUPERGLUE

PUBLISHED: dict[str, tuple[float, int, tuple[int, ...]]] = {
    "cola": (7e-4, 16, (1710, 3420, 4275)),
    "mnli": (1e-4, 30, (1000, 5000, 9000)),
    "mnli_mismatched": (1e-4, 30, (1000, 5000, 9000)),
    "mrpc": (7e-4, 60, (367, 1191, 1835)),
    "qnli": (1e-4, 30, (1000, 5000, 9000)),
    "qqp": (4e-4, 30, (1000, 5000, 9000)),
    "rte": (1e-3, 30, (300, 900, 1200)),
    "sst2": (4e-4, 16, (1000, 5000, 11000)),
    "stsb": (1e-4, 60, (287, 1150, 2300)),
    "cb": (1e-3, 60, (250,)),
    "wic": (1e-3, 16, (1000,)),
}
"""Of the encoders: learning rate, epochs of BERT-base, rows of low, medium and high."""

DECODER = dict.fromkeys(("sst2", "rte", "boolq", "wic", "multirc", "squad", "drop"), 1e-3)
DECODER |= {"cb": 1e-2, "wsc": 1e-2, "copa": 1e-4, "record": 1e-4}
GENERATED = {"copa", "record", "squad", "drop"}

REAL: dict[str, tuple[int, int]] = {
    "sst2": (67349, 872),
    "cola": (8551, 1043),
    "rte": (2490, 277),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "qnli": (8999, 5463),
    "mnli": (8999, 9815),
    "qqp": (8999, 1000),
    "copa": (400, 100),
    "wsc": (554, 104),
    "multirc": (27243, 4848),
    "boolq": (1490, 3270),
    "squad": (4000, 10570),
    "drop": (9536, 0),
}
"""Rows of the files that one can have, train and test."""


@pytest.fixture(params=sorted(EMBEDDED))
def description(request: pytest.FixtureRequest, tmp_path: Path) -> Description:
    return find_dataset(request.param, tmp_path)


def test_a_published_data_set_can_be_had_in_two_ways(description: Description) -> None:
    if description.name not in (*GLUE, *SUPERGLUE, "squad", "drop"):
        pytest.skip("a package")
    source = description.source
    assert isinstance(source, HubSource)
    assert source.local
    assert source.test
    assert {way.train[0].file.split("/")[0] for way in source.local} == {source.local[0].train[0].file.split("/")[0]}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_published_protocol_of_encoders(name: str, tmp_path: Path) -> None:
    description = find_dataset(name, tmp_path)
    rate, epochs, rows = PUBLISHED[name]
    paper = description.paper
    assert paper is not None
    assert (paper.learning_rate, paper.full_learning_rate, paper.epochs["bert-base"]) == (rate, 1e-5, epochs)
    assert tuple(paper.rows.values()) == rows
    if name != "cb":  # of whose 250 rows some are gate
        assert tuple(description.sizes.values())[: len(rows)] == rows
    further = {"rte": 30, "sst2": 30, "wic": 30, "cb": 60}.get(name)
    assert paper.epochs.get("bert-large") == paper.epochs.get("roberta-base") == further


@pytest.mark.parametrize("name", sorted(DECODER))
def test_the_published_protocol_of_decoders(name: str, tmp_path: Path) -> None:
    description = find_dataset(name, tmp_path)
    assert description.paper is not None and description.prompt is not None
    decoder = description.paper.decoder
    assert decoder is not None
    assert decoder.learning_rate == DECODER[name]
    assert decoder.objective == ("language_model" if name in GENERATED else "candidates")
    assert (decoder.epochs, decoder.batch_size, decoder.train_rows, decoder.evaluation_rows) == (5, 8, 1000, 1000)


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        (("accuracy",), {"mnli", "mnli_mismatched", "qnli", "rte", "sst2", "wic", "boolq", "wsc", "copa"}),
        (("accuracy", "f1"), {"mrpc", "qqp"}),
        (("matthews", "accuracy"), {"cola"}),
        (("spearman", "pearson"), {"stsb"}),
        (("macro_f1", "accuracy"), {"cb"}),
        (("multirc_f1", "multirc_exact_match", "accuracy"), {"multirc"}),
        (("record_f1", "record_exact_match"), {"record"}),
        (("squad_f1", "squad_exact_match"), {"squad"}),
        (("drop_f1", "drop_exact_match"), {"drop"}),
    ],
)
def test_the_metrics_of_the_field(metrics: tuple[str, ...], names: set[str], tmp_path: Path) -> None:
    assert {name: find_dataset(name, tmp_path).metrics for name in names} == dict.fromkeys(names, metrics)


@pytest.fixture(scope="module", params=sorted(REAL))
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Description, Path]:
    """A prepared dataset of real files."""
    root = tmp_path_factory.mktemp(request.param)
    description = find_dataset(request.param, root)
    if data_folder() is None or whereabouts(description, root) != VARIABLE:
        pytest.skip(f"{VARIABLE} names no folder with the files of {request.param}")
    for name in ("raw", "prepared"):
        (root / name).mkdir()
    fetch_source(description, root / "raw", root)
    size = min(description.sizes.values())
    prepare_source(root / "raw", root / "prepared", size=size, settings=SplitSettings())
    return description, root / "prepared"


def test_real_files_have_the_published_rows(real: tuple[Description, Path]) -> None:
    description, folder = real
    summary = load_summary(folder)
    taken = {file["name"] for file in summary["source"]["files"]}
    if description.name in ("qnli", "mnli", "qqp", "boolq", "squad", "drop") and not _are_samples(taken):
        pytest.skip("the whole data set, not the samples whose rows are known here")
    train, test = REAL[description.name]
    assert summary["raw_rows"] == train + test
    assert summary["rows"]["test"] == (test or 1000)
    assert len(load_split(folder, "test")) == summary["rows"]["test"]
    requested = min(description.sizes.values())
    assert summary["rows"]["train"] + summary["rows"]["dev"] in range(
        requested - summary.get("largest_group", 0), requested + 1
    )


def test_real_files_mean_what_the_description_says(real: tuple[Description, Path]) -> None:
    description, folder = real
    splits: dict[str, Rows] = {name: load_split(folder, name) for name in ("train", "dev", "gate", "test")}
    keys = {name: set(zip(split.texts, split.pairs or split.texts, strict=True)) for name, split in splits.items()}
    if description.shape != "multiple_choice":
        assert not keys["test"] & (keys["train"] | keys["dev"] | keys["gate"])
    expected: dict[str, Any] = {
        "multirc": lambda split: len(set(split.groups or [])) == 953,
        "squad": lambda split: all(any(one in text for one in answers) for text, answers in _answered(split)),
        "copa": lambda split: all(text.endswith((" so", " because")) for text in split.texts),
        "wsc": lambda split: all(text.count("*") == 2 for text in split.texts),
        "stsb": lambda split: (min(split.labels), max(split.labels)) == (0.0, 5.0),
        "sst2": lambda split: (split.labels.count(0), split.labels.count(1)) == (428, 444),
        "cola": lambda split: (split.labels.count(0), split.labels.count(1)) == (322, 721),
        "mrpc": lambda split: (split.labels.count(0), split.labels.count(1)) == (129, 279),
        "rte": lambda split: (split.labels.count(0), split.labels.count(1)) == (146, 131),
        "boolq": lambda split: (split.labels.count(0), split.labels.count(1)) == (1237, 2033),
    }
    assert expected.get(description.name, lambda split: len(split) > 0)(splits["test"])


def test_multirc_is_divided_as_a_reproduction_asks(tmp_path: Path) -> None:
    description = find_dataset("multirc", tmp_path)
    if data_folder() is None or whereabouts(description, tmp_path) != VARIABLE:
        pytest.skip(f"{VARIABLE} names no folder with the files of multirc")
    for name in ("raw", "prepared"):
        (tmp_path / name).mkdir()
    fetch_source(description, tmp_path / "raw", tmp_path)
    summary = prepare_source(tmp_path / "raw", tmp_path / "prepared", size="low", settings=SplitSettings(gate_rows=0))
    assert summary["rows"] == {"train": 801, "dev": 199, "gate": 0, "test": 4848}  # whole questions


def _answered(split: Rows) -> list[tuple[str, list[str]]]:
    return list(zip(split.texts, split.answers or [], strict=True))


def _are_samples(names: set[str]) -> bool:
    return any(
        "sample" in name or "subset" in name or "ALTERED" in name or name == "DROP/dev.jsonl.gz" for name in names
    )
