"""A base with its masked-language-model head, for the measurement of label words.

No package of PyPI that is known here carries one. So the default base gets a head and both learn on, as one would adapt
a base to a domain with unlabelled texts: here whole film reviews of IMDB. No test row of SST-2 shares ten words in a
row with one of them, and five of the 8,530 sentences of Rotten Tomatoes do.
"""

import logging
import random
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    get_linear_schedule_with_warmup,
)

from beft.models.reference import resolve_base
from beft.progress import with_progress
from beft.settings import BaseSettings

STEPS = 1000
BATCH = 32
TOKENS = 96
_MASKED = 0.2
_HEAD_RATE, _BASE_RATE = 2e-3, 5e-4
_WARM_UP = 50

log = logging.getLogger("beft.bench")


def make_mask_base(texts: list[str], folder: Path) -> float:
    """Train the default base with a new masked-language-model head, and save both.

    The head's last layer is tied to the embeddings of the words. Computed in bf16, weights in fp32.

    Args:
        texts: Unlabelled; divided into parts of ``TOKENS`` tokens.
        folder: Where ``save_pretrained`` writes.

    Returns:
        The mean loss of the last hundred steps.
    """
    torch.manual_seed(0)
    source = resolve_base(BaseSettings().source).folder
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = BertForMaskedLM.from_pretrained(source, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    parts = _parts(tokenizer, texts)
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=_MASKED)
    head = [value for name, value in model.named_parameters() if name.startswith("cls.")]
    optimizer = torch.optim.AdamW(
        [{"params": head, "lr": _HEAD_RATE}, {"params": model.bert.parameters(), "lr": _BASE_RATE}], weight_decay=0.01
    )
    schedule = get_linear_schedule_with_warmup(optimizer, _WARM_UP, STEPS)
    losses = []
    for step in with_progress(range(STEPS), STEPS, "steps of the masked language model", log.info):
        batch = mask([{"input_ids": parts[(step * BATCH + at) % len(parts)]} for at in range(BATCH)])
        masked = batch["labels"] != -100
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.bert(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            outputs = model.cls(hidden[masked])  # of the masked words alone: the words of the vocabulary are 30,522
        loss = torch.nn.functional.cross_entropy(outputs.float(), batch["labels"][masked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 50 == 49:
            log.info("step %d: loss %.3f", step + 1, sum(losses[-50:]) / 50)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(losses[-100:]) / 100


def _parts(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Texts as parts of at most ``TOKENS`` tokens, in a random order that is always the same."""
    inner = TOKENS - 2
    found = [
        [tokenizer.cls_token_id, *ids[at : at + inner], tokenizer.sep_token_id]
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for at in range(0, len(ids), inner)
        if len(ids) - at >= inner // 4
    ]
    random.Random(0).shuffle(found)
    return found
