"""BEFT inside LoRA's form: the change of each value bias is a low-rank matrix, laid out as a vector.

Of the later version of BEFT (ACL 2026, long.1799; arXiv 2509.15974v2) and its public code: a bias of d = m n components
is shifted by alpha / rank times the product of A [rank, m] and B [n, rank], transposed and flattened row by row, where
A starts as LoRA's does and B at zero. There d = 768 = 32 x 24, rank 8, alpha 1. It asks whether a bias vector has fewer
degrees of freedom than components.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from beft.errors import InputError
from beft.inference.runs import WeightsState
from beft.models.classifier import Batch, Classifier
from beft.names import known_name
from beft.settings import TERMS
from beft.sites.site import BiasSite, find_sites, site_module
from beft.training.engine.weight_method import TrainedWeights, WeightMethod, wide


class LowRankValue(WeightMethod):
    """Low-rank changes of the biases of one term.

    Args:
        rank: Of each change. From m n / (m + n) on there are no fewer numbers than in the bias itself.
        alpha: The product is scaled by alpha / rank.
        term: The bias term.
        add: Whether biases are added to projections that have none.

    Raises:
        InputError: A rank or alpha that is not above 0, or an unknown term.
    """

    name = "low_rank_value"
    learning_rate = 5e-2
    """Not tuned here; larger than the biases' own, for B's steps are scaled by A and by alpha / rank."""

    def __init__(self, rank: int = 8, alpha: float = 1.0, term: str = "value", *, add: bool = False) -> None:
        if rank < 1 or alpha <= 0:
            raise InputError(f"low-rank biases: rank {rank} and alpha {alpha}; each must be above 0")
        self.rank, self.alpha, self.add = rank, alpha, add
        self.term = known_name(term, TERMS, "bias term")

    def start(self, classifier: Classifier, head: Sequence[str], batch: Batch, seed: int) -> WeightsState:
        """A drawn from the seed as LoRA's, B zero: the biases start where they are.

        Raises:
            InputError: The base has no such biases, and none are to be added.
        """
        generator = torch.Generator().manual_seed(seed)
        dtype = wide(next(classifier.model.parameters()))
        values: dict[str, Tensor] = {}
        for site in self._sites(classifier.model):
            small, large = near_square(site.width)
            first = torch.empty(self.rank, large, dtype=dtype)
            nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
            values[f"{site.name}.A"] = first.to(classifier.device)
            values[f"{site.name}.B"] = torch.zeros(small, self.rank, dtype=dtype, device=classifier.device)
        return WeightsState(values)

    def deltas(self, model: nn.Module, state: WeightsState) -> dict[BiasSite, Tensor]:
        """What each bias is shifted by, [width]: the trained state as an adapter of biases holds it.

        Raises:
            InputError: The state belongs to another base.
        """
        sites = self._sites(model)
        self._check(sites, state)
        return {site: self._delta(state.values[f"{site.name}.A"], state.values[f"{site.name}.B"]) for site in sites}

    def attached(self, classifier: Classifier, state: WeightsState) -> AbstractContextManager[list[TrainedWeights]]:
        """Within the context the biases are shifted by the products."""
        return self._attached(classifier, state)

    @contextmanager
    def _attached(self, classifier: Classifier, state: WeightsState) -> Iterator[list[TrainedWeights]]:
        model, device = classifier.model, classifier.device
        sites = self._sites(model)
        self._check(sites, state)
        parameters = {name: nn.Parameter(value.to(device), requires_grad=False) for name, value in state.values.items()}
        trained = [TrainedWeights(name, parameter, parameter.data) for name, parameter in parameters.items()]
        handles = []
        try:
            for site in sites:
                matrices = parameters[f"{site.name}.A"], parameters[f"{site.name}.B"]
                handles.append(site_module(model, site).register_forward_hook(self._shift(site, *matrices)))
            yield trained
        finally:
            for handle in handles:
                handle.remove()
            for one in trained:
                one.release()

    def _shift(self, site: BiasSite, first: Tensor, second: Tensor) -> Any:
        """A forward hook that shifts the site's part of its module's output."""

        def shift(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            delta = self._delta(first, second)
            whole = delta.new_zeros(output.shape[-1])
            site.put(whole, delta)
            return output + whole.to(output)

        return shift

    def _delta(self, first: Tensor, second: Tensor) -> Tensor:
        return self.alpha / self.rank * (first.T @ second.T).flatten()

    def _sites(self, model: nn.Module) -> tuple[BiasSite, ...]:
        return find_sites(model, [self.term], add=self.add)

    def _check(self, sites: Sequence[BiasSite], state: WeightsState) -> None:
        expected: dict[str, tuple[int, int]] = {}
        for site in sites:
            small, large = near_square(site.width)
            expected |= {f"{site.name}.A": (self.rank, large), f"{site.name}.B": (small, self.rank)}
        if {name: tuple(value.shape) for name, value in state.values.items()} != expected:
            raise InputError("low-rank biases: the trained matrices belong to another base; attach them to their own")


def near_square(width: int) -> tuple[int, int]:
    """The two factors of a width that are nearest to each other, the smaller one first."""
    small = next(factor for factor in range(math.isqrt(width), 0, -1) if width % factor == 0)
    return small, width // small
