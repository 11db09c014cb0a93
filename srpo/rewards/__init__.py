"""Rewards: frozen functions of images and texts, one file per family."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from srpo.config import RewardConfig
from srpo.errors import ConfigError
from srpo.rewards import clip, head, hps


class Reward(Protocol):
    """How well images agree with texts."""

    def __call__(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Scores (batch,), higher is better, for each list of batch texts.

        `images`: (batch, 3, height, width) in [0, 1], differentiable; they are looked at once, however many lists of
        texts there are.
        """

    def features(self, images: Tensor) -> Tensor:
        """What it sees in the images, before any text: unit features (batch, width)."""

    def to(self, device: torch.device) -> "Reward":
        """Move the weights."""


@dataclass(frozen=True)
class Family:
    """How a reward family is loaded and checked."""

    load: Callable[[Path, str], Reward]
    """(checkpoint, architecture) -> frozen reward."""
    check: Callable[[Path, str], None]
    """Names and shapes without loading; ConfigError names what is wrong."""
    skeleton: Callable[[Path, str], Reward]
    """(place of the checkpoint, architecture) -> the reward on the meta device."""
    reads_text: Callable[[Path], bool] = lambda path: True
    """checkpoint -> whether its scores depend on the text."""
    check_architecture: Callable[[str, Collection[str]], None] = lambda architecture, beside: None
    """(architecture, names of the files that will be there) -> what is wrong, while the checkpoint is elsewhere."""


REWARDS: dict[str, Family] = {
    "hps": Family(hps.load, hps.check, hps.skeleton, check_architecture=hps.check_architecture),
    "clip": Family(clip.load, clip.check, clip.skeleton),
    "head": Family(head.load, head.check, head.skeleton, head.reads_text),
}


def find_family(name: str) -> Family:
    """A family by its name; ConfigError says which there are."""
    if name not in REWARDS:
        raise ConfigError(f"no reward family named {name!r}; choose from {sorted(REWARDS)}")
    return REWARDS[name]


def load_reward(config: RewardConfig, path: Path) -> Reward:
    """The reward at `path`, frozen, in float32."""
    return find_family(config.family).load(path, config.architecture)


def reward_skeleton(config: RewardConfig, path: Path) -> Reward:
    """The reward on the meta device: shapes without weights."""
    return find_family(config.family).skeleton(path, config.architecture)


def check_reward(config: RewardConfig, path: Path) -> None:
    """Refuse a checkpoint that would fail later."""
    find_family(config.family).check(path, config.architecture)


def check_text_is_read(config: RewardConfig, path: Path, otherwise: str) -> None:
    """Refuse a reward that ignores the text where words say what is wanted; `otherwise`: the end of the error."""
    if not find_family(config.family).reads_text(path):
        raise ConfigError(f"the reward {config.source} does not read the text: {otherwise}")
