"""What a session's probe and training give: an adapter, how its training went, and what a target term is chosen by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beft.adapters.adapter import Adapter
from beft.importance.probe_result import ProbeResult, Scores
from beft.importance.selection import Selection
from beft.inference.runs import RunResult
from beft.settings import Settings
from beft.sites.site import BiasSite
from beft.training.automatic.choice import Choice


@dataclass(frozen=True, eq=False, repr=False)
class TrainingResult:
    """A trained adapter, and how its training went.

    Attributes:
        adapter: The biases and the head of the best epoch on dev.
        run: Epoch by epoch what was measured, and what the training took.
        settings: The settings that it was trained under.
        choice: What ``train.method: auto`` compared and chose; None under ``fixed``.
    """

    adapter: Adapter
    run: RunResult
    settings: Settings
    choice: Choice | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """A record an epoch: epoch, step, train_loss, and dev_loss and dev_metric where it was measured on dev."""
        return self.run.history

    @property
    def best_epoch(self) -> int:
        """The epoch that the adapter was taken from, counted from 1."""
        return self.run.best_epoch

    @property
    def learning_rate(self) -> float:
        """The learning rate of the biases; where several were tried, the best on dev."""
        return self.run.run.settings.learning_rate

    @property
    def best(self) -> dict[str, Any]:
        """The record of the best epoch."""
        return next(record for record in self.history if record["epoch"] == self.best_epoch)

    def facts(self) -> dict[str, Any]:
        """What the training did, as JSON: the same for the same adapter."""
        return {
            "learning_rate": self.learning_rate,
            **({"learning_rates_tried": list(self.run.trials)} if self.run.trials else {}),
            "best_epoch": self.best_epoch,
            "steps": self.run.steps,
            "bias_parameters": self.adapter.bias_parameters,
            "head_parameters": self.adapter.head_parameters,
            "adapter_sha256": self.adapter.sha256,
            **({} if self.choice is None else {"choice": self.choice.to_json()}),
        }

    def cost(self) -> dict[str, Any]:
        """What the training took, as JSON: it varies between runs, so it is kept in a file of its own.

        ``seconds`` is None where the training was interrupted: how long all of it took is not known.
        """
        run = self.run
        return {
            "trainable_parameters": sum(value.numel() for value in (*run.deltas.values(), *run.head.values())),
            "seconds": round(run.seconds, 3) if run.steps_here == run.steps else None,
            "steps_here": run.steps_here,
            "peak_memory_bytes": run.peak_memory,
            "bias_bytes": sum(delta.numel() * delta.element_size() for delta in self.adapter.deltas.values()),
            "head_bytes": sum(tensor.numel() * tensor.element_size() for tensor in self.adapter.head.values()),
        }

    def __repr__(self) -> str:
        dev = f", dev metric {self.best['dev_metric']:.4f}" if "dev_metric" in self.best else ""
        return (
            f"{'+'.join(self.adapter.terms)} on {self.adapter.dataset}: {self.adapter.bias_parameters:,} bias and "
            f"{self.adapter.head_parameters:,} head parameters, learning rate {self.learning_rate:g}, "
            f"best epoch {self.best_epoch}{dev}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Probe:
    """A finished probe: what the bias terms are scored by.

    Attributes:
        evidence: Every bias before and after, Fisher information from before the training, and what is inert.
        frozen: The sites that were not trained because all of their components are inert.
        training: The training of all bias terms.
    """

    evidence: ProbeResult
    frozen: tuple[BiasSite, ...]
    training: TrainingResult

    def scores(self) -> Scores:
        """The importance of every bias term by every method of the settings' section ``score``, and the target term."""
        return self.evidence.scores(self.training.settings)

    def select(self, *, by: str | None = None, candidates: Sequence[str] | None = None) -> Selection:
        """Choose the target term: the candidate with the highest mean importance that is not inert.

        Args:
            by: An importance method; None: that of the settings (``projection_ratio``).
            candidates: The bias terms to choose among; None: those of the settings (query, key, value).

        Returns:
            The selection: ``term``, ``method``, the ``ranking`` with scores and the ``reason`` in words.

        Raises:
            InputError: The method or a candidate is unknown, or every candidate is inert.
            BeftError: The probe moved none of the candidates.

        Example:
            >>> target = probe.select(by="fisher", candidates=["query", "value"])
            >>> target.term in ("query", "value")
            True
        """
        settings = self.training.settings
        score = settings.score.model_dump()
        if by is not None:
            methods = dict.fromkeys((*settings.score.methods, by))
            score |= {"select_by": by, "methods": list(methods)}
        if candidates is not None:
            score["candidates"] = list(candidates)
        checked = Settings.from_mapping({"score": score}).score
        return self.evidence.scores(settings.model_copy(update={"score": checked})).selection

    def __repr__(self) -> str:
        frozen = f", {len(self.frozen)} inert ones of them frozen" if self.frozen else ""
        return (
            f"probe of {len(self.evidence.before)} bias sites on {self.training.adapter.dataset}{frozen}, best epoch "
            f"{self.training.best_epoch}"
        )
