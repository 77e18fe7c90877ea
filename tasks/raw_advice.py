"""What to do about raw data that is not as expected, where its failure alone does not say it."""

import math
from collections import Counter
from collections.abc import Mapping

from beft.datasets.description import Description
from beft.datasets.shares import in_one_line, measured_shares

_LONGEST = "a quotation mark that is never closed takes in the lines after it; 'quotes: false' in its source reads none"


def raw_advice(
    description: Description, names_of_split: Mapping[str, list[str | None]], imbalance: float
) -> dict[str, str]:
    """A sentence for each expectation that has one.

    Args:
        names_of_split: The label's name of every row, by the split of the source; None where its value has no name.
        imbalance: The divergence from the declared shares that is too much, in nats.
    """
    advice = {
        "expect_column_value_lengths_to_be_between": _LONGEST,
        "expect_table_row_count_to_be_between": "these are too few rows: bring more"
        + (", or leave 'test' out of its source" if len(names_of_split) > 1 else ""),
    }
    if not description.labels:
        return advice
    advice["expect_column_values_to_be_in_set"] = f"its labels are {in_one_line(list(description.label_numbers))}"
    counts = Counter(name for names in names_of_split.values() for name in names if name is not None)
    unused = [name for name in description.labels if not counts[name]]
    if unused:
        advice["expect_column_distinct_values_to_contain_set"] = (
            f"no row has the label {', '.join(map(repr, unused))}: take it out of labels, or bring such rows"
        )
        return advice
    measured = measured_shares({name: counts[name] for name in description.labels})
    said = f"the rows have the shares {in_one_line(measured)}"
    if all(_divergence(names, measured) < imbalance for names in names_of_split.values()):
        said += f": if that is right, declare shares: {in_one_line(measured)}"
    else:
        line = {
            "expectation": "expect_column_kl_divergence_to_be_less_than",
            "columns": ["label_name"],
            "partition_object": "$shares",
            "threshold": 100,
        }
        said += (
            f", others in train than in test: if that is right, write to data/expectations/{description.name}.yaml: "
            f"{in_one_line({'raw': [line]})}"
        )
    advice["expect_column_kl_divergence_to_be_less_than"] = said
    return advice


def _divergence(names: list[str | None], shares: Mapping[str, float]) -> float:
    """The Kullback-Leibler divergence of some rows' labels from shares, in nats."""
    counts = Counter(name for name in names if name is not None)
    rows = sum(counts.values())
    return sum(count / rows * math.log(count / rows / shares[name]) for name, count in counts.items())
