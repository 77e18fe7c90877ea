"""AdamW for many runs at once: each run is a row, with its own learning rate, number of steps and clipping.

Every step of a row is the step that ``torch.optim.AdamW`` takes after ``clip_grad_norm_``, so a run comes out the same
whatever stands in the other rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
_CLIP_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


class StackedAdamW:
    """The parameters of many runs and their moments.

    Args:
        parameters: [runs, parameters]; changed in place.
        epsilon: Of each run.
        clip_norm: The largest norm of each run's gradient.
        weight_decay: Decoupled, of all runs.

    Attributes:
        mean: The first moments, [runs, parameters].
        square: The second moments, [runs, parameters].
        steps: Steps that each run has taken.
    """

    def __init__(
        self, parameters: Tensor, *, epsilon: Sequence[float], clip_norm: Sequence[float], weight_decay: float = 0.0
    ) -> None:
        self.parameters = parameters
        self.mean = torch.zeros_like(parameters)
        self.square = torch.zeros_like(parameters)
        self.steps = [0] * len(parameters)
        self._epsilon = self._column(epsilon)
        self._clip_norm = self._column(clip_norm)
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, gradient: Tensor, rates: Tensor, active: Sequence[bool] | None = None) -> None:
        """Take one step of every active run; the parameters of the others stay as they are.

        Args:
            gradient: [runs, parameters]; used up.
            rates: Learning rates, [runs, parameters] or [runs, 1].
            active: Which runs take a step; None: all.
        """
        active = [True] * len(self.steps) if active is None else active
        norm = gradient.square().sum(1, keepdim=True).sqrt_()
        gradient.mul_((self._clip_norm / (norm + _CLIP_EPSILON)).clamp_(max=1.0))
        self.steps = [step + one for step, one in zip(self.steps, active, strict=True)]
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        # A run that has not begun has no moments: any divisor but zero will do.
        taken = [max(1, step) for step in self.steps]
        size = self.square.sqrt().div_(self._column([(1 - BETAS[1] ** step) ** 0.5 for step in taken]))
        size.add_(self._epsilon)
        rates = rates * self._column([float(one) for one in active])
        if self._weight_decay:
            self.parameters.mul_(1 - rates * self._weight_decay)
        rates = rates / self._column([1 - BETAS[0] ** step for step in taken])
        self.parameters.sub_(rates.mul(self.mean).div_(size))

    def _column(self, values: Sequence[float]) -> Tensor:
        like = self.parameters
        return torch.tensor(values, dtype=torch.float64).to(like.device, like.dtype).unsqueeze(1)
