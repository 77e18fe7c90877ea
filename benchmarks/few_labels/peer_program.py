"""One peer or more on one draw, as their users run them: ``python peer_program.py JOBS.json ANSWERS.json``.

Runs in the environment of peers.txt and imports nothing of beft. JOBS.json holds the folder of the base, the drawn
rows, the texts to predict and the trainings (benchmarks/few_labels/peers.py writes it). ANSWERS.json is written after
each training: predictions, seconds of training, seconds of prediction, and how many numbers were trained.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 16


class MeanPooledClassifier(nn.Module):
    """A linear head on the mean of the last layer's token vectors, which is how the base was trained to be pooled.

    With AutoModelForSequenceClassification, whose head reads the first token, full fine-tuning was worse with 8 rows a
    label (51 against 56 % on one draw of SST-2 that is not reported) and the same with 64.
    """

    def __init__(self, folder: str, labels: int) -> None:
        from transformers import AutoModel

        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.config = self.encoder.config
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Linear(self.config.hidden_size, labels)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **inputs: Tensor
    ) -> dict[str, Tensor]:
        """Logits [rows, labels], and the cross-entropy where labels are given."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        logits = self.classifier(self.dropout(pooled))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def setfit(jobs: dict[str, Any], settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """SetFit (Tunstall et al., 2022): the whole body by pairs of texts, then logistic regression; its own defaults.

    Args:
        settings: What differs from the defaults: arguments of setfit.TrainingArguments.
    """
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(jobs["base"])
    model.model_body.max_seq_length = jobs["max_length"]
    train = Dataset.from_dict({"text": jobs["train"]["texts"], "label": jobs["train"]["labels"]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=seed,
            report_to="none",
            show_progress_bar=False,
            save_strategy="no",
            logging_strategy="no",
            **settings,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=train)
        seconds = _seconds(trainer.train)
    head = model.model_head
    trained = sum(value.numel() for value in model.model_body.parameters() if value.requires_grad)
    predictions: list[int] = []
    prediction_seconds = _seconds(
        lambda: predictions.extend(int(one) for one in model.predict(jobs["test"]["texts"], use_labels=False))
    )
    return {
        "predictions": predictions,
        "seconds": seconds,
        "prediction_seconds": prediction_seconds,
        "trained": trained + head.coef_.size + head.intercept_.size,
    }


def lora(jobs: dict[str, Any], settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """PEFT's LoRA of rank 8 on query and value, and the head, under Trainer."""
    from peft import LoraConfig, get_peft_model

    def adapted() -> Any:
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["classifier"])
        return get_peft_model(MeanPooledClassifier(jobs["base"], jobs["labels"]), config)

    return _under_trainer(jobs, adapted, settings, seed)


def full(jobs: dict[str, Any], settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Every weight of the base and the head under Trainer."""
    return _under_trainer(jobs, lambda: MeanPooledClassifier(jobs["base"], jobs["labels"]), settings, seed)


METHODS: dict[str, Callable[[dict[str, Any], dict[str, Any], int], dict[str, Any]]] = {
    "setfit": setfit,
    "lora": lora,
    "full": full,
}


def _under_trainer(
    jobs: dict[str, Any], build: Callable[[], Any], settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Train as transformers' Trainer does by default: AdamW, a linear schedule, fp32, the model's own dropout."""
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    tokenizer = AutoTokenizer.from_pretrained(jobs["base"])

    def encoded(texts: Sequence[str], **columns: Any) -> Any:
        return Dataset.from_dict({**tokenizer(texts, truncation=True, max_length=jobs["max_length"]), **columns})

    set_seed(seed)
    model = build()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=settings["epochs"],
            learning_rate=settings["learning_rate"],
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            label_names=["labels"],
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=seed,
        )
        train = encoded(jobs["train"]["texts"], labels=jobs["train"]["labels"])
        padded = DataCollatorWithPadding(tokenizer)
        trainer = Trainer(model=model, args=arguments, train_dataset=train, data_collator=padded)
        seconds = _seconds(trainer.train)
        # Predicted by length, which saves padding. Trainer keeps this order, as long as it does not group by length.
        texts = jobs["test"]["texts"]
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        test = encoded([texts[row] for row in order])
        logits: list[Any] = []
        prediction_seconds = _seconds(lambda: logits.append(trainer.predict(test).predictions))
    of_row = dict(zip(order, logits[0].argmax(-1).tolist(), strict=True))
    return {
        "predictions": [of_row[row] for row in range(len(texts))],
        "seconds": seconds,
        "prediction_seconds": prediction_seconds,
        "trained": sum(value.numel() for value in model.parameters() if value.requires_grad),
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


def main(arguments: Sequence[str]) -> None:
    """Do the trainings in their order."""
    source, target = map(Path, arguments)
    jobs = json.loads(source.read_text(encoding="utf-8"))
    torch.set_num_threads(jobs["threads"])
    torch.set_float32_matmul_precision(jobs["products"])
    answers: dict[str, Any] = {}
    for training in jobs["trainings"]:
        answers[training["name"]] = METHODS[training["method"]](jobs, training["settings"], training["seed"])
        target.write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
