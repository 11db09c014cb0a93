"""The SRPO objective of one injection: Direct-Align, decode, score by relative preference, hinge.

    loss = sum over branches of (mean(relu(margin - d * relative)) - a * mean(r(image, prompt))) / num_branches

The content anchor `a` (0 in the reference recipes) acts in the denoise branch alone: inversion turns the gradient
around, so that there it would push away from the prompt. Of several rewards the losses are added, each with its weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from srpo.align import Step, direct_align
from srpo.criteria import Criterion
from srpo.models import TextToImage
from srpo.preference import Branch, hinge, relative_preference
from srpo.rollout import Rollout

Passed = TypeVar("Passed")


@dataclass(frozen=True)
class StepScores:
    """What a step measured on its images, detached."""

    step: Step
    images: Tensor
    """(batch, 3, height, width) that the reward saw."""
    relative: Tensor | None
    """(batch,) relative preference in the branch's own roles; None where the plain reward is trained."""
    reward: Tensor
    """(batch,) plain r(image, prompt)."""
    loss: Tensor
    """(batch,) before the mean and the division by the number of branches."""
    added: dict[str, Tensor] = field(default_factory=dict)
    """Metric of an added reward -> (batch,), on its own scale."""


@dataclass(frozen=True)
class Asked:
    """A reward with its own texts and strengths for the branches of a pass."""

    criterion: Criterion
    branches: Sequence[Branch]


def passes(branches: Sequence[Passed], together: bool) -> list[list[Passed]]:
    """The branches of each forward pass: all in one batch, or one after the other."""
    return [list(branches)] if together else [[branch] for branch in branches]


def objective(
    model: TextToImage,
    rollout: Rollout,
    asked: Sequence[Asked],
    num_branches: int,
    guidance: float | None,
    injection: int = 0,
) -> tuple[Tensor, list[StepScores]]:
    """The loss of some of an injection's `num_branches` branches in one forward pass, and what each measured.

    `asked`: the first reward, on whose scale the loss is, then those that are added.
    """
    first, *others = asked
    images = rollout.moved(recover(model, rollout, first.branches, guidance), injection)
    answer = _ask(first, images, rollout.prompts)
    loss, added = answer.loss, dict[str, Tensor]()
    for other in others:
        its = _ask(other, images, rollout.prompts)
        loss = loss + other.criterion.weight * its.loss
        added |= {other.criterion.metric("relative"): its.relative, other.criterion.metric("reward"): its.reward}
    total = loss.sum() / (len(rollout.prompts) * num_branches)
    return total, _scores(first.branches, added, images, answer, loss)


@dataclass(frozen=True)
class _Answer:
    """What a reward makes of a pass's images; all (batch * branches,)."""

    relative: Tensor
    reward: Tensor
    loss: Tensor


def _ask(asked: Asked, images: Tensor, prompts: Sequence[str]) -> _Answer:
    """One reward's relative preference, plain reward and loss of every image."""
    criterion, branches = asked.criterion, asked.branches
    targets = [text for branch in branches for text in branch.target]
    others = [text for branch in branches for text in branch.other]
    target, other, plain = criterion.reward(images, targets, others, [*prompts] * len(branches))
    relative = relative_preference(target, other, torch.cat([branch.k for branch in branches]).to(target))
    wanted = _discount(branches).to(relative) * criterion.scaled(relative)
    anchor = _anchor(branches, criterion.preference.content_anchor).to(plain) * criterion.scaled(plain)
    return _Answer(relative, plain, hinge(wanted, criterion.preference.margin) - anchor)


def _anchor(branches: Sequence[Branch], weight: float) -> Tensor:
    """Weight of the content anchor per sample, branch after branch."""
    return torch.cat([torch.full_like(branch.k, weight if branch.name == "denoise" else 0.0) for branch in branches])


def _discount(branches: Sequence[Branch]) -> Tensor:
    """Factor of the relative preference per sample, branch after branch."""
    return torch.cat([torch.as_tensor(branch.discount).expand_as(branch.k) for branch in branches])


def recover(model: TextToImage, rollout: Rollout, steps: Sequence[Step], guidance: float | None) -> Tensor:
    """Images of x0_hat, step after step in one batch."""
    embeddings = {name: torch.cat([tensor] * len(steps)) for name, tensor in rollout.embeddings.items()}
    x0_hat = direct_align(
        lambda x, sigma: model.velocity(x, sigma, embeddings, guidance),
        torch.cat([rollout.x0] * len(steps)),
        torch.cat([rollout.noise] * len(steps)),
        torch.cat([step.sigma_from for step in steps]),
        torch.cat([step.sigma_to for step in steps]),
    )
    return model.decode(x0_hat)


def _scores(
    branches: Sequence[Branch], added: dict[str, Tensor], images: Tensor, answer: _Answer, loss: Tensor
) -> list[StepScores]:
    """Split what was measured in one batch back into its branches."""
    split = [tensor.detach().chunk(len(branches)) for tensor in (images, answer.relative, answer.reward, loss)]
    more = {name: tensor.detach().chunk(len(branches)) for name, tensor in added.items()}
    return [
        StepScores(branch, pixels, relative, reward, each, {name: tensors[index] for name, tensors in more.items()})
        for index, (branch, pixels, relative, reward, each) in enumerate(zip(branches, *split, strict=True))
    ]
