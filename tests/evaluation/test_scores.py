"""Scores against rewards and images whose values are known."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from srpo.config import EvaluationConfig, PreferenceConfig, ScoreConfig
from srpo.criteria import Criterion
from srpo.errors import ConfigError
from srpo.evaluation.scores import HeldOutScore, Scorer, metric_names, summarise
from srpo.shapes.render import HELD_OUT

VALUES = {"Bright": 3.0, "Light": 1.0, "Dark": 0.5, "a": 7.0}


class WordReward:
    """The value of a text's first word, plus its image's mean; notes how often images were looked at."""

    def __init__(self) -> None:
        self.calls: list[tuple[Sequence[str], ...]] = []
        self.places: list[str] = []

    def __call__(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
        self.calls.append(texts)
        means = images.mean((1, 2, 3))
        return tuple(means + torch.tensor([VALUES[text.split()[0].strip(".")] for text in list_]) for list_ in texts)

    def to(self, device: torch.device) -> "WordReward":
        self.places.append(str(device))
        return self


IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PREFERENCE = PreferenceConfig(positive=("Bright", "Light"), negative=("Dark",))


def test_relative_is_the_mean_over_positive_minus_the_mean_over_negative_words() -> None:
    reward = WordReward()
    scores = Scorer([Criterion("", reward, PREFERENCE)])(IMAGES, ["a cat"] * 4)
    torch.testing.assert_close(scores["relative"], torch.full((4,), (3.0 + 1.0) / 2 - 0.5))
    torch.testing.assert_close(scores["reward"], 7 + IMAGES.mean((1, 2, 3)))
    assert [texts[0] for texts in reward.calls[0]] == ["a cat", "Bright. a cat", "Light. a cat", "Dark. a cat"]
    assert len(reward.calls) == 1


def test_the_names_are_those_that_scores_and_summary_have() -> None:
    scores = Scorer([Criterion("", WordReward(), PREFERENCE)])(IMAGES, ["a cat"] * 4)
    assert set(summarise(scores)) == set(metric_names(EvaluationConfig()))
    assert set(metric_names(EvaluationConfig(world="shapes"))) - set(metric_names(EvaluationConfig())) == {
        "content",
        "texture",
    }


def test_scores_keep_no_gradient() -> None:
    scores = Scorer([Criterion("", WordReward(), PREFERENCE)])(IMAGES.clone().requires_grad_(), ["a cat"] * 4)
    assert not any(values.requires_grad for values in scores.values())


def test_summary_is_the_mean_and_spread_the_deviation_between_images() -> None:
    summary = summarise({"luminance": torch.tensor([0.2, 0.6]), "reward": torch.tensor([1.0, 4.0])})
    assert summary == pytest.approx({"luminance": 0.4, "reward": 2.5, "spread": 0.2})


def test_equal_images_have_no_spread_whatever_their_contrast() -> None:
    scores = Scorer([Criterion("", WordReward(), PREFERENCE)])(IMAGES[:1].expand(5, -1, -1, -1), ["a cat"] * 5)
    assert summarise(scores)["spread"] == pytest.approx(0, abs=1e-7)


def test_shapes_measures_texture_and_content() -> None:
    prompts = [content.caption for content in HELD_OUT[:4]]
    images = torch.zeros(4, 3, 32, 32)
    scores = Scorer([Criterion("", WordReward(), PREFERENCE)], "shapes")(images, prompts)
    assert scores["texture"].abs().max() == 0
    assert scores["content"].tolist() == [0.0] * 4


def test_a_held_out_score_has_its_own_name_and_words() -> None:
    score = HeldOutScore(WordReward(), ("Light",), ("Dark",))
    scores = Scorer([Criterion("", WordReward(), PREFERENCE)], scores={"pick": score})(IMAGES, ["a cat"] * 4)
    torch.testing.assert_close(scores["relative/pick"], torch.full((4,), 1.0 - 0.5))
    torch.testing.assert_close(scores["pick"], scores["reward"])
    torch.testing.assert_close(scores["relative"], torch.full((4,), 1.5))


def test_a_score_that_reads_no_prompt_has_no_relative_one() -> None:
    scores = Scorer([Criterion("", WordReward(), PREFERENCE)], scores={"beauty": HeldOutScore(WordReward(), (), ())})(
        IMAGES, ["a"] * 4
    )
    assert "relative/beauty" not in scores and scores["beauty"].shape == (4,)


def test_metric_names_count_held_out_scores() -> None:
    beauty = ScoreConfig(family="aesthetic", source="head.pth", companion="siglip")
    names = metric_names(
        EvaluationConfig(
            scores={"pick": ScoreConfig(family="pick_score", source="x"), "beauty": beauty}, grid_periods=(8,)
        )
    )
    assert names == [*metric_names(EvaluationConfig(grid_periods=(8,))), "pick", "relative/pick", "beauty"]


@pytest.mark.parametrize("name", ["luminance", "spread", "drift", "diversity", "update", "violations", "of"])
def test_a_score_takes_the_name_of_nothing_else(name: str) -> None:
    beauty = ScoreConfig(family="aesthetic", source="head.pth", companion="siglip")
    with pytest.raises(ConfigError, match=rf"evaluation\.scores\.{name}: that name is taken"):
        metric_names(EvaluationConfig(scores={name: beauty}))


def test_held_out_scores_leave_the_gpu_to_training_whatever_ends_a_measurement() -> None:
    judge = WordReward()
    scorer = Scorer([], scores={"judge": HeldOutScore(judge, (), ())})
    with pytest.raises(KeyboardInterrupt), scorer.scores_at(torch.device("cuda")):
        assert judge.places == ["cuda"]
        raise KeyboardInterrupt
    assert judge.places == ["cuda", "cpu"]
