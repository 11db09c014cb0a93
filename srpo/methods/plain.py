"""What the methods without control words share: the loss of the plain reward, and one step down to the image.

loss = mean over the batch of the sum over rewards of weight * (relu(margin - d * scale * r) or -d * scale * r)
"""

from torch import Tensor

from srpo.align import Step
from srpo.config import PlainMethod
from srpo.flow import euler_step
from srpo.methods.base import Method
from srpo.objective import Scores
from srpo.preference import hinge
from srpo.rollout import Rollout


class Plain(Method):
    """A method that raises r(image, prompt)."""

    @property
    def settings(self) -> PlainMethod:
        """The method's section of the run file."""
        assert isinstance(self.config.method, PlainMethod)
        return self.config.method

    def loss(
        self, images: Tensor, rollout: Rollout, step: Step, discount: Tensor | float = 1.0
    ) -> tuple[Tensor, list[Scores]]:
        """The loss of images (batch, 3, height, width), and their scores; `discount`: a factor for each, or for all."""
        rewards = {
            criterion.metric("reward"): criterion.reward(images, rollout.prompts)[0] for criterion in self.criteria
        }
        loss = images.new_zeros(len(images))
        for criterion, reward in zip(self.criteria, rewards.values(), strict=True):
            wanted = discount * criterion.scaled(reward)
            loss = loss + criterion.weight * (
                -wanted if self.settings.margin is None else hinge(wanted, self.settings.margin)
            )
        first, *_ = rewards
        added = {name: reward.detach() for name, reward in rewards.items() if name != first}
        return loss.mean(), [Scores(step, images.detach(), None, rewards[first].detach(), loss.detach(), added)]

    def finish(self, x: Tensor, sigma: Tensor, rollout: Rollout) -> Tensor:
        """x0_hat = `x - sigma * velocity` in one step with gradient, from noisy latents x at sigma (batch,)."""
        velocity = self.model.velocity(x, sigma, rollout.embeddings, self.config.align.guidance)
        return euler_step(x, velocity, sigma, 0.0)
