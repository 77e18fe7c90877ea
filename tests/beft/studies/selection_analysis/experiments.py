"""Records of experiments as the tests need them: made by hand, drawn at random, or drawn by hypothesis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from beft.studies.selection_analysis.records import TermRecord

TERMS = ("query", "key", "value")


def cell_records(
    scores: Mapping[str, Sequence[float | None]],
    values: Mapping[str, Sequence[float | None]],
    *,
    method: str = "projection_ratio",
    **fields: Any,
) -> list[TermRecord]:
    """One cell by one method: term -> its score and its value in each seed."""
    return [
        TermRecord(
            **{"dataset": "sst2", **fields},
            seed=seed,
            term=term,
            importance={method: score},
            value=values[term][seed] if term in values else None,
        )
        for term, of in scores.items()
        for seed, score in enumerate(of)
    ]


def drawn_records(
    datasets: Sequence[str] = ("cola", "rte", "sst2"),
    regimes: Sequence[str] = ("low", "high"),
    seeds: int = 4,
    terms: Sequence[str] = TERMS,
    methods: Sequence[str] = ("fisher", "magnitude"),
    seed: int = 0,
    **fields: Any,
) -> list[TermRecord]:
    """Cells of random scores and values."""
    generator = np.random.default_rng(seed)
    return [
        TermRecord(
            dataset=dataset,
            regime=regime,
            seed=one,
            term=term,
            importance={method: float(generator.uniform()) for method in methods},
            value=float(generator.uniform()),
            dev_value=float(generator.uniform()),
            **fields,
        )
        for dataset in datasets
        for regime in regimes
        for one in range(seeds)
        for term in terms
    ]


@st.composite
def experiments(draw: st.DrawFn, seeds: int | None = None) -> list[TermRecord]:
    """One or more cells with ties, each with at least one score over zero a seed."""
    # Few distinct numbers, so that ties come up.
    number = st.integers(1, 6).map(lambda whole: whole / 8)
    records = []
    terms = draw(st.lists(st.sampled_from(TERMS), min_size=2, max_size=3, unique=True))
    for dataset in draw(
        st.lists(st.sampled_from(["cola", "mrpc", "rte", "sst2"]), min_size=1, max_size=4, unique=True)
    ):
        for seed in range(seeds or draw(st.integers(1, 4))):
            records += [
                TermRecord(
                    dataset=dataset, seed=seed, term=term, importance={"magnitude": draw(number)}, value=draw(number)
                )
                for term in terms
            ]
    return records
