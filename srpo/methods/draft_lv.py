"""DRaFT-LV (arXiv:2309.17400): gradient through the last step of the rollout, and of noised copies of what it drew.

    x0_hat = x - sigma * velocity(x, sigma)                              from the rollout's x at its last level
    x0_hat = x - sigma * velocity(x, sigma), x = noised(x0, sigma)       for each copy, with fresh noise and x0 fixed

The losses of the image and of its copies are averaged, which lowers the variance of the gradient.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from srpo.align import Step
from srpo.flow import add_noise
from srpo.methods.plain import Plain
from srpo.objective import StepScores
from srpo.rollout import Rollout, seeded_noise


class Seeds:
    """Seeds of the noise of each image's copies, so that it is the same however an update is divided."""

    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Random seeds, on the CPU."""
        return torch.randint(2**62, tuple(shape), generator=generator)


class DraftLv(Plain):
    """The reward of the sampled image, and of copies noised and denoised again."""

    def _make_positions(self) -> Seeds:
        return Seeds()

    @property
    def rollout_steps(self) -> float:
        """All but the last."""
        return super().rollout_steps - 1

    def sigmas(self, positions: Tensor) -> Tensor:
        """Down to the last level that is not 0."""
        return self.schedule[:-1]

    def losses(self, rollout: Rollout, positions: Tensor, update: int) -> Iterator[tuple[Tensor, list[StepScores]]]:
        """The rollout's own last step (the first row of seeds is not used), then the copies."""
        x = rollout.x0
        sigma = self.schedule[-2].expand(len(x)).to(x.device)
        x0: Tensor | None = None
        step = Step("draft_lv", sigma, torch.zeros_like(sigma))
        for index, seeds in enumerate(positions):
            if x0 is not None:
                x = add_noise(x0, seeded_noise(x.shape[1:], seeds.tolist()).to(x0), sigma)
            with self.autocast():
                x0_hat = self.finish(x, sigma, rollout)
                loss, scores = self.loss(self.model.decode(x0_hat), rollout, step, injection=index)
            x0 = x0_hat.detach() if x0 is None else x0
            yield loss, scores
