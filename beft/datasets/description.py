"""The description of a dataset: a small YAML file with a version, checked as a whole."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from beft.datasets.headline import expected_headline, rows_decide
from beft.datasets.paper import Paper
from beft.datasets.prompt import Prompt
from beft.datasets.shape import METRIC_NAMES, Columns, MetricName, ShapeName, fitting_metrics
from beft.datasets.sources import HubSource, Scalar, Source
from beft.datasets.words import WordRule
from beft.errors import InputError
from beft.files import is_unicode
from beft.settings import NO_UNICODE
from beft.settings_problems import problems
from beft.training_settings import Section
from beft.yaml_text import format_yaml, parse_yaml

Regime = Literal["low", "medium", "high"]
REGIMES: tuple[str, ...] = get_args(Regime)
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


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
    """One text for values that a reader takes as the same.

    1, 1.0, "1" and " 1 " are "1"; true is "true"; accented letters have one form (Unicode's NFC).
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = unicodedata.normalize("NFC", str(value)).strip()
    return text.split(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


class Description(Section):
    """A named, versioned description of data.

    Attributes:
        labels: Of classification, multi-label and token classification: the values of the label column (the labels of
            the spans) that each label's name stands for; the order numbers the labels from 0. A plain list in the YAML
            says that the values are the names.
        label_separator: Of multi-label classification: what stands between the labels of a row, where the column holds
            texts; None: it holds lists.
        words: Of token classification, what divides a text into the words that get tags: ``spaces``, or
            ``punctuation`` as well; None: spaces for CoNLL files, whose words stand between them, else punctuation.
        label_range: Of regression: the least and the greatest number that a label can be.
        shares: The share of rows that each label is expected to have; without them, all the same.
        replace: Marks of the source that are no words of the text, and what stands in their place.
        metric: The headline: what epochs and terms are chosen by. Without one, a classification takes accuracy, or
            macro F1 where a label has under 5 % of the rows.
        metrics: Every metric that is reported, the headline first. Either of the two says the other.
        prompt: How the dataset is put to a language model.
        sizes: How many rows the regimes low, medium and high have ("all" is always known).
        test_rows: The most rows that test takes, for data too small for the setting of that name.
        gate_rows: The most rows that gate takes, likewise; 0 for no gate.
        paper: How the paper trained on it.
    """

    name: str
    title: str
    version: int = Field(ge=1)
    licence: str = "not stated"
    source: Source
    shape: ShapeName = "classification"
    columns: Columns
    labels: dict[str, tuple[Scalar, ...]] = Field({}, validate_default=True)
    label_range: tuple[float, float] | None = None
    shares: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field({})
    replace: dict[str, str] = Field({})
    metric: MetricName = "accuracy"
    metrics: tuple[MetricName, ...] = Field((), description="the first is the metric")
    prompt: Prompt | None = None
    sizes: dict[Regime, Annotated[int, Field(ge=2)]] = Field({})
    test_rows: int | None = Field(None, ge=5)
    gate_rows: int | None = Field(None, ge=0)
    paper: Paper | None = None
    label_separator: str | None = Field(None, min_length=1)
    words: WordRule | None = None
    _rows_decide: bool = PrivateAttr(False)

    @model_validator(mode="wrap")
    @classmethod
    def _remember_who_decides(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(values)
        made._rows_decide = isinstance(values, dict) and rows_decide(values)
        return made

    @property
    def headline_by_rows(self) -> bool:
        """Whether no metric is named, so that the rows of the rarest label decide; ``metric`` is what is expected."""
        return self._rows_decide

    @model_validator(mode="before")
    @classmethod
    def _headline(cls, values: Any) -> Any:
        """Let the first of ``metrics`` say ``metric``, and the other way round."""
        if not isinstance(values, dict):
            return values
        metric, metrics = values.get("metric"), values.get("metrics")
        if metric is None and not metrics:
            usual: dict[object, MetricName] = {
                "multi_label": "micro_f1",
                "token_classification": "entity_f1",
                "regression": "pearson",
                "generation": "squad_f1",
            }
            metric = usual.get(values.get("shape")) or expected_headline(values)
        if isinstance(metrics, list | tuple) and metrics and metric is None and metrics[0] in METRIC_NAMES:
            return {**values, "metric": metrics[0]}
        if metric in METRIC_NAMES and not metrics:
            return {**values, "metric": metric, "metrics": [metric]}
        return values

    @model_validator(mode="before")
    @classmethod
    def _labels_in_one_form(cls, values: Any) -> Any:
        """Let shares and answers name a label with accented letters in either Unicode form."""
        if not isinstance(values, dict) or not isinstance(values.get("labels"), list | dict):
            return values
        forms = {unicodedata.normalize("NFC", name): name for name in values["labels"] if isinstance(name, str)}

        def by_label(found: Any) -> Any:
            if not isinstance(found, dict):
                return found
            return {forms.get(unicodedata.normalize("NFC", str(name)), name): one for name, one in found.items()}

        changed = {"shares": by_label(values["shares"])} if "shares" in values else {}
        prompt = values.get("prompt")
        if isinstance(prompt, dict) and "answers" in prompt:
            changed["prompt"] = {**prompt, "answers": by_label(prompt["answers"])}
        return {**values, **changed}

    @field_validator("columns")
    @classmethod
    def _columns_of_shape(cls, columns: Columns, info: ValidationInfo) -> Columns:
        misfit = columns.misfit(info.data["shape"]) if "shape" in info.data else None
        if misfit:
            raise ValueError(misfit)
        return columns

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

    @field_validator("labels")
    @classmethod
    def _labels_of_shape(
        cls, labels: dict[str, tuple[Scalar, ...]], info: ValidationInfo
    ) -> dict[str, tuple[Scalar, ...]]:
        shape = info.data.get("shape")
        if shape in ("classification", "multi_label") and len(labels) < 2:
            raise ValueError(f"{shape} needs at least 2, not {len(labels)}")
        if shape == "token_classification" and not labels:
            raise ValueError("token_classification needs the labels of its spans")
        if shape not in ("classification", "multi_label", "token_classification", None) and labels:
            raise ValueError(f"{shape} has none")
        return labels

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
        if self.shares and self.shape != "classification":
            raise ValueError(f"shares: they are for classification, not for {self.shape}")
        if self.label_separator is not None and self.shape != "multi_label":
            raise ValueError(f"label_separator: it is for multi_label, not for {self.shape}")
        if self.words is not None and self.shape != "token_classification":
            raise ValueError(f"words: it is for token_classification, not for {self.shape}")
        if self.replace and self.shape == "token_classification":
            raise ValueError("replace: the spans of token_classification count the characters of the text as it is")
        separator = self.label_separator or ""
        if separator and (holding := [value for value in values if separator.strip() and separator.strip() in value]):
            raise ValueError(f"labels: the value {holding[0]!r} holds the label_separator {separator!r}")
        if self.label_range and self.shape != "regression":
            raise ValueError(f"label_range: it is for regression, not for {self.shape}")
        if self.label_range and not self.label_range[0] < self.label_range[1]:
            raise ValueError("label_range: the least number comes first")
        misfit = self.prompt and self.prompt.misfit(self.shape, self.columns, tuple(self.labels))
        if misfit:
            raise ValueError(f"prompt.{misfit}")
        return self

    @field_validator("gate_rows")
    @classmethod
    def _large_enough_to_decide(cls, value: int | None) -> int | None:
        if value is not None and 0 < value < 20:
            raise ValueError("a decision needs 20 rows or more; 0 is for no gate")
        return value

    @model_validator(mode="after")
    def _metrics_fit(self) -> Self:
        if self.metric != self.metrics[0]:
            raise ValueError(f"metrics: the first of them, {self.metrics[0]!r}, is not the metric {self.metric!r}")
        fitting = fitting_metrics(self.shape, self.columns, len(self.labels))
        for name in self.metrics:
            if name not in fitting:
                what = f"{self.shape} with {len(self.labels)} labels" if self.labels else self.shape
                if name.startswith("multirc") and self.columns.group is None:
                    what += " without groups"
                raise ValueError(f"metrics: {name!r} does not fit {what}; these do: {', '.join(fitting)}")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError("metrics: one is named twice")
        return self

    @property
    def label_numbers(self) -> dict[str, int]:
        """The number of the label that each (canonical) value of the label column stands for."""
        return {canonical(value): number for number, values in enumerate(self.labels.values()) for value in values}

    @property
    def word_rule(self) -> WordRule:
        """What divides a text into the words of a token classification."""
        if self.words is not None or isinstance(self.source, HubSource):
            return self.words or "punctuation"
        return "spaces" if self.source.format_of(self.source.train[0]) == "conll" else "punctuation"

    def rows(self, size: int | str) -> int | None:
        """How many rows a size means; None for all that there are.

        Raises:
            DatasetError: The dataset does not have this regime.
        """
        if isinstance(size, int):
            if size < 2:
                raise DatasetError(self.name, [f"a sample of {size} rows is too small: it needs 2 or more"])
            return size
        sizes = {str(regime): rows for regime, rows in self.sizes.items()}
        if size == "auto":
            return sizes.get("low")
        if size == "all":
            return None
        if size not in sizes:
            known = ", ".join([*(f"{regime} ({rows:,} rows)" for regime, rows in sizes.items()), "all"])
            raise DatasetError(self.name, [f"it has no size {size!r}. Known: {known}, or a number of rows."])
        return sizes[size]

    def to_yaml(self) -> str:
        """The description as ``read`` takes it; in order, for the order of the labels is their numbers."""
        values = self.model_dump(mode="json", exclude={"name"})
        if not self.columns.keep:  # said only where it is, so that what was fetched before stays what it is
            del values["columns"]["keep"]
        if self.columns.labels is None:
            del values["columns"]["labels"]
        if self.columns.spans is None:
            del values["columns"]["spans"]
        if self.label_separator is None:
            del values["label_separator"]
        if self.words is None:
            del values["words"]
        if self.test_rows is None:
            del values["test_rows"]
        if self.headline_by_rows:
            del values["metric"], values["metrics"]
        return format_yaml(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Self:
        """Check a mapping that describes a dataset.

        Raises:
            DatasetError: Every problem at once, with the nearest valid name for unknown ones.
        """
        broken = [f"{name!r}: {NO_UNICODE}" for name, value in values.items() if not is_unicode([name, value])]
        if broken:
            raise DatasetError(where, broken)
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
            values = parse_yaml(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DatasetError(str(path), [f"its description is not valid YAML: {error}"]) from None
        except OSError as error:
            raise DatasetError(str(path), [f"its description cannot be read: {error.strerror}"]) from None
        if not isinstance(values, dict):
            raise DatasetError(str(path), [f"its description must be a mapping, not {type(values).__name__}"])
        return cls.from_mapping({**values, "name": path.stem}, str(path))
