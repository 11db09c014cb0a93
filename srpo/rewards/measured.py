"""Scores that are only measured, as they were published: nothing is trained towards them.

    hps           HPSv2, HPSv2.1: the cosine (about 0.2 to 0.35), preprocessed as its own evaluation does
    pick_score    PickScore: `exp(logit_scale) * cosine` (about 20)
    clip_score    CLIPScore: `2.5 * max(cosine, 0)`
    image_reward  ImageReward: 0 is an average image, 1 one standard deviation better
    aesthetic     Aesthetic Predictor V2.5: 1 to 10, whatever the prompt

Each is a `Reward` once it is loaded. Rewards that are trained are scaled as SRPO's recipe wants them (`srpo.rewards`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from srpo.config import ScoreConfig
from srpo.errors import ConfigError
from srpo.rewards import Reward, aesthetic, clip, hps, image_reward
from srpo.rewards.clip_score import ClipScore
from srpo.rewards.preprocessing import hps_preprocessing


@dataclass(frozen=True)
class ScoreFamily:
    """How a score is loaded and checked."""

    load: Callable[[Path, Path, str], Reward]
    """(checkpoint, companion or the checkpoint again, architecture) -> frozen score."""
    check: Callable[[Path, Path, str], None]
    """Names and shapes without loading; ConfigError names what is wrong."""
    companion: str = ""
    """What the checkpoint needs beside it; empty if nothing."""
    reads_text: bool = True


def _hps(checkpoint: Path, _: Path, architecture: str) -> Reward:
    score = hps.load(checkpoint, architecture)
    score.preprocess = hps_preprocessing(score.image_size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    return score


def _pick_score(folder: Path, _: Path, architecture: str) -> Reward:
    score = clip.load(folder, architecture)
    score.scale *= clip.HPS_SCALE
    return score


def _clip_score(folder: Path, _: Path, architecture: str) -> Reward:
    cosine = clip.load(folder, architecture)
    cosine.scale = 1.0
    return ClipScore(cosine)


SCORES: dict[str, ScoreFamily] = {
    "hps": ScoreFamily(_hps, lambda path, _, architecture: hps.check(path, architecture)),
    "pick_score": ScoreFamily(_pick_score, lambda path, _, architecture: clip.check(path, architecture)),
    "clip_score": ScoreFamily(_clip_score, lambda path, _, architecture: clip.check(path, architecture)),
    "image_reward": ScoreFamily(
        lambda path, words, _: image_reward.load(path, words),
        lambda path, words, _: image_reward.check(path, words),
        companion="BERT's vocab.txt, such as hf://google-bert/bert-base-uncased/vocab.txt",
    ),
    "aesthetic": ScoreFamily(
        lambda head, encoder, _: aesthetic.load(head, encoder),
        lambda head, encoder, _: aesthetic.check(head, encoder),
        companion="the SigLIP folder that its head reads, such as hf://google/siglip-so400m-patch14-384",
        reads_text=False,
    ),
}


def find_score(name: str, config: ScoreConfig) -> ScoreFamily:
    """The family of the score `name`; ConfigError if there is none, or if its companion is missing or not wanted."""
    key = f"evaluation.scores.{name}"
    if config.family not in SCORES:
        raise ConfigError(f"{key}.family: no score named {config.family!r}; choose from {sorted(SCORES)}")
    family = SCORES[config.family]
    if family.companion and config.companion is None:
        raise ConfigError(f"{key}.companion: {config.family} needs {family.companion}")
    if config.companion is not None and not family.companion:
        raise ConfigError(f"{key}.companion: {config.family} reads nothing beside its checkpoint; leave it out")
    return family


def load_score(name: str, config: ScoreConfig, checkpoint: Path, companion: Path | None) -> Reward:
    """The score at `checkpoint`, frozen, in float32."""
    return find_score(name, config).load(checkpoint, companion or checkpoint, config.architecture)


def check_score(name: str, config: ScoreConfig, checkpoint: Path, companion: Path | None) -> None:
    """Refuse a checkpoint that would fail later."""
    find_score(name, config).check(checkpoint, companion or checkpoint, config.architecture)
