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
from torch import nn

from srpo.config import ScoreConfig
from srpo.errors import ConfigError
from srpo.hub import is_remote, resolve, survey, without_weights
from srpo.rewards import Reward, aesthetic, clip, hps, image_reward
from srpo.rewards.clip_score import ClipScore
from srpo.rewards.preprocessing import hps_preprocessing

BYTES_PER_VALUE = 4


@dataclass(frozen=True)
class ScoreFamily:
    """How a score is loaded and checked."""

    load: Callable[[Path, Path, str], Reward]
    """(checkpoint, companion or the checkpoint again, architecture) -> frozen score."""
    check: Callable[[Path, Path, str], None]
    """Names and shapes without loading; ConfigError names what is wrong."""
    skeleton: Callable[[Path, Path, str], nn.Module] | None
    """(places as for `load`) -> the score on the meta device; None where only the tensors tell its sizes."""
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


def _check_clip(folder: Path, _: Path, architecture: str) -> None:
    clip.check(folder, architecture)


def _clip_skeleton(folder: Path, _: Path, architecture: str) -> nn.Module:
    return clip.skeleton(folder, architecture)


SCORES: dict[str, ScoreFamily] = {
    "hps": ScoreFamily(
        _hps,
        lambda path, _, architecture: hps.check(path, architecture),
        lambda path, _, architecture: hps.skeleton(path, architecture),
    ),
    "pick_score": ScoreFamily(_pick_score, _check_clip, _clip_skeleton),
    "clip_score": ScoreFamily(_clip_score, _check_clip, _clip_skeleton),
    "image_reward": ScoreFamily(
        lambda path, words, _: image_reward.load(path, words),
        lambda path, words, _: image_reward.check(path, words),
        None,
        companion="BERT's vocab.txt, such as hf://google-bert/bert-base-uncased/vocab.txt",
    ),
    "aesthetic": ScoreFamily(
        lambda head, encoder, _: aesthetic.load(head, encoder),
        lambda head, encoder, _: aesthetic.check(head, encoder),
        lambda _, encoder, __: aesthetic.skeleton(encoder),
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


def score_bytes(name: str, config: ScoreConfig) -> int:
    """Bytes that a score's weights take once they are loaded; of what is not here only small files are fetched."""
    skeleton = find_score(name, config).skeleton
    if skeleton is None:  # the file is kept in float32
        remote = is_remote(config.source)
        return survey(config.source, "score").size if remote else resolve(config.source, "score").stat().st_size
    places = [without_weights(source, "score") for source in config.sources]
    weights = skeleton(places[0], places[-1], config.architecture).parameters()
    return sum(BYTES_PER_VALUE * weight.numel() for weight in weights)
