"""Methods that train weights: each run is a training of its own."""

from beft.comparison.baselines.low_rank_value import LowRankValue
from beft.comparison.common import Common
from beft.comparison.registry import weight_method
from beft.comparison.result import MethodResult, MethodRun
from beft.models.memory import PeakMemory
from beft.settings import TrainingSettings
from beft.training.engine.weight_method import WeightMethod
from beft.training.engine.weights import attached_weights
from beft.training.target import train_weights


def train_one(common: Common, requested: MethodRun) -> MethodResult:
    """Train the weights of a method, and the head.

    Raises:
        InputError: The method does not fit the base.
        TrainingError: It fails at every learning rate.
    """
    classifier, settings = common.classifier, common.settings
    method = weight_method(requested.method, classifier.model, requested.options, add_biases=settings.base.add_biases)
    training = requested.training or common.session.training(settings.train)
    memory = PeakMemory(classifier.device)
    result = train_weights(
        classifier,
        common.sample,
        settings.model_copy(update={"seed": requested.seed}),
        _at_own_rate(training, method, requested.options.learning_rate),
        method,
        start=common.head_start(requested.seed),
        progress=common.progress,
    )
    peak = memory.above()
    assert result.weights is not None
    with attached_weights(classifier, method, result):
        predictions = common.predict()
    return MethodResult(
        run=requested,
        predictions=predictions,
        scores=common.scores(predictions),
        dev=result.history[result.best_epoch - 1].get("dev_metric"),
        trained_parameters=result.weights.parameters,
        head_parameters=result.head_parameters,
        model_parameters=common.model_parameters,
        seconds=result.seconds,
        peak_memory_bytes=peak,
        best_epoch=result.best_epoch,
        history=result.history,
        training=result.run.settings,
        trials=result.trials,
        deltas=method.deltas(classifier.model, result.weights) if isinstance(method, LowRankValue) else {},
        head=result.head,
        weights=result.weights,
    )


def _at_own_rate(training: TrainingSettings, method: WeightMethod, rate: float | None) -> TrainingSettings:
    """The training at the rate that was named; or at the method's usual one, searched as widely as the biases' own.

    Where the biases' rates are 0.5 and 2 times their usual one, so are those of the weights.
    """
    if rate is not None:
        return training.model_copy(update={"learning_rate": rate, "learning_rates": ()})
    scale = method.learning_rate / training.learning_rate
    rates = tuple(one * scale for one in training.learning_rates)
    return training.model_copy(update={"learning_rate": method.learning_rate, "learning_rates": rates})
