"""Descriptions of datasets: what they say, and what is said of wrong ones."""

import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, reject
from hypothesis import strategies as st

from beft.datasets.description import DatasetError, Description, canonical
from beft.datasets.registry import dataset_problems, find_dataset, known_datasets
from beft.datasets.sources import HubSource, PackageSource
from beft.errors import InputError
from beft.settings import Settings
from beft.yaml_text import parse_yaml
from tests.beft.datasets.small import describe

GLUE = {"cola", "mnli", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"}
SUPERGLUE = {"boolq", "cb", "copa", "multirc", "record", "wic", "wsc"}
EMBEDDED = {*GLUE, *SUPERGLUE, "drop", "imdb", "rotten_tomatoes", "squad"}
README = Path(__file__).parents[3] / "data" / "README.md"


@pytest.mark.parametrize("name", ["rotten_tomatoes", "imdb"])
def test_the_embedded_descriptions_are_valid(name: str, tmp_path: Path) -> None:
    description = find_dataset(name, tmp_path)
    assert description.name == name
    assert isinstance(description.source, PackageSource)
    assert list(description.labels) == ["negative", "positive"]
    assert description.label_numbers == {"0": 0, "1": 1}


def test_sizes(tmp_path: Path) -> None:
    description = find_dataset("rotten_tomatoes", tmp_path)
    assert (description.rows("low"), description.rows("all"), description.rows(77)) == (1000, None, 77)
    with pytest.raises(DatasetError, match=r"no size 'medium'. Known: low \(60 rows\), all, or a number"):
        describe(tmp_path).rows("medium")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1"), ("1", "1"), (" 1 ", "1"), ("1.0", "1"), (True, "true"), (0.5, "0.5"), ("a.0", "a.0")],
)
def test_values_that_readers_take_as_the_same(value: object, text: str) -> None:
    assert canonical(value) == text


def test_several_values_of_one_label(tmp_path: Path) -> None:
    description = describe(tmp_path, labels={"low": [1, 2], "high": [4, "5"]})
    assert description.label_numbers == {"1": 0, "2": 0, "4": 1, "5": 1}


def test_a_description_keeps_the_order_of_its_labels_when_it_is_written(tmp_path: Path) -> None:
    description = describe(tmp_path, labels={"no": 1, "beta": [2, "two"], "alpha": 0}, replace={"b": "a", "a": "c"})
    path = tmp_path / "own.yaml"
    path.write_text(description.to_yaml())
    again = Description.read(path)
    assert again == description
    assert (list(again.labels), list(again.replace)) == (["no", "beta", "alpha"], ["b", "a"])


TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("\x85\u2028\u2029\n\t :#'"), min_size=1, max_size=12)


@given(TEXT, TEXT, TEXT, st.lists(TEXT, min_size=2, max_size=4, unique=True), st.dictionaries(TEXT, TEXT, max_size=3))
@example("a", "b", "c", ["d\x85", "e"], {"\x85": "..."})
def test_all_texts_of_a_description_are_read_back(
    title: str, text: str, label: str, labels: list[str], replace: dict[str, str]
) -> None:
    source = {"kind": "files", "train": "rows.csv", "where": {label: text}}
    values = {"title": title, "version": 1, "source": source, "columns": {"text": text, "label": label}}
    try:
        description = Description.from_mapping(values | {"name": "own", "labels": labels, "replace": replace}, "own")
    except DatasetError:
        reject()
    again = Description.from_mapping({**parse_yaml(description.to_yaml()), "name": "own"}, "own")
    assert again.model_dump() == description.model_dump()
    assert (list(again.labels), list(again.replace)) == (list(description.labels), list(description.replace))


def test_an_own_description_wins_over_an_embedded_one(tmp_path: Path) -> None:
    describe(tmp_path, name="imdb")
    assert find_dataset("imdb", tmp_path).title == "a dataset of the user's own"
    assert set(known_datasets(tmp_path)) == EMBEDDED


def test_labels_with_accents_are_named_in_either_form(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    prompt = {"template": "{text}", "answers": {"bad": " a", decomposed: " b"}}
    description = describe(tmp_path, labels=["bad", composed], shares={"bad": 0.5, decomposed: 0.5}, prompt=prompt)
    assert list(description.shares) == ["bad", composed]
    assert description.prompt is not None and list(description.prompt.answers) == ["bad", composed]
    with pytest.raises(DatasetError, match="stands for more than one label"):
        describe(tmp_path, labels=[composed, decomposed])


def test_a_description_may_end_in_yml(tmp_path: Path) -> None:
    describe(tmp_path, name="tickets").to_yaml()
    folder = tmp_path / "data" / "datasets"
    (folder / "tickets.yaml").rename(folder / "tickets.yml")
    assert find_dataset("tickets", tmp_path).title == "a dataset of the user's own"
    assert not dataset_problems(Settings.from_mapping({"datasets": {"tickets": {"size": "low"}}}), tmp_path)
    describe(tmp_path, name="tickets")
    with pytest.raises(InputError, match=r"tickets.yaml and .*tickets.yml describe the same dataset: remove one"):
        find_dataset("tickets", tmp_path)


def test_an_unknown_dataset_is_answered_by_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown dataset 'rotten_tomato'. Did you mean 'rotten_tomatoes'\?"):
        find_dataset("rotten_tomato", tmp_path)


def test_every_problem_of_a_description_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as raised:
        describe(
            tmp_path,
            metrc="accuracy",
            metric="acuracy",
            version=0,
            source={"kind": "files", "train": "a.csv", "tets": "b.csv"},
            columns={"text": "sentence"},
        )
    told = "\n".join(raised.value.problems)
    assert len(raised.value.problems) == 5
    assert "metrc: unknown setting 'metrc'. Did you mean 'metric'?" in told
    assert "metric: unknown value 'acuracy'. Did you mean 'accuracy'?" in told
    assert "tets: unknown setting 'tets'. Did you mean 'test'?" in told
    assert "columns: classification needs the column 'label'" in told
    assert "version: " in told
    assert raised.value.exit_status == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": {"a": 1, "b": 1.0}}, "the value '1' stands for more than one label"),
        ({"labels": {True: 1, False: 0}}, "write it in quotes"),
        ({"labels": ["only"]}, "at least 2"),
        ({"labels": {"a": [], "b": 1}}, "every label needs a value"),
        ({"title": "a \ud83d"}, "'title': half a surrogate pair in it"),
        ({"columns": {"text": "\ud83d", "label": "mood"}}, "'columns': half a surrogate pair in it"),
        ({"shares": {"good": 0.5}}, "exactly the labels bad, good"),
        ({"shares": {"good": 0.5, "bad": 0.4}}, "must sum to 1, not 0.9"),
        ({"source": {"kind": "files", "train": "rows.dat"}}, "say the format of 'rows.dat'"),
        ({"source": {"kind": "file", "train": "rows.csv"}}, "source"),
        ({"source": {"kind": "package", "distribution": "p", "module": "m", "train": "r.csv"}}, "distribution"),
        ({"source": {"kind": "hub", "id": "a/b", "revision": "main", "train": "train"}}, "revision"),
    ],
)
def test_what_is_wrong_with_a_description(changes: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=told):
        describe(tmp_path, **changes)


@pytest.mark.parametrize(("text", "told"), [("a: [", "not valid YAML"), ("- a", "must be a mapping")])
def test_a_file_that_is_no_description(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=told):
        Description.read(path)


def test_a_name_that_a_registry_would_refuse(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lower-case letters"):
        describe(tmp_path, name="My.Data")


def test_the_problems_of_all_datasets_of_the_settings(tmp_path: Path) -> None:
    describe(tmp_path)
    (tmp_path / "data" / "datasets" / "broken.yaml").write_text("title: x")
    settings = Settings.from_mapping(
        {"datasets": {"own": {"size": "high"}, "imbd": {}, "broken": {}, "imdb": {"size": 500}}}
    )
    told = dataset_problems(settings, tmp_path)
    assert any(line.startswith("datasets.own: it has no size 'high'") for line in told)
    assert any(line.startswith("datasets.imbd: unknown dataset 'imbd'. Did you mean 'imdb'?") for line in told)
    assert any(line.startswith("datasets.broken: source: it is missing") for line in told)
    assert not any(line.startswith("datasets.imdb") for line in told)


def test_the_descriptions_in_the_readme_are_valid(tmp_path: Path) -> None:
    blocks = [textwrap.dedent(block.split("```")[0]) for block in README.read_text().split("```yaml\n")[1:]]
    tickets = yaml.safe_load(blocks[0])
    read = Description.from_mapping({**tickets, "name": "tickets"}, "README.md")
    assert read.columns.text_pair == "body"
    sources = [yaml.safe_load(block)["source"] for block in blocks if block.startswith("source:")]
    assert len(sources) == 2
    for source in sources:
        described = Description.from_mapping({**tickets, "name": "tickets", "source": source}, "README.md")
        assert isinstance(described.source, HubSource)
    assert described.source.local[0].train[1].rename == {"review": "text"}
    [prompt] = [yaml.safe_load(block)["prompt"] for block in blocks if block.startswith("prompt:")]
    Description.from_mapping({**tickets, "name": "tickets", "prompt": prompt}, "README.md")
    [choice] = [yaml.safe_load(block) for block in blocks if block.startswith("shape:")]
    requested = {key: tickets[key] for key in ("title", "version", "source")}
    assert Description.from_mapping({**requested, **choice, "name": "asked"}, "README.md").columns.choice_columns[
        2
    ] == ("option_c")
