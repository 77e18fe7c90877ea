"""The laws of the splits, on rows of every shape."""

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beft.datasets.splitting import Splits, TooFewRows, quotas, split_rows
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

    def near(part: list[int], whole: list[int], rows: int) -> None:
        counts = Counter(data["labels"][row] for row in whole)
        of_part = Counter(data["labels"][row] for row in part)
        assert len(part) == rows
        for label, count in counts.items():
            assert abs(Fraction(rows * count, len(whole)) - of_part[label]) < 1

    rest = splits.train + splits.dev + splits.unused
    sample = splits.train + splits.dev
    asked = data["settings"]
    near(splits.gate, splits.gate + rest, asked.gate_rows)
    near(sample, rest, len(rest) if data["size"] is None else data["size"])
    near(splits.dev, sample, max(1, round(asked.dev_fraction * len(sample))))
    assert asked.test_rows - 4 * len(set(data["labels"])) <= len(splits.test) <= asked.test_rows


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


def test_test_and_gate_are_the_same_for_every_draw_and_size() -> None:
    keys, labels = [f"text {n}" for n in range(400)], [n % 3 for n in range(400)]

    def split(size: int, draw: int) -> Splits:
        asked = SplitSettings(test_rows=50, gate_rows=50, draw=draw)
        return split_rows(keys, labels, [False] * 400, size=size, settings=asked)

    first = split(60, 0)
    assert (
        (split(120, 0).test, split(120, 0).gate) == (first.test, first.gate) == (split(60, 1).test, split(60, 1).gate)
    )
    assert set(split(60, 1).train) != set(first.train)
    assert set(first.train + first.dev) <= set(split(120, 0).train + split(120, 0).dev)  # a larger sample only adds


def test_more_rows_leave_most_of_test_as_it_was() -> None:
    keys, labels = [f"text {n}" for n in range(300)], [n % 2 for n in range(300)]
    asked = SplitSettings(test_rows=60, gate_rows=60)
    few = split_rows(keys[:250], labels[:250], [False] * 250, size=40, settings=asked)
    more = split_rows(keys, labels, [False] * 300, size=40, settings=asked)
    assert len(set(few.test) & set(more.test)) > 30


def test_too_few_rows_are_counted() -> None:
    keys, labels = [f"text {n}" for n in range(100)], [n % 2 for n in range(100)]
    asked = SplitSettings(test_rows=40, gate_rows=40)
    with pytest.raises(TooFewRows, match=r"gate \(40 rows\) and the sample \(30 rows\) need 70 rows.* 60 are left"):
        split_rows(keys, labels, [False] * 100, size=30, settings=asked)
    with pytest.raises(TooFewRows, match="test needs 40 rows, but there are only 30"):
        split_rows(keys[:30], labels[:30], [False] * 30, size=4, settings=asked)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.data())
def test_quotas_sum_and_stay_within_one_of_the_exact_share(counts: list[int], data: Any) -> None:
    total = data.draw(st.integers(0, sum(counts)))
    shares = quotas(counts, total)
    assert sum(shares) == total
    for share, count in zip(shares, counts, strict=True):
        assert 0 <= share <= count
        assert sum(counts) == 0 or abs(share - Fraction(total * count, sum(counts))) < 1
