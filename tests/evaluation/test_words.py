"""What a reward knows of words, against rewards whose knowledge is known."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from srpo.evaluation.bootstrap import Bootstrap
from srpo.evaluation.words import WordReport, judge, report_words, separation
from srpo.shapes.render import HELD_OUT

PROMPTS = [content.caption for content in HELD_OUT]
RESAMPLE = Bootstrap(500, 0.95, seed=0)


class BrightnessReward:
    """Knows `Bright` and `Dark` by the mean pixel; any other word in front costs 2, whatever the picture."""

    SLOPE = {"a": 0.0, "Bright": 1.0, "Dark": -1.0}  # noqa: RUF012

    def __call__(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
        means = images.mean((1, 2, 3))
        return tuple(torch.stack([self._score(*pair) for pair in zip(means, group, strict=True)]) for group in texts)

    def _score(self, mean: Tensor, text: str) -> Tensor:
        slope = self.SLOPE.get(text.split()[0].strip("."))
        return 0 * mean - 2 if slope is None else slope * mean

    def to(self, device: torch.device) -> "BrightnessReward":
        return self


def draw(prompts: Sequence[str]) -> Tensor:
    """Pictures of one grey level each, 0.1 to 0.4; a bright model draws everything 0.5 lighter for `Bright`."""
    levels = torch.linspace(0.1, 0.4, len(prompts)) + torch.tensor([0.5 * ("Bright" in text) for text in prompts])
    return levels.reshape(-1, 1, 1, 1).expand(-1, 3, 32, 32)


def report(word: str, world: str | None) -> WordReport:
    (result,) = report_words(BrightnessReward(), [word], PROMPTS, draw, world, RESAMPLE)
    return result


@pytest.mark.parametrize("word", ["Bright", "Dark"])
def test_real_renderings_of_a_word_and_its_opposite_are_told_apart(word: str) -> None:
    """Their luminance ranges, 0.14-0.28 and 0.62-0.78, do not touch."""
    found = report(word, "shapes")
    assert (found.images, found.separation, found.lower, found.verdict) == ("rendered", 1.0, 1.0, "known")
    assert found.shift == pytest.approx(0.25 if word == "Bright" else -0.25)
    assert found.distance is None, "this reward has no text features"


def test_without_renderings_the_model_draws_the_word() -> None:
    found = report("Bright", None)
    assert (found.images, found.separation, found.verdict) == ("drawn", 1.0, "known")
    assert report("Dark", None).verdict == "unknown", "this model draws no darker for it"


def test_a_word_that_moves_every_score_alike_is_unknown_however_far_it_moves_them() -> None:
    found = report("Zorvex", "shapes")
    assert found.shift == pytest.approx(-2)
    assert (found.images, found.separation, found.verdict) == ("drawn", 0.5, "unknown")


def test_separation_is_mann_whitneys_u_as_a_share_of_all_pairs() -> None:
    assert float(separation(np.array([1.0, 3.0]), np.array([2.0, 1.0]))) == (0.5 + 0 + 1 + 1) / 4
    rows = separation(np.array([[1.0, 3.0], [5.0, 5.0]]), np.array([[2.0, 1.0], [5.0, 6.0]]))
    assert rows.tolist() == [0.625, 0.25]


@pytest.mark.parametrize(("lower", "verdict"), [(0.75, "known"), (0.74, "weak"), (0.5, "unknown"), (0.2, "unknown")])
def test_the_verdict_reads_the_lower_end(lower: float, verdict: str) -> None:
    assert judge(lower) == verdict
