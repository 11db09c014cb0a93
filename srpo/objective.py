"""The SRPO objective of one injection: Direct-Align, decode, score by relative preference, hinge.

    loss = sum over branches of (mean(relu(margin - d * relative)) - a * mean(r(image, prompt))) / num_branches

The content anchor `a` (0 in the reference recipes) acts in the denoise branch alone: inversion turns the gradient
around, so that there it would push away from the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo.align import direct_align
from srpo.config import PreferenceConfig
from srpo.models import TextToImage
from srpo.preference import Branch, hinge, relative_preference
from srpo.rewards import Reward
from srpo.rollout import Rollout


@dataclass(frozen=True)
class Scores:
    """What a branch measured on its images, detached."""

    branch: Branch
    images: Tensor
    """(batch, 3, height, width) that the reward saw."""
    relative: Tensor
    """(batch,) relative preference in the branch's own roles."""
    reward: Tensor
    """(batch,) plain r(image, prompt)."""
    loss: Tensor
    """(batch,) before the mean and the division by the number of branches."""


def passes(branches: Sequence[Branch], together: bool) -> list[list[Branch]]:
    """The branches of each forward pass: all in one batch, or one after the other."""
    return [list(branches)] if together else [[branch] for branch in branches]


def objective(
    model: TextToImage,
    reward: Reward,
    rollout: Rollout,
    branches: Sequence[Branch],
    num_branches: int,
    guidance: float | None,
    preference: PreferenceConfig,
) -> tuple[Tensor, list[Scores]]:
    """The loss of some of an injection's `num_branches` branches in one forward pass, and what each measured."""
    images = _recover(model, rollout, branches, guidance)
    targets = [text for branch in branches for text in branch.target]
    others = [text for branch in branches for text in branch.other]
    target, other, plain = reward(images, targets, others, rollout.prompts * len(branches))
    relative = relative_preference(target, other, torch.cat([branch.k for branch in branches]).to(target))
    loss = hinge(_discount(branches).to(relative) * relative, preference.margin)
    loss = loss - _anchor(branches, preference.content_anchor).to(plain) * plain
    return loss.sum() / (len(rollout.prompts) * num_branches), _scores(branches, images, relative, plain, loss)


def _anchor(branches: Sequence[Branch], weight: float) -> Tensor:
    """Weight of the content anchor per sample, branch after branch."""
    return torch.cat([torch.full_like(branch.k, weight if branch.name == "denoise" else 0.0) for branch in branches])


def _discount(branches: Sequence[Branch]) -> Tensor:
    """Factor of the relative preference per sample, branch after branch."""
    return torch.cat([torch.as_tensor(branch.discount).expand_as(branch.k) for branch in branches])


def _recover(model: TextToImage, rollout: Rollout, branches: Sequence[Branch], guidance: float | None) -> Tensor:
    """Images of x0_hat, branch after branch in one batch."""
    embeddings = {name: torch.cat([tensor] * len(branches)) for name, tensor in rollout.embeddings.items()}
    x0_hat = direct_align(
        lambda x, sigma: model.velocity(x, sigma, embeddings, guidance),
        torch.cat([rollout.x0] * len(branches)),
        torch.cat([rollout.noise] * len(branches)),
        torch.cat([branch.sigma_from for branch in branches]),
        torch.cat([branch.sigma_to for branch in branches]),
    )
    return model.decode(x0_hat)


def _scores(branches: Sequence[Branch], *measured: Tensor) -> list[Scores]:
    """Split what was measured in one batch back into its branches."""
    parts = [tensor.detach().chunk(len(branches)) for tensor in measured]
    return [Scores(branch, *(part[i] for part in parts)) for i, branch in enumerate(branches)]
