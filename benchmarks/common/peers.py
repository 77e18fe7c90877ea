"""What beft's engine is measured against: each the way its users run it, on the same rows and settings."""

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from beft.comparison.baselines.full import FullFineTuning
from beft.inference.runs import LabelledRows, Run
from beft.models.classifier import Classifier
from beft.sites.site import BiasSite
from beft.training.engine.weights import fit_weights
from beft.training_settings import TrainingSettings

PADDED_TO = 128


def load(folder: str, labels: int, *, dropout: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    """The base as `transformers` loads it, with its own dropout or none, and with its faster attention for the type."""
    attention = "eager" if dtype == torch.bfloat16 and not torch.cuda.is_available() else "sdpa"  # attention.md
    changes = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, dtype=dtype, attn_implementation=attention, **changes
    )


def published_protocol(model: Any, rows: LabelledRows, settings: TrainingSettings, term: str = "value") -> None:
    """The published protocol: fp32, every text padded to 128 tokens, one run, value biases, pooler bias and head.

    Source: reference protocol of arXiv 2509.15974 for encoders: AdamW, batch 16, clipping at 1.0, no warm-up.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            name.endswith((f".{term}.bias", "pooler.dense.bias")) or name.startswith("classifier.")
        )
    _plain_loop(model, rows, settings, _padded_batches(rows, settings))


def full_fine_tuning(
    classifier: Classifier, rows: LabelledRows, settings: TrainingSettings, *, keep_base: bool = True
) -> None:
    """Every parameter, by beft's own code: the same batches, loss and precision, fp32 master weights.

    Args:
        keep_base: False gives the base up, as who trains all of it would: its memory is not counted against it.
    """
    run = Run("full", (), classifier.head_parameters("paper"), 0, settings, "last")
    method = FullFineTuning(keep_base=keep_base)
    fit_weights(
        classifier, rows, None, run, method, metric=lambda probabilities, labels: 0.0, progress=lambda line: None
    )


def peft_and_trainer(model: Any, rows: LabelledRows, tokenizer: Any, settings: TrainingSettings) -> Any:
    """PEFT's BEFT tuner under `transformers.Trainer`, grouped by length, with its fastest options.

    Args:
        model: The base; cast to bf16 where the machine computes it fast, which autocast would do at every step.

    Returns:
        The trainer; its ``train`` is what is timed.
    """
    from datasets import Dataset
    from peft import BeftConfig, TaskType, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tuned = get_peft_model(
        model,
        BeftConfig(task_type=TaskType.SEQ_CLS, target_modules=["value"], modules_to_save=["classifier"]),
    )
    columns = {
        "input_ids": rows.encoded.input_ids,
        "attention_mask": [[1] * len(ids) for ids in rows.encoded.input_ids],
        "labels": rows.labels.tolist(),
    }
    if rows.encoded.type_ids is not None:
        columns["token_type_ids"] = rows.encoded.type_ids
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.clip_norm,
        train_sampling_strategy="group_by_length",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        seed=0,
    )
    return Trainer(
        model=tuned,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        data_collator=DataCollatorWithPadding(tokenizer),
    )


def fisher_loop(classifier: Classifier, rows: LabelledRows, sites: Sequence[BiasSite]) -> dict[BiasSite, Tensor]:
    """The definition: one example at a time, the gradient of its loss squared, averaged; the biases as parameters."""
    model = classifier.model
    biases = {}
    for site in sites:
        bias = model.get_submodule(site.module).bias
        biases[site] = bias.requires_grad_(True)
    sums = {site: torch.zeros(site.width, dtype=torch.float64) for site in sites}
    for row in range(len(rows)):
        logits = classifier(rows.encoded.batch(np.array([row])))
        loss = functional.cross_entropy(logits, torch.from_numpy(rows.labels[row : row + 1]))
        for (site, bias), gradient in zip(
            biases.items(), torch.autograd.grad(loss, list(biases.values())), strict=True
        ):
            del bias
            sums[site] += gradient[site.start : site.stop].double().square()
    model.requires_grad_(False)
    return {site: total / len(rows) for site, total in sums.items()}


def _padded_batches(rows: LabelledRows, settings: TrainingSettings) -> list[tuple[dict[str, Tensor], np.ndarray]]:
    order = np.random.default_rng(0).permutation(len(rows))
    batches = []
    for start in range(0, len(rows), settings.batch_size):
        chosen = order[start : start + settings.batch_size]
        ids = np.full((len(chosen), PADDED_TO), rows.encoded.pad_id)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for at, row in enumerate(chosen):
            tokens = rows.encoded.input_ids[row]
            ids[at, : len(tokens)], mask[at, : len(tokens)] = tokens, 1
            if rows.encoded.type_ids is not None:
                types[at, : len(tokens)] = rows.encoded.type_ids[row]
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if rows.encoded.type_ids is not None:
            batch["token_type_ids"] = torch.from_numpy(types)
        batches.append((batch, rows.labels[chosen]))
    return batches


def _plain_loop(
    model: Any,
    rows: LabelledRows,
    settings: TrainingSettings,
    batches: list[tuple[dict[str, Tensor], np.ndarray]],
) -> None:
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, eps=settings.adam_epsilon, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches) * settings.epochs)
    for _ in range(settings.epochs):
        for batch, labels in batches:
            logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits
            loss = functional.cross_entropy(logits, torch.from_numpy(labels).to(logits.device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
            optimizer.step()
            schedule.step()
    model.eval()
