"""A classifier opened on the prepared data of one dataset: its rows, its settings, and what a training of it tells."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.datasets.prepared import Split, load_split, load_summary
from beft.encoding.examples import Predictions
from beft.encoding.prompted import encode_prompts
from beft.inference.predictions import as_metric_takes, predict_rows
from beft.inference.runs import LabelledRows, RunResult
from beft.models.base import is_decoder, load_classifier, resolve_base, usual_length
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute
from beft.models.tokenizer_loading import check_known, check_token_ids
from beft.problems.candidates import Candidates
from beft.problems.choosing import choose_shape
from beft.problems.shape import Shape
from beft.settings import DatasetSettings, ProbeSettings, Settings, TrainingSettings
from beft.sites.site import BiasSite
from beft.training.adaptation import Sample, labelled, learnt_rows, make_sample, settings_of

log = logging.getLogger("beft.training.session")


@dataclass(frozen=True)
class Opened:
    """A classifier with the prepared data of one dataset."""

    classifier: Classifier
    settings: Settings
    dataset: str
    folder: Path
    facts: dict[str, Any]

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut to."""
        return self.settings.datasets[self.dataset].max_length

    @property
    def metric(self) -> str:
        """The dataset's headline metric."""
        return str(self.facts["metric"])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The dataset's metrics, the headline first."""
        return tuple(dict.fromkeys((self.metric, *self.facts.get("metrics", ()))))

    @property
    def shape(self) -> Shape:
        """The task's shape."""
        return self.classifier.shape

    def sample(self) -> Sample:
        """The rows that may be learnt from.

        Raises:
            InputError: The base has no embedding for a token of theirs, or its tokenizer knows hardly any of them.
        """
        sample = make_sample(
            self.classifier,
            load_split(self.folder, "train"),
            load_split(self.folder, "dev"),
            max_length=self.max_length,
            metric=self.metric,
            protocol=self.settings.protocol,
        )
        check_known(self.classifier.tokenizer, sample.train.encoded, f"the rows of {self.dataset} to learn from")
        return sample

    def rows(self, split: Split) -> LabelledRows:
        """The encoded rows of one split."""
        return labelled(self.classifier, load_split(self.folder, split), self.max_length)

    def prompts(self, rows: LabelledRows) -> LabelledRows:
        """Rows of a language model as their prompts alone, one sequence each, as features are made of."""
        shape = self.shape
        assert isinstance(shape, Candidates) and rows.source is not None
        texts = shape.prompts(rows.source)
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
        found = predict_rows(self.classifier, rows, batch_size=self.settings.evaluate.batch_size)
        return as_metric_takes(self.metric, found, rows)

    def training(self, section: ProbeSettings) -> TrainingSettings:
        """A training section with what the dataset's own settings replace, and a length that fits its rows."""
        rows = learnt_rows(self.facts["rows"], self.settings.protocol)
        return settings_of(section, self.settings, self.dataset, rows)

    def adapter(self, result: RunResult, terms: tuple[str, ...]) -> Adapter:
        """The adapter of a training, with where it came from."""
        return self.adapter_of(
            terms,
            result.deltas,
            result.head,
            seed=result.run.seed,
            training=result.run.settings.model_dump(mode="json"),
            **({"learning_rates_tried": list(result.tried)} if result.tried else {}),
            best_epoch=result.best_epoch,
            steps=result.steps,
        )

    def adapter_of(
        self, terms: tuple[str, ...], deltas: Mapping[BiasSite, Tensor], head: Mapping[str, Tensor], **training: Any
    ) -> Adapter:
        """The adapter of what was trained on these rows.

        Args:
            training: How, as JSON values: kept in its provenance beside the protocol, the rows and the compute.
        """
        return Adapter.trained(
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


def check_base(settings: Settings, prepared: Path, dataset: str) -> None:
    """Check the base against all rows of a prepared dataset, as a run would find it; weights are not read.

    Raises:
        InputError: As ``open_classifier`` and ``Opened.sample``.
    """
    chosen = {dataset: settings.datasets.get(dataset, DatasetSettings())}
    opened = open_classifier(settings.model_copy(update={"datasets": chosen}), prepared, dataset, weights=False)
    opened.sample()
    splits: tuple[Split, ...] = ("gate", "test")
    for split in splits:
        if opened.facts["rows"][split]:
            opened.rows(split)


def open_classifier(settings: Settings, prepared: Path, dataset: str, *, weights: bool = True) -> Opened:
    """Load the base for a dataset, in the shape that the two have together.

    It is computed with the settings' number of threads, whatever the process uses otherwise.

    Args:
        weights: Whether the weights are read; without them rows can be encoded, and nothing computed.

    Raises:
        InputError: The base cannot be reached, or does not fit the dataset or the settings.
    """
    compute = resolve_compute(settings.base)
    facts = load_summary(prepared)
    reference = resolve_base(settings.base.source)
    labels = facts["labels"] if facts["shape"] == "classification" else []
    shape = choose_shape(
        facts["shape"],
        prompt=facts["prompt"],
        labels=labels,
        decoder=is_decoder(reference),
        kind=settings.head.kind,
        objective=settings.train.objective,
        max_new_tokens=settings.evaluate.max_new_tokens,
    )
    classifier = load_classifier(
        reference,
        labels,
        compute=compute,
        pooling=settings.head.pooling,
        seed=settings.seed,
        shape=shape,
        weights=weights,
    )
    classifier.threads = compute.threads
    _warn_of_length(dataset, settings.datasets[dataset].max_length, classifier)
    log.info("%s on %s in %s, %d threads", reference.portable_id, compute.device, compute.precision, compute.threads)
    return Opened(classifier, settings, dataset, prepared, facts)


def _warn_of_length(dataset: str, longest: int, classifier: Classifier) -> None:
    """Say where texts are cut to fewer tokens than was asked for, or may be longer than those that the base knows."""
    limit, reference = int(classifier.tokenizer.model_max_length), classifier.reference
    usual = None if reference is None else usual_length(reference.folder)
    if longest > limit:
        log.warning(
            "datasets.%s.max_length is %d, but the base takes %d tokens: texts are cut there", dataset, longest, limit
        )
    elif usual is not None and longest > usual:
        log.warning(
            "datasets.%s.max_length is %d, but the base was made for texts of %d tokens (sentence_bert_config.json)",
            dataset,
            longest,
            usual,
        )


def training_facts(result: RunResult, adapter: Adapter) -> dict[str, Any]:
    """What a training did, as JSON: the same for the same adapter."""
    return {
        "learning_rate": result.run.settings.learning_rate,
        **({"learning_rates_tried": list(result.tried)} if result.tried else {}),
        "best_epoch": result.best_epoch,
        "steps": result.steps,
        "bias_parameters": adapter.bias_parameters,
        "head_parameters": adapter.head_parameters,
        "adapter_sha256": adapter.sha256,
    }


def training_cost(result: RunResult, adapter: Adapter) -> dict[str, Any]:
    """What a training took: other each time, so it stands in a file of its own."""
    return {
        "trainable_parameters": sum(value.numel() for value in (*result.deltas.values(), *result.head.values())),
        "seconds": round(result.seconds, 3),
        "steps_here": result.steps_here,
        "peak_memory_bytes": result.peak_memory,
        "bias_bytes": sum(delta.numel() * delta.element_size() for delta in adapter.deltas.values()),
        "head_bytes": sum(tensor.numel() * tensor.element_size() for tensor in adapter.head.values()),
    }
