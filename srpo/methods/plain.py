"""What the methods share that raise the reward itself: its loss, and one step down to the image.

    loss = mean over the batch of the sum over rewards of weight * (relu(margin - d * scale * r) or -d * scale * r)

with r = r(image, prompt), or of the prompt with a word in front of it.
"""

import torch
from torch import Tensor

from srpo.align import Step
from srpo.config import PlainMethod
from srpo.flow import euler_step
from srpo.methods.base import Method
from srpo.objective import StepScores
from srpo.preference import hinge, with_word
from srpo.rollout import Rollout


class Plain(Method):
    """A method that raises the reward itself."""

    @property
    def settings(self) -> PlainMethod:
        """The method's section of the run file."""
        assert isinstance(self.config.method, PlainMethod)
        return self.config.method

    def loss(
        self, images: Tensor, rollout: Rollout, step: Step, discount: Tensor | float = 1.0, injection: int = 0
    ) -> tuple[Tensor, list[StepScores]]:
        """The loss of images (batch, 3, height, width), and their scores; `discount`: a factor for each, or for all."""
        images = rollout.moved(images, injection)
        word, margin = self.settings.word, self.settings.margin
        texts = with_word(word, rollout.prompts) if word else rollout.prompts
        rewards = [criterion.reward(images, texts)[0] for criterion in self.criteria]
        loss = images.new_zeros(len(images))
        for criterion, reward in zip(self.criteria, rewards, strict=True):
            wanted = torch.as_tensor(discount).to(reward) * criterion.scaled(reward)
            loss = loss + criterion.weight * (-wanted if margin is None else hinge(wanted, margin))
        first, *others = (reward.detach() for reward in rewards)
        added = {each.metric("reward"): score for each, score in zip(self.criteria[1:], others, strict=True)}
        return loss.mean(), [StepScores(step, images.detach(), None, first, loss.detach(), added)]

    def finish(self, x: Tensor, sigma: Tensor, rollout: Rollout) -> Tensor:
        """x0_hat = `x - sigma * velocity` in one step with gradient, from noisy latents x at sigma (batch,)."""
        velocity = self.model.velocity(x, sigma, rollout.embeddings, self.config.align.guidance)
        return euler_step(x, velocity, sigma, 0.0)
