"""What the methods of one call share: the encoded rows, where heads start, frozen features, what is inert."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from torch import Tensor

from beft.bank.bank import Bank
from beft.datasets.prepared import Split
from beft.encoding.examples import LabelledRows, Predictions
from beft.evaluation.records import MetricScore
from beft.evaluation.scores import Method, evaluate_methods
from beft.inference.features import Floats, extract_features
from beft.inference.predictions import as_metric_takes, predict_rows, predicting_as, problem_type_on_dev
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute
from beft.sites.site import BiasSite
from beft.training.head_start import head_start
from beft.training.probe import inert_components
from beft.training.sample import Sample
from beft.training.session import Session
from beft.training_settings import TrainingSettings


class Common:
    """Each thing is made when it is first needed, once.

    Args:
        session: The base and the dataset.
        splits: What is predicted.
        progress: Takes one line of text at a time.
    """

    def __init__(self, session: Session, splits: Sequence[Split], progress: Callable[[str], None]) -> None:
        self.session, self.progress = session, progress
        self.classifier, self.settings = session.classifier, session.settings
        self._splits = tuple(splits)
        self._starts: dict[tuple[int, bool, str], dict[str, Tensor]] = {}
        self._inert: dict[BiasSite, Tensor] = {}
        self._features: dict[str, tuple[dict[str, Floats], float]] = {}

    @cached_property
    def sample(self) -> Sample:
        """The rows that may be learnt from."""
        return self.session.sample

    @cached_property
    def rows(self) -> dict[str, LabelledRows]:
        """The rows that are predicted, by split."""
        return {split: self.session.rows(split) for split in self._splits}

    @cached_property
    def head(self) -> tuple[str, ...]:
        """Names of the head's trained parameters."""
        settings = self.settings
        return self.classifier.head_parameters("paper" if settings.protocol == "paper" else settings.head.train)

    @cached_property
    def model_parameters(self) -> int:
        """Parameters of the model, head included."""
        return sum(parameter.numel() for parameter in self.classifier.model.parameters())

    def head_start(self, seed: int, training: TrainingSettings) -> dict[str, Tensor]:
        """Where the head starts under a seed: as it is drawn, but for what ``head_start`` of the training names.

        Args:
            training: What is trained from there, its loss named.
        """
        key = seed, training.contrastive, training.class_weights  # all that ``head_start`` reads of a training
        if key not in self._starts:
            drawn = self.drawn_head(seed)
            with Bank(self.classifier.model, {}, drawn):  # what lies under the output layer is of the seed as well
                settings = self.settings.model_copy(update={"seed": seed})
                named = head_start(self.classifier, self.sample, settings, training)
            self._starts[key] = drawn | named
        return self._starts[key]

    def drawn_head(self, seed: int) -> dict[str, Tensor]:
        """The head as a seed draws it; nothing where it is the one that the model has, or is in the base's files."""
        if seed == self.settings.seed or not set(self.head) & set(self.classifier.newly_initialized):
            return {}
        named = dict(self._loaded(seed).model.named_parameters())
        return {name: named[name].detach().clone() for name in self.head}

    def _loaded(self, seed: int) -> Classifier:
        reference = self.classifier.reference
        assert reference is not None  # what was session came from somewhere
        return load_classifier(
            reference,
            self.classifier.labels,
            compute=resolve_compute(self.settings.base),
            pooling=self.settings.head.pooling,
            seed=seed,
            problem_type=self.classifier.problem_type,
        )

    def inert(self, sites: Sequence[BiasSite]) -> Mapping[BiasSite, Tensor]:
        """Which components of the sites are inert; under ``protocol: paper`` nobody asks."""
        missing = [site for site in sites if site not in self._inert]
        if missing:
            self.progress(f"measuring which of {len(missing)} bias sites are inert")
            encoded = self.sample.train.encoded
            self._inert |= inert_components(self.classifier, missing, encoded, self.settings.seed)
        return {site: self._inert[site] for site in sites}

    @cached_property
    def searches_head(self) -> bool:
        """Whether head_only is searched for on features, which is cheap and as wide as the target's search.

        It cannot be where there is no dev split, or more than the output layer is trained: it is a run like others
        then.
        """
        output = set(self.classifier.head_parameters("output"))
        return self.classifier.problem_type.has_head and self.sample.dev is not None and set(self.head) == output

    @property
    def classifies(self) -> bool:
        """Whether it is labels that are predicted, by a head."""
        return self.classifier.problem_type.name == "classification"

    def features(self, kind: Literal["pooled", "head"]) -> tuple[dict[str, Floats], float]:
        """The frozen base's features of train, dev and all splits; and the seconds that they took to make."""
        kind = "pooled" if self.classifier.head_sees_pooled else kind  # the head then sees the same
        if kind not in self._features:
            began = time.perf_counter()
            parts: dict[str, LabelledRows] = {"train": self.sample.train, **self.rows}
            if self.sample.dev is not None:
                parts["dev"] = self.sample.dev
            tokens = self.settings.evaluate.batch_tokens
            found = {
                name: extract_features(self.classifier, rows.encoded, kind, batch_tokens=tokens).double().numpy()
                for name, rows in parts.items()
            }
            self._features[kind] = found, time.perf_counter() - began
        return self._features[kind]

    def predict(self) -> dict[str, Predictions]:
        """What the classifier, with whatever is attached to it, predicts on every split; thresholds are dev's."""
        tokens, classifier = self.settings.evaluate.batch_tokens, self.classifier
        with predicting_as(classifier, problem_type_on_dev(classifier, self.sample.dev, batch_tokens=tokens)):
            return {split: predict_rows(classifier, rows, batch_tokens=tokens) for split, rows in self.rows.items()}

    def scores(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, MetricScore]]:
        """Split -> metric of the dataset -> its value with an interval over the rows."""
        return {
            split: {metric: self._score(metric, predictions[split], rows) for metric in self.session.metrics}
            for split, rows in self.rows.items()
        }

    def _score(self, metric: str, predictions: Predictions, rows: LabelledRows) -> MetricScore:
        found = evaluate_methods(
            {"method": Method({"split": as_metric_takes(metric, predictions, rows)})},
            {"split": rows.truth},
            target="method",
            baselines=[],
            metrics=[metric],
            settings=self.settings.evaluate,
            seed=self.settings.seed,
        )
        return found.splits["split"].scores["method"][metric]
