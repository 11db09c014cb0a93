"""Batches of the Shapes world for trainings: random contents and style words, freshly rendered."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from srpo.shapes.render import AXES, STYLES, Content, render, styled

STYLED_SHARE = 0.5
"""Share of the captions that carry a style word."""


def scaled(count: int, scale: float) -> int:
    """A share of a training's steps or pictures, at least 2."""
    return max(2, round(count * scale))


def draw(contents: Sequence[Content], count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Pictures (count, 3, 32, 32) and their captions: contents uniform, half of them with a style word."""
    rows = torch.randint(len(contents), (count,), generator=generator).tolist()
    words = torch.randint(len(STYLES), (count,), generator=generator).tolist()
    plain = (torch.rand(count, generator=generator) >= STYLED_SHARE).tolist()
    styles = [None if skip else STYLES[word] for skip, word in zip(plain, words, strict=True)]
    chosen = [contents[row] for row in rows]
    captions = [styled(style, content.caption) for style, content in zip(styles, chosen, strict=True)]
    return render(chosen, styles, generator), captions


def draw_contrasts(contents: Sequence[Content], count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Pictures and captions in fours of one content: both words of an axis, a word of another axis, no word.

    Without such neighbours a batch seldom asks for more than the content, and a reward learns no style.
    """
    chosen, styles = [], []
    for row in torch.randint(len(contents), (count // 4,), generator=generator).tolist():
        first, second = torch.randperm(len(AXES), generator=generator)[:2].tolist()
        side = int(torch.randint(2, (), generator=generator))
        chosen += [contents[row]] * 4
        styles += [*list(AXES.values())[first], list(AXES.values())[second][side], None]
    captions = [styled(style, content.caption) for style, content in zip(styles, chosen, strict=True)]
    return render(chosen, styles, generator), captions


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


def in_chunks(function: Callable[[Tensor], Tensor], tensor: Tensor, size: int = 250) -> Tensor:
    """The function applied to pieces of the batch."""
    return torch.cat([function(chunk) for chunk in tensor.split(size)])
