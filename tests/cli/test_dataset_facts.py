"""What is printed of a prepared dataset: the labels that are too rare for a split are named."""

from beft.cli.dataset_facts import rare_labels


def test_labels_that_are_too_rare_for_a_split_are_named_with_their_rows() -> None:
    names = [f"label {number}" for number in range(8)]
    of = {
        "train": dict.fromkeys(names, 2),
        "dev": dict.fromkeys(names, 1) | {"label 3": 0},
        "gate": dict.fromkeys(names, 0),
        "test": {"label 0": 9} | dict.fromkeys(names[1:], 0),
    }
    facts = {"labels": names, "balance": of, "rows": {"train": 16, "dev": 7, "gate": 0, "test": 9}}
    found = rare_labels(facts)
    assert found[0] == "too rare for dev, which has no row of them: 'label 3' (2 in all)"
    assert found[1].startswith(
        "too rare for test, which has no row of them: 'label 3' (2 in all), 'label 1' (3 in all)"
    )
    assert found[1].endswith(" and 2 others")
    assert len(found) == 2, "a gate that was not asked for lacks nothing"


def test_where_every_split_has_every_label_nothing_is_said() -> None:
    of = {split: {"a": 3, "b": 1} for split in ("train", "dev", "gate", "test")}
    assert rare_labels({"labels": ["a", "b"], "balance": of, "rows": dict.fromkeys(of, 4)}) == []
