"""What to do about raw data that is not as expected, where its failure alone does not say it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from beft.datasets.description import Description
from beft.datasets.splitting.shares import in_one_line, measured_shares
from tasks.validation.expectation_files import FILE, JSON, SPLIT

_SEPARATED = ("csv", "tsv")


def raw_advice(
    description: Description,
    columns: Mapping[str, Sequence[JSON]],
    roles: Mapping[str, str],
    facts: Mapping[str, JSON],
    failure: Mapping[str, JSON],
) -> str | None:
    """A sentence about a failure of one of the general expectations; None: its own line says what there is to say.

    Args:
        columns: The rows, with what is counted of each.
        facts: What the general expectations are filled in with.
        failure: Expectation, column, arguments, and what was observed.
    """
    name, column, asked = failure["expectation"], failure["column"], failure["arguments"]
    if name == "expect_table_row_count_to_be_between":
        few = asked.get("min_value") is not None and failure.get("observed", math.inf) < asked["min_value"]
        more = ", or leave 'test' out of its source" if len(set(columns[SPLIT])) > 1 else ""
        return f"these are too few rows: bring more{more}" if few else None
    if name == "expect_column_value_lengths_to_be_between":
        return _longest(description, columns[FILE], columns[column], asked.get("max_value"))
    if name == "expect_column_values_to_be_in_set" and column == roles.get("category"):
        said = f"its labels are {in_one_line(list(description.label_numbers))}"
        return said if asked.get("value_set") == facts["label_values"] else None
    if column is not None and column == roles.get("undeclared_labels"):
        return f"its labels are {in_one_line(list(description.label_numbers))}"
    if column is None or column != roles.get("label_name"):
        return None
    counts = Counter(name for name in columns[column] if name is not None)
    unused = [name for name in description.labels if not counts[name]]
    if name == "expect_column_distinct_values_to_contain_set":
        said = f"no row has the label {', '.join(map(repr, unused))}: take it out of labels, or bring such rows"
        return said if unused and asked.get("value_set") == facts["label_names"] else None
    if name == "expect_column_kl_divergence_to_be_less_than" and not unused:
        return _shares(description, columns, column, facts) if asked["partition_object"] == facts["shares"] else None
    return None


def _longest(description: Description, files: Sequence[str], texts: Sequence[JSON], most: int | None) -> str | None:
    """Whether a text with several lines is too long for lack of a quotation mark, which only some formats have."""
    source = description.source
    if most is None or getattr(source, "quotes", None) is False:
        return None
    for file, text in zip(files, texts, strict=True):
        form = getattr(source, "format", None) or Path(file.lower().removesuffix(".gz")).suffix.removeprefix(".")
        if form in _SEPARATED and isinstance(text, str) and len(text) > most and "\n" in text:
            return (
                "a quotation mark that is never closed takes in the lines after it; 'quotes: false' in its source "
                "reads none"
            )
    return None


def _shares(
    description: Description, columns: Mapping[str, Sequence[JSON]], column: str, facts: Mapping[str, JSON]
) -> str:
    """What the shares of the labels are, and how to declare them."""
    of_split: dict[str, Counter[str]] = {split: Counter() for split in columns[SPLIT]}
    for split, name in zip(columns[SPLIT], columns[column], strict=True):
        if name is not None:
            of_split[split][name] += 1
    counts = sum(of_split.values(), Counter[str]())
    measured = measured_shares({name: counts[name] for name in description.labels})
    said = f"the rows have the shares {in_one_line(measured)}"
    if all(_divergence(one, measured) < facts["imbalance"] for one in of_split.values()):
        return f"{said}: if that is right, declare shares: {in_one_line(measured)}"
    line = {
        "expectation": "expect_column_kl_divergence_to_be_less_than",
        "columns": ["label_name"],
        "partition_object": "$shares",
        "threshold": 100,
    }
    return (
        f"{said}, others in train than in test: if that is right, write to data/expectations/{description.name}.yaml: "
        f"{in_one_line({'raw': [line]})}"
    )


def _divergence(counts: Counter[str], shares: Mapping[str, float]) -> float:
    """The Kullback-Leibler divergence of some rows' labels from shares, in nats."""
    rows = counts.total()
    return sum(count / rows * math.log(count / rows / shares[name]) for name, count in counts.items())
