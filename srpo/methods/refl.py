"""ReFL (ImageReward, arXiv:2304.05977): roll out to a random late step, then predict the image at once, with gradient.

x      = rollout from noise to sigma, without gradient
x0_hat = x - sigma * velocity(x, sigma)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from srpo.align import Step
from srpo.config import ReflMethod
from srpo.methods.plain import Plain
from srpo.objective import StepScores
from srpo.rollout import Rollout


@dataclass(frozen=True)
class LateSteps:
    """A step of the rollout from `first` to `last`, both included; one for all images, which are sampled together."""

    first: int
    last: int

    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """The same random step everywhere, on the CPU."""
        return torch.randint(self.first, self.last + 1, (1,), generator=generator).expand(tuple(shape))


class Refl(Plain):
    """The reward of an image that is predicted from a late step."""

    settings: ReflMethod
    positions: LateSteps

    def _make_positions(self) -> LateSteps:
        num_steps = self.config.rollout.num_steps
        return LateSteps(*(min(round(share * num_steps), num_steps - 1) for share in self.settings.window))

    @property
    def rollout_steps(self) -> float:
        """The middle of the window."""
        return (self.positions.first + self.positions.last) / 2

    def sigmas(self, positions: Tensor) -> Tensor:
        """Down to the drawn step."""
        return self.schedule[: int(positions[0, 0]) + 1]

    def losses(self, rollout: Rollout, positions: Tensor, update: int) -> Iterator[tuple[Tensor, list[StepScores]]]:
        """The one step."""
        sigma = self.schedule[positions[0]].to(rollout.x0.device)
        with self.autocast():
            images = self.model.decode(self.finish(rollout.x0, sigma, rollout))
            loss, scores = self.loss(images, rollout, Step("refl", sigma, torch.zeros_like(sigma)))
        yield loss, scores
