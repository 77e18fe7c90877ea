"""The shapes that data can have: which columns each of them needs, and which metrics can measure it."""

from typing import Literal, get_args

from beft.training_settings import Section

ShapeName = Literal[
    "classification", "multi_label", "token_classification", "regression", "multiple_choice", "generation"
]
MetricName = Literal[
    "accuracy",
    "f1",
    "macro_f1",
    "matthews",
    "micro_f1",
    "multi_label_macro_f1",
    "subset_accuracy",
    "entity_f1",
    "entity_precision",
    "entity_recall",
    "pearson",
    "spearman",
    "multirc_f1",
    "multirc_exact_match",
    "squad_exact_match",
    "squad_f1",
    "drop_f1",
    "drop_exact_match",
    "record_f1",
    "record_exact_match",
]
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)

_NEEDED = {
    "classification": ("label",),
    "multi_label": ("labels",),
    "token_classification": ("spans",),
    "regression": ("label",),
    "multiple_choice": ("choices",),
    "generation": ("answers",),
}
_ALLOWED = {
    "classification": ("label",),
    "multi_label": ("labels",),
    "token_classification": ("spans",),
    "regression": ("label",),
    "multiple_choice": ("choices", "label", "answers"),
    "generation": ("answers",),
}


class Columns(Section):
    """The names that the source gives the columns.

    Attributes:
        text_pair: The second text, where the dataset has one.
        label: Classification: the label's value. Regression: a number. Multiple choice: the number of the right choice,
            counted from 0.
        labels: Of multi-label classification: a column that holds a list of the labels' values, or a text in which
            ``label_separator`` stands between them; an empty list or text is a row without labels.
        spans: Of token classification: a column that holds a list of spans, each with ``start``, ``end`` (characters
            from 0; the end is behind the last one) and ``label``; a CoNLL file's is called ``spans``.
        choices: Of multiple choice: a column that holds a list of texts, or a list of columns that hold one text each.
        answers: Of generation, and of multiple choice with several right choices: a column that holds a list of texts,
            each of them right.
        group: Rows with the same value belong together: they are never divided between splits.
        keep: Further columns that go with the rows as they are; nothing is learnt from them, and promotion can look at
            the rows of each of their values (``promotion.slices``).
    """

    text: str
    text_pair: str | None = None
    label: str | None = None
    choices: str | tuple[str, ...] | None = None
    answers: str | None = None
    group: str | None = None
    keep: tuple[str, ...] = ()
    labels: str | None = None
    spans: str | None = None

    @property
    def by_role(self) -> dict[str, str]:
        """The source's name of each column that the dataset has; choices that stand in several columns are missing."""
        return {role: name for role, name in self.model_dump().items() if isinstance(name, str)}

    @property
    def choice_columns(self) -> tuple[str, ...]:
        """The columns that hold one choice each; none where one column holds them all."""
        return self.choices if isinstance(self.choices, tuple) else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every column of the source that is read."""
        return (*self.by_role.values(), *self.choice_columns, *self.keep)

    @property
    def sliced_by(self) -> tuple[str, ...]:
        """What rows of the dataset can be divided by, under the names that the settings use."""
        return ("length", "label", *(["group"] if self.group else []), *self.keep)

    def misfit(self, shape: ShapeName) -> str | None:
        """What is wrong with these columns for a problem type; None where nothing is."""
        given = [role for role in ("label", "labels", "spans", "choices", "answers") if getattr(self, role) is not None]
        missing = [role for role in _NEEDED[shape] if role not in given]
        if missing:
            return f"{shape} needs the column {missing[0]!r}"
        foreign = [role for role in given if role not in _ALLOWED[shape]]
        if foreign:
            return f"{shape} has no column {foreign[0]!r}"
        if shape == "token_classification" and self.text_pair is not None:
            return "token_classification has no column 'text_pair': the words of one text get tags"
        if shape == "multiple_choice" and not {"label", "answers"} & set(given):
            return (
                "multiple_choice needs the column 'label' (the number of the right choice) or 'answers' (their texts)"
            )
        if isinstance(self.choices, tuple) and len(self.choices) < 2:
            return "choices: name the one column that holds lists, or at least 2 columns"
        if len(set(self.keep)) < len(self.keep) or {"length", "label", "group"} & set(self.keep):
            return "keep: name each column once, and none that is called length, label or group: those are known"
        return None


def fitting_metrics(shape: ShapeName, columns: Columns, labels: int) -> tuple[MetricName, ...]:
    """The metrics that can measure a dataset, the usual headline first."""
    if shape == "multi_label":
        return ("micro_f1", "multi_label_macro_f1", "subset_accuracy")
    if shape == "token_classification":
        return ("entity_f1", "entity_precision", "entity_recall")
    if shape == "regression":
        return ("pearson", "spearman")
    if shape == "generation":
        return ("squad_f1", "squad_exact_match", "drop_f1", "drop_exact_match")
    if shape == "multiple_choice":
        return ("accuracy", "record_f1", "record_exact_match") if columns.answers else ("accuracy",)
    names: list[MetricName] = ["accuracy", "macro_f1", "matthews"]
    if labels == 2:
        names.append("f1")
        if columns.group:
            names += ["multirc_f1", "multirc_exact_match"]
    return tuple(names)
