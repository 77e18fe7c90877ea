"""False alarms of `beft monitor` on unchanged data, and how often it sees three made shifts: `make drift`.

Rows of Rotten Tomatoes that are in no split stand for traffic; the adapter is that of the default recipe. Each look
draws other rows. The shifts: labels (nine tenths of the rows are positive), topic (half of the rows are reviews
of IMDB), typing errors (a tenth of the letters is replaced). Writes benchmarks/operations/drift.json and .md.
"""

import argparse
import logging
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from beft.datasets.prepared import PreparedData, Rows, load_split
from beft.files import write_json, write_text
from beft.inference.features import extract_features
from beft.inference.predictions import predict_rows
from beft.inference.predictor import Predictor
from beft.serving.reference import DriftReference, unknown_shares
from beft.settings import DatasetSettings, Settings, SplitSettings
from beft.training.opening import open_session
from benchmarks.common import machine
from benchmarks.common.prepared import prepared_data
from tasks.serving.monitoring import MonitorRules, compare_traffic

HERE = Path(__file__).parent
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ROWS = (200, 500)
_FEWER = 5
"""A shift that is seen takes every permutation in each look, and is seen in nearly all: fewer looks tell it."""
log = logging.getLogger("beft.bench")


def misspelled(text: str, draw: random.Random) -> str:
    """A text with a tenth of its letters replaced."""
    return "".join(draw.choice(LETTERS) if one.isalpha() and draw.random() < 0.1 else one for one in text)


def answered(predictor: Predictor, rows: Rows) -> tuple[pd.DataFrame, np.ndarray]:
    """What a server keeps of rows: a table as the answers have it, and the features of the base."""
    classifier, adapter = predictor.classifier, predictor.adapter
    examples = classifier.examples(rows, adapter.max_length)
    predicted = np.asarray(predict_rows(classifier, examples))
    with predictor.without_adapter():
        features = extract_features(classifier, examples.encoded, "pooled").numpy().astype("<f2")
    lengths = examples.encoded.lengths
    unknown = unknown_shares(examples, classifier.tokenizer.unk_token_id) * lengths
    table = pd.DataFrame(
        {
            "predicted": [adapter.labels[at] for at in predicted.argmax(-1)],
            "confidence": predicted.max(-1),
            "value": None,
            "tokens": lengths,
            "unknown_tokens": unknown.round().astype(int),
            "true": rows.labels,
        }
    )
    return table, features


def rates(
    predictor: Predictor,
    reference: DriftReference,
    draw: Callable[[np.random.Generator, int], tuple[pd.DataFrame, np.ndarray]],
    rows: int,
    looks: int,
    rules: MonitorRules,
) -> dict[str, float]:
    """The share of looks in which each test, and any of them, raises the alarm."""
    counts: dict[str, int] = {"any": 0}
    for number in range(looks):
        table, features = draw(np.random.default_rng([rows, number]), rows)
        tests = compare_traffic(reference, table, features, predictor.labels, rules, seed=number)
        for test, raised in tests:
            counts[test.name] = counts.get(test.name, 0) + raised
        counts["any"] += any(raised for _, raised in tests)
    return {name: count / looks for name, count in counts.items()}


def table(about: dict[str, Any], found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    few, many = 100 * np.array(binom.interval(0.95, about["looks"], about["one_look_alpha"])) / about["looks"]
    names = ["any", *(name for name in next(iter(found.values())) if name != "any")]
    lines = [
        "# Drift: false alarms and power",
        "",
        f"`make drift`, {about['date']}; {about['cpu']}. Rotten Tomatoes, the default recipe; traffic is drawn from "
        f"rows that are in no split. {about['looks']} looks a line without a shift, a fifth with one. A look at alpha "
        f"may raise a false alarm with that probability: {about['one_look_alpha']} tests the rate (in so many looks "
        f"such a rate is measured as {few:.0f} to {many:.0f} % with a probability of 95 %), {about['alpha']:.1e} "
        "is what `beft monitor` uses (5 % over 720 looks).",
        "",
        f"| traffic, alpha, rows a look | {' | '.join('alarm' if name == 'any' else name for name in names)} |",
        f"|---|{'---|' * len(names)}",
        *(
            f"| {case} | {' | '.join(f'{100 * one.get(name, 0):.1f} %' for name in names)} |"
            for case, one in found.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=200)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(datasets={"rotten_tomatoes": DatasetSettings(size="low")})
    spare = SplitSettings(test_rows=5000, gate_rows=20, draw=1)
    with prepared_data("rotten_tomatoes", "low", settings.split) as prepared:
        session = open_session(settings, PreparedData.from_folder(prepared))
        result = session.train(["value"], progress=log.debug)
        with tempfile.TemporaryDirectory(prefix="beft-drift-") as folder:
            result.adapter.save(Path(folder) / "adapter")
            predictor = Predictor(Path(folder) / "adapter", base=settings.base.source)
        train, dev = load_split(prepared, "train"), load_split(prepared, "dev")
        used = {row for split in ("train", "dev", "test", "gate") for row in load_split(prepared, split).ids}
    reference = DriftReference.of(predictor, train, dev)
    with prepared_data("rotten_tomatoes", "low", spare) as prepared:
        others = load_split(prepared, "test")
        others = others.select([at for at, row in enumerate(others.ids) if row not in used])
    with prepared_data("imdb", "low", SplitSettings(draw=1)) as prepared:
        foreign = load_split(prepared, "test").select(range(400))
    letters = random.Random(0)
    wrong = replace(others, texts=[misspelled(text, letters) for text in others.texts])
    usual, misspelt, elsewhere = (answered(predictor, rows) for rows in (others, wrong, foreign))

    def taken(of: tuple[pd.DataFrame, np.ndarray], places: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
        return of[0].iloc[places], of[1][places]

    def unchanged(draw: np.random.Generator, rows: int) -> tuple[pd.DataFrame, np.ndarray]:
        return taken(usual, draw.choice(len(usual[0]), rows, replace=False))

    def labels(draw: np.random.Generator, rows: int) -> tuple[pd.DataFrame, np.ndarray]:
        share = np.where(usual[0]["true"] == 1, 0.9, 0.1)
        return taken(usual, draw.choice(len(usual[0]), rows, replace=False, p=share / share.sum()))

    def topic(draw: np.random.Generator, rows: int) -> tuple[pd.DataFrame, np.ndarray]:
        half = rows // 2
        one = taken(usual, draw.choice(len(usual[0]), rows - half, replace=False))
        two = taken(elsewhere, draw.choice(len(elsewhere[0]), half, replace=False))
        return pd.concat([one[0], two[0]]), np.concatenate([one[1], two[1]])

    def typing(draw: np.random.Generator, rows: int) -> tuple[pd.DataFrame, np.ndarray]:
        return taken(misspelt, draw.choice(len(misspelt[0]), rows, replace=False))

    of_a_month, of_one_look = MonitorRules(), MonitorRules(false_alarms=0.05, looks=1)
    found = {}
    for name, draw, rules in (
        ("unchanged", unchanged, of_one_look),
        ("unchanged", unchanged, of_a_month),
        ("labels", labels, of_a_month),
        ("topic", topic, of_a_month),
        ("typing errors", typing, of_a_month),
    ):
        for rows in ROWS:
            case = f"{name}, {rules.alpha:.1e}, {rows}"
            looks = options.looks if draw is unchanged else options.looks // _FEWER
            found[case] = rates(predictor, reference, draw, rows, looks, rules)
            log.info("%s: %s", case, found[case])
    about = {
        **machine.describe(predictor.compute),
        "looks": options.looks,
        "alpha": of_a_month.alpha,
        "one_look_alpha": of_one_look.alpha,
        "spare": len(others),
    }
    write_json(options.out / "drift.json", {"about": about, "found": found})
    write_text(options.out / "drift.md", table(about, found))


if __name__ == "__main__":
    main()
