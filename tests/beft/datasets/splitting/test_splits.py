"""The laws of the splits, on rows of every shape."""

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beft.datasets.splitting.splits import Splits, SplitSizes, TooFewRows, cost_of_copies, split_rows
from beft.datasets.splitting.strata import deciles, quotas
from beft.settings import SplitSettings

SPLITS = ("train", "dev", "gate", "test")
FEW = settings(deadline=None, max_examples=40)
REASONS = ("duplicates", "conflicts", "seen_in_test", "unused")


@st.composite
def datasets(draw: Any, own_test: bool | None = None) -> dict[str, Any]:
    """Rows (texts that may repeat, labels that may contradict) and what is asked of them."""
    labels = draw(st.integers(2, 4))
    distinct = draw(st.integers(140, 180))
    places = st.integers(0, distinct - 1)
    rare = draw(st.sets(places, max_size=20))  # uneven shares
    rows = [(f"text {n}", 0 if n in rare else n % labels) for n in range(distinct)]
    rows += [rows[at] for at in draw(st.lists(places, max_size=12))]  # copies
    rows += [(rows[at][0], (rows[at][1] + 1) % labels) for at in draw(st.lists(places, max_size=6))]  # contradictions
    has_own = draw(st.booleans()) if own_test is None else own_test
    chosen = draw(st.sets(places, min_size=1, max_size=15)) if has_own else set()
    own = [at in chosen for at in range(len(rows))]
    return {
        "keys": [text for text, _ in rows],
        "labels": [label for _, label in rows],
        "own_test": own,
        "size": draw(st.one_of(st.none(), st.integers(8, 40))),
        "settings": SplitSettings(
            test_rows=draw(st.integers(20, 30)),
            gate_rows=draw(st.integers(20, 30)),
            dev_fraction=draw(st.sampled_from([0.1, 0.2, 0.5])),
            draw=draw(st.integers(0, 3)),
        ),
    }


def by_text(splits: Splits, data: dict[str, Any]) -> dict[str, list[tuple[str, int]]]:
    """Text and label of the rows of each split, which say the same whatever the numbers of the rows."""
    return {name: [(data["keys"][at], data["labels"][at]) for at in getattr(splits, name)] for name in SPLITS}


@given(datasets())
@FEW
def test_every_row_is_in_one_split_or_has_one_reason(data: dict[str, Any]) -> None:
    splits = split_rows(**data)
    everywhere = [row for name in (*SPLITS, *REASONS) for row in getattr(splits, name)]
    assert sorted(everywhere) == list(range(len(data["keys"])))


@given(datasets())
@FEW
def test_no_text_is_in_two_splits_and_none_twice_outside_of_test(data: dict[str, Any]) -> None:
    splits = split_rows(**data)
    texts = {name: [data["keys"][row] for row in getattr(splits, name)] for name in SPLITS}
    for name in SPLITS:
        for other in SPLITS[SPLITS.index(name) + 1 :]:
            assert not set(texts[name]) & set(texts[other])
    for name in ("train", "dev", "gate"):
        assert len(set(texts[name])) == len(texts[name])


@given(datasets())
@FEW
def test_a_text_with_two_labels_is_learnt_from_by_none(data: dict[str, Any]) -> None:
    splits = split_rows(**data)
    labels: dict[str, set[int]] = {}
    for key, label in zip(data["keys"], data["labels"], strict=True):
        labels.setdefault(key, set()).add(label)
    for name in ("train", "dev", "gate"):
        assert all(len(labels[data["keys"][row]]) == 1 for row in getattr(splits, name))


@given(datasets(), st.randoms(use_true_random=False))
@FEW
def test_the_order_of_the_rows_changes_nothing(data: dict[str, Any], random: Any) -> None:
    order = list(range(len(data["keys"])))
    random.shuffle(order)
    shuffled = data | {name: [data[name][row] for row in order] for name in ("keys", "labels", "own_test")}
    assert by_text(split_rows(**shuffled), shuffled) == by_text(split_rows(**data), data)


@given(datasets(own_test=False))
@FEW
def test_every_split_is_stratified_to_within_one_row(data: dict[str, Any]) -> None:
    splits = split_rows(**data)

    def near(part: list[int], whole: list[int], rows: int, least: int = 1) -> None:
        """As many rows as its share, to within one; a label whose share is less has ``least``, which others give."""
        counts = Counter(data["labels"][row] for row in whole)
        of_part = Counter(data["labels"][row] for row in part)
        assert len(part) == rows
        shares = {label: Fraction(rows * count, len(whole)) for label, count in counts.items()}
        given = sum(max(0, math.ceil(least - share)) for share in shares.values())
        for label, share in shares.items():
            assert -1 - given < of_part[label] - share < max(1, least - share + 1)

    rest = splits.train + splits.dev + splits.unused
    sample = splits.train + splits.dev
    requested = data["settings"]
    near(splits.gate, splits.gate + rest, requested.gate_rows)
    near(sample, rest, len(rest) if data["size"] is None else data["size"], least=2)
    near(splits.dev, sample, max(1, round(requested.dev_fraction * len(sample))))
    assert requested.test_rows - 4 * len(set(data["labels"])) <= len(splits.test) <= requested.test_rows


@given(datasets(own_test=True))
@FEW
def test_an_own_evaluation_split_is_test_and_whole(data: dict[str, Any]) -> None:
    assert sorted(split_rows(**data).test) == [row for row, own in enumerate(data["own_test"]) if own]


@given(datasets(own_test=False))
@FEW
def test_copies_go_to_test_together(data: dict[str, Any]) -> None:
    splits = split_rows(**data)
    assert splits.seen_in_test == []
    counts = Counter(data["keys"])
    assert all(found == counts[key] for key, found in Counter(data["keys"][row] for row in splits.test).items())


@given(datasets(own_test=False), st.integers(1, 6))
@FEW
def test_test_lacks_no_more_than_copies_can_cost(data: dict[str, Any], copies: int) -> None:
    data = data | {name: data[name] * copies for name in ("keys", "labels", "own_test")}
    splits = split_or_skip(data)
    missing = data["settings"].test_rows - len(splits.test)
    assert 0 <= missing <= cost_of_copies(data["keys"], data["labels"], data["labels"])


def test_test_and_gate_are_the_same_for_every_draw_and_size() -> None:
    keys, labels = [f"text {n}" for n in range(400)], [n % 3 for n in range(400)]

    def split(size: int, draw: int) -> Splits:
        requested = SplitSettings(test_rows=50, gate_rows=50, draw=draw)
        return split_rows(keys, labels, [False] * 400, size=size, settings=requested)

    first = split(60, 0)
    assert (
        (split(120, 0).test, split(120, 0).gate) == (first.test, first.gate) == (split(60, 1).test, split(60, 1).gate)
    )
    assert set(split(60, 1).train) != set(first.train)
    assert set(first.train + first.dev) <= set(split(120, 0).train + split(120, 0).dev)  # a larger sample only adds


def test_more_rows_leave_most_of_test_as_it_was() -> None:
    keys, labels = [f"text {n}" for n in range(300)], [n % 2 for n in range(300)]
    requested = SplitSettings(test_rows=60, gate_rows=60)
    few = split_rows(keys[:250], labels[:250], [False] * 250, size=40, settings=requested)
    more = split_rows(keys, labels, [False] * 300, size=40, settings=requested)
    assert len(set(few.test) & set(more.test)) > 30


def test_too_few_rows_are_counted() -> None:
    keys, labels = [f"text {n}" for n in range(100)], [n % 2 for n in range(100)]
    requested = SplitSettings(test_rows=40, gate_rows=40)
    with pytest.raises(TooFewRows, match=r"gate \(40 rows\) and the sample \(30 rows\) need 70 rows.* 60 are left"):
        split_rows(keys, labels, [False] * 100, size=30, settings=requested)
    with pytest.raises(TooFewRows, match="test needs 40 rows, but there are only 30"):
        split_rows(keys[:30], labels[:30], [False] * 30, size=4, settings=requested)


@pytest.mark.parametrize(("rare", "gate_rows"), [(3, 0), (4, 20)])
def test_a_rare_label_is_in_every_split_where_it_can_be(rare: int, gate_rows: int) -> None:
    keys = [f"text {n}" for n in range(200)]
    labels = [int(n < rare) for n in range(200)]
    found = split_rows(
        keys, labels, [False] * 200, size=None, settings=SplitSettings(test_rows=20, gate_rows=gate_rows)
    )
    for name in ("train", "dev", "test", *(["gate"] if gate_rows else [])):
        assert sum(labels[row] for row in getattr(found, name)) == 1


@st.composite
def rare_labels(draw: Any) -> tuple[list[int], int | None, SplitSettings]:
    """Labels of which many are rare, and how they are divided."""
    counts = [draw(st.integers(150, 250)), 40, *draw(st.lists(st.integers(1, 8), min_size=2, max_size=30))]
    size = draw(st.one_of(st.none(), st.integers(2 * len(counts), 100)))
    requested = SplitSettings(
        test_rows=draw(st.integers(20, 40)), gate_rows=draw(st.sampled_from([0, 20])), draw=draw(st.integers(0, 3))
    )
    return [label for label, count in enumerate(counts) for _ in range(count)], size, requested


@given(rare_labels())
@FEW
def test_rare_labels_are_first_of_all_in_train_then_in_dev_then_in_test(
    data: tuple[list[int], int | None, SplitSettings],
) -> None:
    """Of so many rows of a label, in all, each split has one where it could; but any two labels are in each."""
    labels, size, requested = data
    found = split_rows(
        [f"text {n}" for n in range(len(labels))], labels, [False] * len(labels), size=size, settings=requested
    )
    counts = Counter(labels)
    of = {name: {labels[row] for row in getattr(found, name)} for name in SPLITS}
    assert of["train"] == set(counts)
    # Each of test and gate may take the second row of one label, so as to show two labels at all.
    in_dev = {label for label, count in counts.items() if count >= 2}
    if len(found.dev) >= len(in_dev) + 1:
        assert len(in_dev - of["dev"]) <= 2
    assert {label for label, count in counts.items() if count >= 3} <= of["test"] or len(found.test) < len(counts)
    if requested.gate_rows >= len(counts):
        assert {label for label, count in counts.items() if count >= 4} <= of["gate"]
    assert all(len(of[name]) >= 2 for name in ("test", *(["gate"] if requested.gate_rows else [])))


def test_train_keeps_a_row_of_every_label_of_many() -> None:
    keys = [f"text {n}" for n in range(60)]
    labels = [n % 30 for n in range(60)]  # two rows a label
    for draw in range(20):
        requested = SplitSettings(test_rows=20, gate_rows=0, draw=draw)
        found = split_rows(keys, labels, [False] * 60, size=None, settings=requested)
        assert {labels[row] for row in found.train} == set(range(30))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.data())
def test_quotas_sum_and_stay_within_one_of_the_exact_share(counts: list[int], data: Any) -> None:
    total = data.draw(st.integers(0, sum(counts)))
    shares = quotas(counts, total)
    assert sum(shares) == total
    for share, count in zip(shares, counts, strict=True):
        assert 0 <= share <= count
        assert sum(counts) == 0 or abs(share - Fraction(total * count, sum(counts))) < 1


@st.composite
def grouped(draw: Any) -> dict[str, Any]:
    """Rows in groups of 1 to 6; some texts stand in two groups, some contradict themselves."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=60, max_size=80))
    groups = [f"group {at}" for at, size in enumerate(sizes) for _ in range(size)]
    rows = len(groups)
    places = st.integers(0, rows - 1)
    keys = [f"text {at}" for at in range(rows)]
    for one, other in draw(st.lists(st.tuples(places, places), max_size=8)):
        keys[one] = keys[other]
    own_groups = draw(st.sets(st.sampled_from(sorted(set(groups))), min_size=1, max_size=5))
    has_own = draw(st.booleans())
    return {
        "keys": keys,
        "labels": [draw(st.integers(0, 1)) for _ in range(rows)],
        "own_test": [has_own and group in own_groups for group in groups],
        "groups": groups,
        "size": draw(st.one_of(st.none(), st.integers(40, 50))),
        "settings": SplitSettings(test_rows=20, gate_rows=20, dev_fraction=0.2, draw=draw(st.integers(0, 3))),
    }


def split_or_skip(data: dict[str, Any]) -> Splits:
    """The splits; data that is too little is no case."""
    try:
        return split_rows(**data)
    except TooFewRows:
        assume(False)
        raise


@given(grouped())
@FEW
def test_no_group_is_ever_torn(data: dict[str, Any]) -> None:
    splits = split_or_skip(data)
    groups = {name: {data["groups"][row] for row in getattr(splits, name)} for name in (*SPLITS, "unused")}
    for name, of_split in groups.items():
        assert not any(of_split & other for also, other in groups.items() if also != name)
    everywhere = [row for name in (*SPLITS, *REASONS) for row in getattr(splits, name)]
    assert sorted(everywhere) == list(range(len(data["keys"])))
    texts = {name: {data["keys"][row] for row in getattr(splits, name)} for name in SPLITS}
    assert not any(texts[one] & texts[other] for one in SPLITS for other in SPLITS if one != other)


@given(grouped(), st.randoms(use_true_random=False))
@FEW
def test_the_order_of_grouped_rows_changes_nothing(data: dict[str, Any], random: Any) -> None:
    # A copy of a text is told from the others by its group, which preparation sorts by; here every text stands once.
    data = data | {"keys": [f"text {at}" for at in range(len(data["keys"]))]}
    order = list(range(len(data["keys"])))
    random.shuffle(order)
    shuffled = data | {name: [data[name][row] for row in order] for name in ("keys", "labels", "own_test", "groups")}
    one, other = split_or_skip(data), split_or_skip(shuffled)
    assert by_text(other, shuffled) == by_text(one, data)


@given(grouped())
@FEW
def test_groups_fill_a_split_but_for_less_than_one(data: dict[str, Any]) -> None:
    splits = split_or_skip(data)
    assert 20 - 6 < len(splits.gate) <= 20
    sample = len(splits.train) + len(splits.dev)
    if data["size"] is not None:
        assert data["size"] - 6 < sample <= data["size"]
    wanted = round(0.2 * sample)
    assert wanted - 6 < len(splits.dev) <= wanted


def test_a_larger_sample_of_groups_only_adds() -> None:
    keys, groups = [f"text {n}" for n in range(400)], [f"group {n // 4}" for n in range(400)]
    requested = SplitSettings(test_rows=40, gate_rows=40)

    def sample(size: int) -> set[int]:
        found = split_rows(keys, [0] * 400, [False] * 400, size=size, settings=requested, groups=groups)
        return {*found.train, *found.dev}

    assert sample(60) < sample(120)


def test_a_group_larger_than_a_split_is_taken_alone() -> None:
    keys, groups = [f"text {n}" for n in range(250)], [f"group {n // 50}" for n in range(250)]
    found = split_rows(keys, [0] * 250, [False] * 250, size=None, settings=SplitSettings(), groups=groups)
    assert found.requested == SplitSizes(test_rows=50, gate_rows=50)
    assert {name: len(getattr(found, name)) for name in SPLITS} == {"train": 100, "dev": 50, "gate": 50, "test": 50}


def test_a_group_larger_than_a_split_is_said() -> None:
    keys, groups = [f"text {n}" for n in range(300)], [f"group {n // 100}" for n in range(300)]
    with pytest.raises(TooFewRows, match="too few groups are left for dev: rows of one group stay together"):
        own = [n < 100 for n in range(300)]
        split_rows(keys, [0] * 300, own, size=100, settings=SplitSettings(gate_rows=30), groups=groups)


def test_groups_without_a_gate_leave_it_empty() -> None:
    keys, groups = [f"text {n}" for n in range(200)], [f"group {n // 4}" for n in range(200)]
    requested = SplitSettings(test_rows=40, gate_rows=0)
    found = split_rows(keys, [0] * 200, [False] * 200, size=60, settings=requested, groups=groups)
    assert {name: len(getattr(found, name)) for name in SPLITS} == {"train": 48, "dev": 12, "gate": 0, "test": 40}


def test_a_group_that_does_not_fit_is_passed_over_for_the_next() -> None:
    # One group of 70 rows beside 130 of one row each: wherever it comes in the order, the small ones fill the splits.
    keys = [f"text {n}" for n in range(200)]
    for name in range(20):
        groups = [f"large {name}" if n < 70 else f"group {n}" for n in range(200)]
        requested = SplitSettings(test_rows=30, gate_rows=30)
        found = split_rows(keys, [0] * 200, [False] * 200, size=50, settings=requested, groups=groups)
        assert {split: len(getattr(found, split)) for split in SPLITS} == {
            "train": 40, "dev": 10, "gate": 30, "test": 30
        }  # fmt: skip


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_tenths_follow_the_order_of_the_values(values: list[float]) -> None:
    strata = deciles(values)
    assert all(0 <= stratum <= 9 for stratum in strata)
    pairs = sorted(zip(values, strata, strict=True))
    assert [stratum for _, stratum in pairs] == sorted(strata)
    assert len(set(pairs)) == len(set(values))  # equal values are in the same
    for value, stratum in pairs:
        below = sum(other < value for other in values)
        assert stratum == math.floor(Fraction(10 * below, len(values)))
