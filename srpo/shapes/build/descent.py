"""How all trainings of the Shapes world descend: AdamW with warm-up and a cosine; averaged weights are what stays."""

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

LOG_EVERY = 100
logger = logging.getLogger(__name__)


def optimise(
    name: str,
    module: nn.Module,
    loss_of: Callable[[], Tensor],
    num_steps: int,
    optimizer: AdamW,
    decay: float,
    warmup: int = 50,
) -> None:
    """Steps on what `loss_of` draws each time; leaves the weights, averaged with `decay`, in the module."""
    schedule = warmup_cosine(optimizer, num_steps, warmup)
    average = Average(module, decay)
    for step in range(1, num_steps + 1):
        loss = loss_of()
        descend(loss, module, optimizer, schedule)
        average.update(module)
        if step % LOG_EVERY == 0:
            logger.info("%s %d/%d: loss %.5f", name, step, num_steps, loss.item())
    average.copy_to(module)


def warmup_cosine(optimizer: torch.optim.Optimizer, num_steps: int, warmup: int = 50) -> LambdaLR:
    """Linear warm-up, then a cosine to zero at `num_steps`."""

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(step / num_steps, 1))))

    return LambdaLR(optimizer, factor)


def descend(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, schedule: LambdaLR) -> None:
    """One step of the optimizer with the gradient's norm clipped at 1; refuses a loss that is not finite."""
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss became {loss.item()}; build again with another --seed")
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    schedule.step()


class Average:
    """Exponential moving average of a module's parameters, with a warm start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the module's parameters."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in module.named_parameters():
            self.values[name].lerp_(parameter, 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Gives the module the averaged parameters."""
        module.load_state_dict(self.values, strict=False)
