"""The confusion table of the report: all of it for few labels, the most frequent mistakes for many."""

from tasks.reporting.report_confusion import confusion_table


def test_few_labels_are_a_table_with_a_line_a_true_label():
    cells = [[0, 0, 1200], [0, 1, 300], [1, 0, 3]]
    found = confusion_table(
        {"labels": ["usual", "rare", "a name that is longer than the table can show"], "cells": cells}
    )
    assert found is not None
    assert [row["name"] for row in found["rows"]] == ["usual", "rare", "a name that is longer t…"]
    assert [row["rows"] for row in found["rows"]] == ["1,500", "3", "0"]
    assert [[cell["text"] for cell in row["cells"]] for row in found["rows"]] == [
        ["1,200", "300", ""],
        ["3", "", ""],
        [""] * 3,
    ]
    assert [cell["share"] for cell in found["rows"][0]["cells"]] == ["0.800", "0.200", "0.000"]
    assert [[cell["own"] for cell in row["cells"]].index(True) for row in found["rows"]] == [0, 1, 2]
    assert (found["pairs"], found["never"]) == ([], [])


def test_many_labels_are_the_pairs_that_are_most_confused():
    right = [[label, label, 10] for label in range(1, 30)]
    wrong = [[3, 4, 7], [5, 6, 2], [0, 6, 2], *([label, 1, 1] for label in range(2, 30))]
    found = confusion_table({"labels": [f"label {label}" for label in range(30)], "cells": right + wrong})
    assert found is not None
    assert (found["rows"], len(found["pairs"])) == ([], 20)
    assert found["pairs"][0] == {"true": "label 3", "predicted": "label 4", "rows": "7 of 18", "share": "38.9 %"}
    assert [pair["true"] for pair in found["pairs"][1:3]] == ["label 0", "label 5"], "of equals the rarer label first"
    assert found["never"] == ["label 0"]


def test_an_evaluation_without_one_has_no_table():
    assert confusion_table(None) is None
