"""Does the reward know a control word? A word it does not know moves its score, but not towards what the word means.

    shift      = mean over images of r(image, "<word>. <prompt>") - r(image, prompt)         (images of plain prompts)
    separation = P(r(shows, "<word>. <prompt>") > r(lacks, "<word>. <prompt>"))              (area under the ROC curve)
    distance   = mean over prompts of 1 - cos(text features with the word, without it)

`shows` and `lacks` are pictures of the same neutral prompts. Where an embedded world can render a word and its opposite
they are such renderings; elsewhere the model draws them, with the word in front of the prompt and without it, from the
same noise. Then a word that the model does not know counts as unknown as well: SRPO can do nothing with it either.

The verdict reads the interval of the separation (bootstrap over prompts), not the shift, which is large for made-up
words too: `known` if all of it lies at or above 0.75, `weak` if all of it lies above 0.5 (chance), otherwise `unknown`.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from srpo.config import RunConfig
from srpo.evaluation.bootstrap import Array, Bootstrap
from srpo.evaluation.images import ReportProgress
from srpo.evaluation.scores import check_captions
from srpo.generate import Painter, Sampling
from srpo.hub import resolve
from srpo.preference import with_word
from srpo.prompts import read_both
from srpo.prompts.split import take
from srpo.rewards import Reward, check_reward, load_reward
from srpo.rewards.dual_encoder import DualEncoderReward
from srpo.shapes.render import AXES, STYLES, parse_caption, render
from srpo.strict import Strict

Verdict = Literal["known", "weak", "unknown"]
Draw = Callable[[Sequence[str]], Tensor]
"""Prompts -> images (prompts, 3, height, width) in [0, 1]; the same noise at the same position."""

KNOWN, CHANCE = 0.75, 0.5
"""Bounds of the separation's interval that make a word `known`, and at least `weak`."""


class WordReport(Strict):
    """What the reward makes of one word."""

    word: str
    shift: float
    """Mean score with the word in front minus the score without, on images of the plain prompts."""
    separation: float
    """Share of pairs in which the picture that shows the word scores higher than the one that lacks it."""
    lower: float
    """Lower end of the separation's interval."""
    upper: float
    """Upper end of the separation's interval."""
    distance: float | None
    """Cosine distance of the text features from the plain prompt's; None for a reward without such features."""
    images: Literal["rendered", "drawn"]
    """Where the pictures of the separation come from."""
    verdict: Verdict


def measure_words(
    config: RunConfig, words: Sequence[str], num_prompts: int, progress: ReportProgress = lambda *_: None
) -> list[WordReport]:
    """One report per word for a run's reward and model, over so many of its held-out prompts.

    `progress` is told the number of pictures before the first is drawn, and of each. ConfigError before that.
    """
    settings, source = config.evaluation, resolve(config.reward.source, "reward")
    check_reward(config.reward, source)
    held_out = read_both(config.prompts)[1]
    prompts = [held_out[place].text for place in take([prompt.category for prompt in held_out], num_prompts)]
    if settings.world:
        check_captions(prompts)
    painter = Painter(config.model, resolve(config.model.source, "model"))
    sampling = Sampling(seed=config.seed, num_steps=settings.num_steps, guidance=settings.guidance)
    done, total = count(), len(prompts) * (1 + sum(not _is_rendered(word, settings.world) for word in words))

    def draw(texts: Sequence[str]) -> Tensor:
        images = []
        for image in painter.tensors(texts, sampling):
            images.append(image)
            progress("pictures", next(done), total)
        return torch.stack(images).float()

    progress("pictures", next(done), total)
    return report_words(
        load_reward(config.reward, source).to(painter.device),
        words,
        prompts,
        draw,
        settings.world,
        Bootstrap(settings.num_resamples, settings.confidence, config.seed),
    )


@torch.no_grad()
def report_words(
    reward: Reward, words: Sequence[str], prompts: Sequence[str], draw: Draw, world: str | None, resample: Bootstrap
) -> list[WordReport]:
    """One report per word over neutral prompts (at least two); `world`: an embedded one that can render words."""
    plain = draw(prompts)
    reports = []
    for word in words:
        texts = with_word(word, prompts)
        with_it, without = reward(plain, texts, prompts)
        rendered = _is_rendered(word, world)
        shows, lacks = _renderings(word, prompts, resample.seed, plain) if rendered else (draw(texts), plain)
        shown, lacking = (reward(images, texts)[0].double().cpu().numpy() for images in (shows, lacks))
        lower, upper = resample.interval(separation, shown, lacking)
        reports.append(
            WordReport(
                word=word,
                shift=float((with_it - without).double().mean()),
                separation=float(separation(shown, lacking)),
                lower=lower,
                upper=upper,
                distance=_distance(reward, texts, prompts),
                images="rendered" if rendered else "drawn",
                verdict=judge(lower),
            )
        )
    return reports


def separation(shows: Array, lacks: Array, axis: int = -1) -> Array:
    """Area under the ROC curve, ties counting half: (..., n) and (..., m) -> (...); `axis` is always the last."""
    pairs = shows[..., :, None] - lacks[..., None, :]
    return ((np.sign(pairs) + 1) / 2).mean((-2, -1))


def judge(lower: float) -> Verdict:
    """The verdict on a word, from the lower end of its separation's interval."""
    if lower >= KNOWN:
        return "known"
    return "weak" if lower > CHANCE else "unknown"


def _is_rendered(word: str, world: str | None) -> bool:
    """Whether an embedded world shows a word truly, so that the model need not draw it."""
    return world == "shapes" and word in STYLES


def _renderings(word: str, prompts: Sequence[str], seed: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures of the captions in a style of the Shapes world, and in the opposite one, where `like` lies."""
    (opposite,) = [other for pair in AXES.values() if word in pair for other in pair if other != word]
    contents = [parse_caption(prompt) for prompt in prompts]
    shows, lacks = (
        render(contents, [style] * len(contents), torch.Generator().manual_seed(seed)).to(like)
        for style in (word, opposite)
    )
    return shows, lacks


def _distance(reward: Reward, texts: Sequence[str], prompts: Sequence[str]) -> float | None:
    """Mean cosine distance between the texts' unit features."""
    if not isinstance(reward, DualEncoderReward):
        return None
    return float((1 - (reward.text_features(texts) * reward.text_features(prompts)).sum(-1)).mean())
