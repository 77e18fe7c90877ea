"""A base loaded for one dataset: what is probed, trained and predicted on it, under one set of settings."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.datasets.prepared import PreparedData, Split
from beft.encoding.examples import LabelledRows, Predictions
from beft.encoding.prompted import encode_prompts
from beft.errors import InputError
from beft.inference.predictions import as_metric_takes, predict_rows, problem_type_on_dev
from beft.inference.runs import RunResult
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute
from beft.models.heads.mask_head import load_mask_head
from beft.models.tokenizer_loading import check_known, check_token_ids
from beft.names import known_name
from beft.problems.candidates import Candidates
from beft.problems.choosing import check_learns_from_dev, check_loss
from beft.problems.class_weights import check_class_weights
from beft.problems.problem_type import ProblemType
from beft.settings import TERMS, Settings
from beft.sites.site import BiasSite
from beft.training.automatic.folds import can_divide, check_divisible
from beft.training.automatic.search import Prompted, search_and_train
from beft.training.head_start import label_word_outputs
from beft.training.probe import run_probe
from beft.training.rate_share import rate_share
from beft.training.results import Probe, TrainingResult
from beft.training.sample import Sample, learnt_rows, make_sample, settings_of
from beft.training.target import Progress, train_terms
from beft.training_settings import MIN_CONTRASTIVE_BATCH, Loss, ProbeSettings, TrainingSettings

log = logging.getLogger("beft.training.session")


@dataclass(frozen=True, eq=False)
class Session:
    """A base loaded for one dataset; ``beft.training.opening.open_session`` makes one.

    Every method leaves the base bit for bit as it was.
    """

    classifier: Classifier
    settings: Settings
    data: PreparedData

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return self.data.name

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of the dataset: the content of ``data.json``."""
        return self.data.facts

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut to."""
        return self.settings.datasets[self.dataset].max_length

    @property
    def metric(self) -> str:
        """The dataset's headline metric."""
        return self.data.metric

    @property
    def metrics(self) -> tuple[str, ...]:
        """The dataset's metrics, the headline first."""
        return tuple(dict.fromkeys((self.metric, *self.facts.get("metrics", ()))))

    @property
    def problem_type(self) -> ProblemType:
        """The problem type of the dataset on this base."""
        return self.classifier.problem_type

    @cached_property
    def sample(self) -> Sample:
        """The rows that may be learnt from, encoded when they are first needed.

        Raises:
            InputError: The base has no embedding for a token of theirs, or its tokenizer knows hardly any of them.
        """
        sample = make_sample(
            self.classifier,
            self.data.rows("train"),
            self.data.rows("dev"),
            max_length=self.max_length,
            metric=self.metric,
            protocol=self.settings.protocol,
        )
        check_known(self.classifier.tokenizer, sample.train.encoded, f"the rows of {self.dataset} to learn from")
        return sample

    @cached_property
    def whole_sample(self) -> Sample:
        """The rows of train and dev together, all in train: what ``train.method: auto`` divides by itself.

        Raises:
            InputError: As ``sample``.
        """
        rows = self.data.rows("train"), self.data.rows("dev")
        return make_sample(self.classifier, *rows, max_length=self.max_length, metric=self.metric, protocol="paper")

    @cached_property
    def learns_from_dev(self) -> bool:
        """Whether the target is trained on the rows of dev as well, for nothing is chosen with them.

        So it is under ``train.method: auto``, which divides all rows by itself, and unless ``train.learn_from_dev``
        says something else of a contrastive training at one learning rate: its last epoch counts. The baselines are
        then fitted on all rows too, by cross-validation.

        Raises:
            InputError: ``train.learn_from_dev`` is true, and the problem type or the rows are not made for it.
        """
        settings = self.settings.train
        if settings.method == "auto" or self.settings.protocol == "paper":
            return settings.method == "auto"
        if settings.learn_from_dev:
            check_learns_from_dev(self.settings, self.problem_type.name)
            check_divisible(self.whole_sample.train)
        if settings.learn_from_dev is not None:
            return settings.learn_from_dev
        training = self.training(settings)
        chosen = bool(training.learning_rates) or self.problem_type.has_thresholds
        return training.contrastive and not chosen and can_divide(self.whole_sample.train)

    @cached_property
    def rate_share(self) -> float:
        """How much of the usual learning rate suits the base; 1 under ``protocol: paper``.

        Raises:
            InputError: The base has no embedding for a token of its tokenizer.
        """
        if self.settings.protocol == "paper":
            return 1.0
        share = rate_share(self.classifier)
        if share < 1:
            log.info("the learning rate is %g of the usual one: a step of that moves this base's features far", share)
        return share

    def with_pooling(self, pooling: str) -> "Session":
        """The same session, over the same model, whose head sees another pooling: that of an adapter, say.

        Raises:
            InputError: It is ``mask``, and the base has no masked-language-model head.
        """
        if pooling == self.classifier.pooling:
            return self
        if pooling in self._by_pooling:
            return self._by_pooling[pooling]
        mask_head, reference = None, self.classifier.reference
        if pooling == "mask":
            if reference is None:
                raise InputError("head.pooling is mask, which needs a base from files")
            mask_head = load_mask_head(reference.folder, resolve_compute(self.settings.base))
        head = self.settings.head.model_copy(update={"pooling": pooling})
        settings = self.settings.model_copy(update={"head": head})
        found = replace(self, classifier=self.classifier.with_pooling(pooling, mask_head), settings=settings)
        self._by_pooling[pooling] = found
        return found

    @cached_property
    def _by_pooling(self) -> "dict[str, Session]":
        """The sessions of other poolings that were asked for."""
        return {}

    def rows(self, split: Split) -> LabelledRows:
        """The encoded rows of one split."""
        return self.classifier.examples(self.data.rows(split), self.max_length)

    def prompts(self, rows: LabelledRows) -> LabelledRows:
        """Rows of a language model as their prompts alone, one sequence each, as features are made of."""
        problem_type = self.problem_type
        assert isinstance(problem_type, Candidates) and rows.source is not None
        texts = problem_type.prompts(rows.source)
        encoded = encode_prompts(self.classifier.tokenizer, texts, max_length=self.max_length, room=0)
        check_token_ids(self.classifier.tokenizer, self.classifier.model, encoded)
        # Nothing is generated: padded on the right, a text has the positions that it has alone.
        encoded = replace(encoded, pad_left=False)
        return LabelledRows(encoded, rows.labels, source=rows.source)

    def predictions(self, rows: LabelledRows) -> Predictions:
        """What the classifier predicts for rows as it is (with whatever is attached), as the headline metric takes it.

        Returns:
            Probabilities [rows, labels or choices], values [rows], or texts.
        """
        found = predict_rows(self.classifier, rows, batch_tokens=self.settings.evaluate.batch_tokens)
        return as_metric_takes(self.metric, found, rows)

    def probe(self, *, checkpoints: Path | None = None, progress: Progress = log.info) -> Probe:
        """Train all bias terms at once, as the section ``probe`` of the settings says.

        Args:
            checkpoints: A folder in which an interrupted training is found and continued.
            progress: Takes one line of text at a time.

        Raises:
            InputError: The base has no bias terms and none are to be added.
            TrainingError: The training failed at every learning rate.
        """
        training = self.training(self.settings.probe)
        found = run_probe(
            self.classifier, self.sample, self.settings, training, checkpoints=checkpoints, progress=progress
        )
        terms = tuple(sorted({site.term for site in found.evidence.before}, key=TERMS.index))
        result = TrainingResult(self.adapter(found.result, terms), found.result, self.settings)
        return Probe(found.evidence, found.frozen, result)

    def train(
        self,
        terms: Sequence[str],
        *,
        inert: Mapping[BiasSite, Tensor] | None = None,
        checkpoints: Path | None = None,
        progress: Progress = log.info,
    ) -> TrainingResult:
        """Train bias terms together, and the head, as the section ``train`` of the settings says.

        Args:
            terms: Names of bias terms.
            inert: The inert components that a probe measured; a site that is wholly inert is not trained.
            checkpoints: A folder in which an interrupted training is found and continued.
            progress: Takes one line of text at a time.

        Raises:
            InputError: A term is unknown, or the base has no bias for it and none are to be added.
            TrainingError: The training failed at every learning rate: NaN, infinite, or out of memory.
        """
        terms = tuple(dict.fromkeys(known_name(term, TERMS, "bias term") for term in terms))
        if self.settings.train.method == "auto":
            return self._search(terms, inert, checkpoints, progress)
        sample, training = self.sample, self.training(self.settings.train)
        if self.learns_from_dev:
            sample = self.whole_sample
            training = self.training(self.settings.train.with_loss(training.loss), rows=len(sample.train))
        result = train_terms(
            self.classifier,
            sample,
            self.settings,
            training,
            terms,
            inert=inert,
            checkpoints=checkpoints,
            progress=progress,
        )
        return TrainingResult(self._target_adapter(result, terms), result, self.settings)

    def _search(
        self,
        terms: tuple[str, ...],
        inert: Mapping[BiasSite, Tensor] | None,
        checkpoints: Path | None,
        progress: Progress,
    ) -> TrainingResult:
        """Train as ``train.method: auto`` has it."""
        check_learns_from_dev(self.settings, self.problem_type.name)
        if len(terms) > 1:
            raise InputError(f"train.method: auto starts from one target term, not from {' and '.join(terms)}")
        sample = self.whole_sample
        section, rows = self.settings.train, len(sample.train)
        contrastive = self.problem_type.has_pairs and section.batch_size >= MIN_CONTRASTIVE_BATCH
        losses: tuple[Loss, ...] = ("cross_entropy", "contrastive") if contrastive else ("cross_entropy",)
        by_loss = {loss: self.training(section.with_loss(loss), rows=rows) for loss in losses}
        own = self._with_label_words()
        result, trained, choice = search_and_train(
            self.classifier,
            sample,
            self.settings,
            by_loss,
            terms[0],
            inert=inert,
            prompted=None
            if own is None
            else Prompted(
                own.classifier,
                own.whole_sample,
                own.settings,
                own.training(section.with_loss("cross_entropy"), rows=rows),
            ),
            checkpoints=checkpoints,
            progress=progress,
        )
        brief = {"folds": choice.folds, "repeats": choice.repeats, "metric": choice.chosen.metric}
        session = own if own is not None and choice.chosen.candidate.pooling else self
        adapter = session._target_adapter(result, trained, chosen={"name": choice.chosen.candidate.name, **brief})
        adapter = replace(adapter, problem_type=choice.problem_type)
        return TrainingResult(adapter, result, self.settings, choice)

    def _with_label_words(self) -> "Session | None":
        """This session with a head at a mask token that starts at words for the labels; None where it cannot be so."""
        if self.problem_type.name != "classification" or self.classifier.pooling == "mask":
            return None
        try:
            own = self.with_pooling("mask")
            label_word_outputs(own.classifier, own.settings.head.label_words, resolve_compute(own.settings.base))
        except InputError as error:
            log.info("auto: no mask token and label words are compared: %s", error)
            return None
        return own

    def predict(self, adapter: Adapter, rows: LabelledRows) -> Predictions:
        """What an adapter predicts of rows, as the headline metric takes it; with the pooling of the adapter.

        Returns:
            Probabilities [rows, labels or choices], values [rows], or texts.

        Raises:
            InputError: The adapter does not fit the base.
        """
        if adapter.pooling != self.classifier.pooling and rows.source is not None:
            own = self.with_pooling(adapter.pooling)
            return own.predict(adapter, own.classifier.examples(rows.source, self.max_length))
        with adapter.attached(self.classifier):
            return self.predictions(rows)

    def training(self, section: ProbeSettings, *, rows: int | None = None) -> TrainingSettings:
        """A training section with what the dataset's own settings replace, and a length and a rate that fit.

        Args:
            rows: How many are learnt from; None: those of train, under ``protocol: paper`` those of dev as well.

        Raises:
            InputError: It weighs classes or is contrastive, and the problem type has no classes or no pairs, or its
                batches are too small.
        """
        check_class_weights(section.class_weights, self.problem_type)
        named = section.learning_rate or self.settings.datasets[self.dataset].learning_rate
        training = settings_of(
            section,
            self.settings,
            self.dataset,
            learnt_rows(self.facts["rows"], self.settings.protocol) if rows is None else rows,
            classes=len(self.classifier.labels) if self.problem_type.name == "classification" else 0,
            rate_share=self.rate_share if named is None else 1.0,
        )
        check_loss(self.problem_type, training)
        return training

    def head_training(self, *, rows: int | None = None) -> TrainingSettings:
        """How an output layer alone is trained on frozen features: as the section ``train`` says, by cross-entropy."""
        return self.training(self.settings.train.with_loss("cross_entropy"), rows=rows)

    def _target_adapter(self, result: RunResult, terms: tuple[str, ...], **more: Any) -> Adapter:
        return self.adapter(result, terms, **({"learns_from_dev": True} if self.learns_from_dev else {}), **more)

    def adapter(self, result: RunResult, terms: tuple[str, ...], **more: Any) -> Adapter:
        """The adapter of a training, with where it came from.

        Args:
            more: Further facts of its provenance, as JSON values.
        """
        return self.adapter_of(
            terms,
            result.deltas,
            result.head,
            seed=result.run.seed,
            training=result.run.settings.model_dump(mode="json"),
            **({"learning_rates_tried": list(result.trials)} if result.trials else {}),
            best_epoch=result.best_epoch,
            steps=result.steps,
            **more,
        )

    def adapter_of(
        self, terms: tuple[str, ...], deltas: Mapping[BiasSite, Tensor], head: Mapping[str, Tensor], **training: Any
    ) -> Adapter:
        """The adapter of what was trained on these rows, with the thresholds that are best on dev where it has some.

        Where the rows of dev were learnt from, thresholds stay at 0.5.

        Args:
            training: How, as JSON values: kept in its provenance beside the protocol, the rows and the compute.
        """
        adapter = Adapter.trained(
            self.classifier,
            terms=terms,
            deltas=deltas,
            head=head,
            max_length=self.max_length,
            head_train="paper" if self.settings.protocol == "paper" else self.settings.head.train,
            dataset=self.dataset,
            pairs=self.facts.get("text_pairs"),
            provenance={
                "protocol": self.settings.protocol,
                "rows": self.facts["rows"],
                "compute": resolve_compute(self.settings.base).to_json(),
                **training,
            },
        )
        if not adapter.problem_type.has_thresholds or training.get("learns_from_dev") or self.sample.dev is None:
            return adapter
        with adapter.attached(self.classifier):
            return replace(adapter, problem_type=problem_type_on_dev(self.classifier, self.sample.dev))
