"""Methods that train weights: each run is a training of its own."""

from beft.comparison.baselines.low_rank_value import LowRankValue
from beft.comparison.common import Common
from beft.comparison.registry import weight_method
from beft.comparison.result import MethodResult, MethodRun
from beft.models.memory import PeakMemory
from beft.training.engine.weights import attached_weights
from beft.training.learning_rates import at_own_rate
from beft.training.target import train_weights


def train_one(common: Common, requested: MethodRun) -> MethodResult:
    """Train the weights of a method, and the head.

    Raises:
        InputError: The method does not fit the base.
        TrainingError: It fails at every learning rate.
    """
    classifier, settings = common.classifier, common.settings
    method = weight_method(requested.method, classifier.model, requested.options, add_biases=settings.base.add_biases)
    options = requested.options
    training = at_own_rate(
        requested.training or common.session.training(settings.train),
        method.learning_rate,
        settings,
        rate=options.learning_rate,
        search=options.search_rates and requested.training is None,
    )
    if len(training.learning_rates) > 1:
        common.progress(f"{method.name}: {len(training.learning_rates)} learning rates, one training each")
    memory = PeakMemory(classifier.device)
    result = train_weights(
        classifier,
        common.sample,
        settings.model_copy(update={"seed": requested.seed}),
        training,
        method,
        start=common.head_start(requested.seed, training),
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
