"""Adapters and baselines on the same rows: every metric with an interval, and the target's gain over each baseline."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beft.adapters.adapter import Adapter
from beft.comparison.baselines.cheap import Baselines, cheap_baselines, predict_splits, predict_without_biases
from beft.datasets.prepared import Split
from beft.encoding.examples import LabelledRows, Predictions
from beft.evaluation.records import Cost, Evaluation, Gain, MetricScore, SplitEvaluation
from beft.evaluation.scores import Method, evaluate_methods
from beft.metrics.registry import known_metric
from beft.names import known_name
from beft.tables import Column, ScoreInterval, Table
from beft.training.session import Session

log = logging.getLogger("beft.comparison")

FitBaselines = Callable[[Session, Mapping[str, LabelledRows]], Baselines]
"""From a session and its encoded rows by split to fitted baselines."""


@dataclass(frozen=True, eq=False, repr=False)
class AdapterEvaluation:
    """Adapters and baselines, evaluated on the same rows.

    Attributes:
        evaluation: Scores by split, method and metric, and the gains of the target over each baseline.
        predictions: Method -> split -> what it predicted, as the headline metric takes it.
        tuning: How each baseline that has settings of its own was chosen, as JSON.
        rows: The encoded rows by split.
        without_biases: What the target's head predicts of test over the frozen base; None where it was not at hand.
        fewer_rows: Baselines that learnt from train alone, where the target learnt from dev as well.
    """

    evaluation: Evaluation
    predictions: Mapping[str, Mapping[str, Predictions]]
    tuning: Mapping[str, Any]
    rows: Mapping[str, LabelledRows]
    without_biases: Predictions | None = None
    fewer_rows: tuple[str, ...] = ()

    def score(self, method: str | None = None, *, split: str = "test", metric: str | None = None) -> MetricScore:
        """A score with its interval; by default the target's headline metric on test.

        Raises:
            InputError: The method, the split or the metric was not evaluated.
        """
        of_split = self._split(split)
        name = known_name(method or self.evaluation.target, of_split.scores, "evaluated method")
        return of_split.scores[name][self._metric(metric)]

    def gain(self, baseline: str, *, split: str = "test", metric: str | None = None) -> Gain:
        """The gain of the target over a baseline, with its interval; by default by the headline metric on test.

        Raises:
            InputError: The baseline, the split or the metric was not evaluated.
        """
        of_split = self._split(split)
        return of_split.gains[known_name(baseline, of_split.gains, "evaluated baseline")][self._metric(metric)]

    def _split(self, split: str) -> SplitEvaluation:
        return self.evaluation.splits[known_name(split, self.evaluation.splits, "evaluated split")]

    def _metric(self, metric: str | None) -> str:
        metrics = self.evaluation.metrics
        return metrics[0] if metric is None else known_name(metric, metrics, "metric of this dataset")

    def table(self, split: str = "test") -> Table:
        """A row a method: its metrics, and by how much the target is better by the headline metric."""
        found = self.evaluation
        of_split, headline = found.splits[split], found.metrics[0]
        rows = []
        for method, scores in of_split.scores.items():
            gain = of_split.gains[method][headline] if method in of_split.gains else None
            cells = [ScoreInterval(one.value, one.low, one.high) for one in (scores[name] for name in found.metrics)]
            rows.append((method, *cells, None if gain is None else ScoreInterval(gain.difference, gain.low, gain.high)))
        return Table(
            title=f"{of_split.rows:,} {split} rows",
            columns=[
                "method",
                *(Column(name, digits=3) for name in found.metrics),
                Column(f"gain of {found.target} in {headline}", digits=3, signed=True),
            ],
            rows=rows,
            notes=[
                f"In brackets: {100 * found.confidence:g} % intervals, by {found.resamples:,} resamples of the rows.",
                *self._note_of_rows(),
            ],
        )

    def _note_of_rows(self) -> list[str]:
        if not self.fewer_rows:
            return []
        return [
            f"{self.evaluation.target} was trained on the rows of dev too; on train alone, with dev to choose their "
            f"epoch or settings: {', '.join(self.fewer_rows)}. Part of the gain over these may come from more rows."
        ]

    def __repr__(self) -> str:
        return "\n".join(str(self.table(split)) for split in self.evaluation.splits)


def evaluate_adapters(
    session: Session,
    adapters: Mapping[str, Adapter],
    *,
    target: str,
    splits: Sequence[Split] = ("test",),
    fit_baselines: FitBaselines = cheap_baselines,
    costs: Mapping[str, Cost] | None = None,
) -> AdapterEvaluation:
    """Evaluate adapters and baselines on the same rows.

    Where the target learnt from dev as well, the cheap baselines do so too.

    Args:
        adapters: By the names of methods; the target is evaluated on every split, the others on test.
        target: The adapter whose gains are computed.
        splits: ``test``, and ``gate`` where a promotion is decided.
        fit_baselines: Gives the baselines; by default the cheap ones of the problem type.
        costs: What the adapters' trainings took.

    Raises:
        InputError: An adapter does not fit the base.
    """
    learns_from_dev = _learns_from_dev(session, adapters[target])
    if learns_from_dev:
        rows: dict[str, LabelledRows] = {"train": session.whole_sample.train}
    else:
        learnt: tuple[Split, ...] = ("train", "dev")
        rows = {split: session.rows(split) for split in learnt}
    rows |= {split: session.rows(split) for split in splits}
    found = fit_baselines(session, rows)
    compared, predictions = list(found.predictions), dict(found.predictions)
    for name, adapter in adapters.items():
        of_adapter = splits if name == target else ("test",)
        own = session.with_pooling(adapter.pooling)
        own_rows: Mapping[str, LabelledRows] = rows
        if own is not session:
            own_rows = {split: own.rows(split) for split in of_adapter}
        with adapter.attached(own.classifier):
            predictions[name] = predict_splits(own, own_rows, of_adapter, "+".join(adapter.terms))
    log.info("evaluate: %d resamples", session.settings.evaluate.resamples)
    evaluation = _evaluate(session, rows, splits, predictions, target, compared, {**found.costs, **(costs or {})})
    tuning = {name: fitted.to_json() for name, fitted in found.fitted.items()}
    without_biases = predict_without_biases(session, adapters[target], found.head_features, rows, "test")
    paper = adapters[target].provenance.get("protocol", session.settings.protocol) == "paper"
    fewer_rows = tuple(found.chosen_on_dev) if learns_from_dev or paper else ()
    return AdapterEvaluation(evaluation, predictions, tuning, rows, without_biases, fewer_rows)


def _learns_from_dev(session: Session, target: Adapter) -> bool:
    """Whether the target was trained on the rows of dev beside those of train; protocol paper aside.

    A training records it; for what records none, a merge say, it is as the settings have it.
    """
    if "training" not in target.provenance:
        return session.learns_from_dev
    return bool(target.provenance.get("learns_from_dev"))


def cost_of(facts: Mapping[str, Any]) -> Cost:
    """The cost of a training from the facts of ``TrainingResult.cost``, which say more."""
    return Cost(**{name: facts[name] for name in Cost.model_fields})


def _evaluate(
    session: Session,
    rows: Mapping[str, LabelledRows],
    splits: Sequence[str],
    predictions: Mapping[str, Mapping[str, Predictions]],
    target: str,
    baselines: Sequence[str],
    costs: Mapping[str, Cost],
) -> Evaluation:
    by_split = [
        evaluate_methods(
            {
                name: Method({split: of_method[split]}, costs.get(name))
                for name, of_method in predictions.items()
                if split in of_method
            },
            {split: rows[split].truth},
            target=target,
            baselines=baselines,
            metrics=_metrics(session),
            settings=session.settings.evaluate,
            seed=session.settings.seed,
        )
        for split in splits
    ]
    merged = {name: of_split for one in by_split for name, of_split in one.splits.items()}
    return by_split[0].model_copy(update={"splits": merged})


def _metrics(session: Session) -> list[str]:
    """The dataset's metrics that take what its first one takes; of labels, those that are usual beside them."""
    further: tuple[str, ...] = ()
    if labels := len(session.classifier.labels):
        further = ("accuracy", "f1", "matthews") if labels == 2 else ("accuracy", "macro_f1")
        further += ("micro_f1", "multi_label_macro_f1", "subset_accuracy")  # of several labels a row
        further += ("entity_f1", "entity_precision", "entity_recall")  # of spans
    takes = known_metric(session.metric).takes
    named = dict.fromkeys((*session.metrics, *further))
    return [name for name in named if known_metric(name).takes == takes]
