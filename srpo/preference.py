"""Semantic relative preference (arXiv:2509.06942, section 3.3): one reward, used twice, wanted words against unwanted.

    relative(image) = (1 + k) * r(image, target) - r(image, other)
    loss            = mean(relu(margin - discount * relative))

Denoise branch: target = positive words, other = negative. Inversion branch: exchanged, because inversion turns the
gradient around, so that rewarding the negative words pushes away from them. (The paper's (1 - k), k form was found
less stable by its authors, who ship this one.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo.align import SigmaGrid, Step
from srpo.config import AlignConfig, PreferenceConfig, Range
from srpo.control_words import ControlWords
from srpo.flow import shift_sigma


@dataclass(frozen=True)
class Branch(Step):
    """One branch of an update for a batch: noise levels, texts and strength, one entry per sample."""

    k: Tensor
    target: list[str]
    """Prompts with the control word that the image shall agree with."""
    other: list[str]
    """Prompts with the control word to move away from."""
    discount: Tensor | float = 1.0
    """Factor of the relative preference."""


def control_word(words: Sequence[str], update: int) -> str:
    """The word of an update (counted from 1): `words[update % len(words)]`."""
    return words[update % len(words)]


def with_word(word: str, prompts: Sequence[str]) -> list[str]:
    """`"<word>. <prompt>"` for each prompt."""
    return [f"{word}. {prompt}" for prompt in prompts]


def strength(ends: Range, index: Tensor, num_levels: int) -> Tensor:
    """K at positions of the grid: linear between its ends."""
    return torch.linspace(*ends, num_levels)[index]


def discount(shift: float | None, index: Tensor, num_levels: int) -> Tensor | float:
    """How much positions of the grid count: `shift * t / (1 + (shift - 1) * t)` at t = m / L; all fully without."""
    return 1.0 if shift is None else shift_sigma(shift, index / num_levels)


def relative_preference(target: Tensor, other: Tensor, k: Tensor | float) -> Tensor:
    """`(1 + k) * r(image, target) - r(image, other)`; all (batch,)."""
    return (1 + k) * target - other


def hinge(relative: Tensor, margin: float) -> Tensor:
    """`relu(margin - relative)` per sample (batch,)."""
    return torch.relu(margin - relative)


def make_branches(
    align: AlignConfig,
    preference: PreferenceConfig,
    words: ControlWords,
    grid: SigmaGrid,
    positions: Tensor,
    prompts: Sequence[str],
    update: int,
) -> list[Branch]:
    """The branches of update `update` (from 1) for prompts (batch) at grid positions (batch,).

    `words`: those of the preference, with the exceptions of its words file.
    """
    positive, negative = _texts(words, prompts, update)
    roles = {
        "denoise": (positive, negative, preference.k_denoise),
        "inversion": (negative, positive, preference.k_inversion),
    }
    branches = []
    for name in align.branches:
        target, other, ends = roles[name]
        levels = grid.levels(name, positions)
        k = strength(ends, levels.index, grid.num_levels)
        weight = discount(preference.discount_shift, levels.index, grid.num_levels)
        branches.append(Branch(name, levels.sigma_from, levels.sigma_to, k, target, other, weight))
    return branches


def _texts(words: ControlWords, prompts: Sequence[str], update: int) -> tuple[list[str], list[str]]:
    """The prompts with their wanted word, and with their unwanted one."""
    positive, negative = [], []
    for prompt in prompts:
        wanted, unwanted = words.of(prompt, update)
        positive += with_word(control_word(wanted, update), [prompt])
        negative += with_word(control_word(unwanted, update), [prompt])
    return positive, negative
