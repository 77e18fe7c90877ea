"""Full fine-tuning: every parameter that the logits depend on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from beft.inference.runs import WeightsState
from beft.models.classifier import Batch, Classifier
from beft.training.engine.weight_method import TrainedWeights, WeightMethod, trained_parameters, used_parameters, wide


class FullFineTuning(WeightMethod):
    """All parameters of the base and the head, in fp32 master weights; the base computes in its own precision.

    Args:
        keep_base: False gives the base's own values up for the memory that they take: the classifier is left with the
            trained ones, and is of no use for another training.
    """

    name = "full"
    learning_rate = 5e-5
    """A usual one, not tuned here."""

    def __init__(self, *, keep_base: bool = True) -> None:
        self.keep_base = keep_base

    def start(self, classifier: Classifier, head: Sequence[str], batch: Batch, seed: int) -> WeightsState:
        """The parameters as the model has them, in fp32 or wider."""
        used = used_parameters(classifier, batch)
        return WeightsState(
            {
                name: parameter.detach().to(wide(parameter), copy=True)
                for name, parameter in used.items()
                if name not in head
            }
        )

    def attached(self, classifier: Classifier, state: WeightsState) -> AbstractContextManager[list[TrainedWeights]]:
        """Within the context the model computes with the state's values."""
        return trained_parameters(classifier.model, state, keep_base=self.keep_base)
