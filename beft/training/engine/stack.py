"""The parameters of many runs in one matrix: a row a run, a range of columns a bias site or head parameter.

Autograd sees a leaf for each site and head parameter, [runs, *shape], that is a view of its columns, with the gradient
a view of the same columns of a second matrix. So the optimiser takes one step for all runs and all parameters.
"""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from beft.sites.offloading import input_device
from beft.sites.site import BiasSite


class ParameterStack:
    """Deltas of bias sites, from zero, and head parameters of many runs over one model.

    Args:
        model: The base; its own parameters are only read.
        sites: The bias sites of each run.
        heads: The names of the head parameters of each run.
        starts: Where each run's head parameters start; those not named start as the model has them.

    Attributes:
        values: [runs, parameters], fp32 or wider.
        gradient: [runs, parameters].
        trained: Which parameters a run trains, [runs, parameters]; the others stay where they started.
        deltas: A leaf [runs, width] for each site.
        head: A leaf [runs, *shape] for each head parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Sequence[BiasSite]],
        heads: Sequence[Sequence[str]],
        starts: Sequence[Mapping[str, Tensor]],
    ) -> None:
        named = dict(model.named_parameters())
        dtype = torch.float64 if next(iter(named.values())).dtype == torch.float64 else torch.float32
        every_site = tuple(dict.fromkeys(site for of_run in sites for site in of_run))
        every_head = tuple(dict.fromkeys(name for of_run in heads for name in of_run))
        shapes: dict[str, tuple[int, ...]] = {f"bias/{site.name}": (site.width,) for site in every_site}
        shapes |= {f"head/{name}": tuple(named[name].shape) for name in every_head}
        self._shapes = shapes
        self._columns: dict[str, slice] = {}
        stop = 0
        for name, shape in shapes.items():
            start, stop = stop, stop + prod(shape)
            self._columns[name] = slice(start, stop)
        # The runs are the inner axis in memory: a range of columns is then one dense block.
        self.values = torch.zeros(stop, len(sites), dtype=dtype, device=input_device(model)).T
        self.gradient = torch.zeros_like(self.values)
        self.trained = torch.zeros_like(self.values, dtype=torch.bool)
        for run, (of_run, names, start_of) in enumerate(zip(sites, heads, starts, strict=True)):
            for name in every_head:
                start_value = start_of.get(name, named[name]) if name in names else named[name]
                self.values[run, self._columns[f"head/{name}"]] = start_value.detach().to(self.values).flatten()
            for name in (*(f"bias/{site.name}" for site in of_run), *(f"head/{name}" for name in names)):
                self.trained[run, self._columns[name]] = True
        leaves = {name: self._leaf(name) for name in shapes}
        self.deltas = {site: leaves[f"bias/{site.name}"] for site in every_site}
        self.head = {name: leaves[f"head/{name}"] for name in every_head}
        self._names = [
            (*(f"bias/{site.name}" for site in of_run), *(f"head/{name}" for name in names))
            for of_run, names in zip(sites, heads, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.values)

    def rates(self, bias: Sequence[float], head: Sequence[float]) -> Tensor:
        """The peak learning rate of every parameter, [runs, parameters]; 0 for what a run does not train."""
        rates = torch.zeros_like(self.values)
        for name, columns in self._columns.items():
            of_runs = torch.tensor(head if name.startswith("head/") else bias, dtype=torch.float64)
            rates[:, columns] = of_runs.to(rates)[:, None]
        return rates * self.trained

    def columns(self, name: str) -> slice:
        """The columns of a named parameter: ``bias/SITE`` or ``head/NAME``."""
        return self._columns[name]

    def read(self, run: int, row: Tensor) -> dict[str, Tensor]:
        """The named parameters of a run in a row [parameters]: ``bias/SITE`` and ``head/NAME``, of their shapes."""
        return {
            name: row[self._columns[name]].detach().clone().view(self._shapes[name]).cpu() for name in self._names[run]
        }

    def _leaf(self, name: str) -> Tensor:
        columns, shape = self._columns[name], self._shapes[name]
        leaf: Tensor = self.values[:, columns].unflatten(1, shape).detach().requires_grad_(True)
        leaf.grad = self.gradient[:, columns].unflatten(1, shape)
        return leaf
