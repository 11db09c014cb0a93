"""Semantic relative preference (arXiv:2509.06942, section 3.3)."""

from pathlib import Path

import pytest
import torch

from srpo.align import SigmaGrid
from srpo.config import AlignConfig, PreferenceConfig
from srpo.control_words import control_words
from srpo.preference import Branch, hinge, make_branches, relative_preference, strength

ALIGN, PREFERENCE = AlignConfig(), PreferenceConfig()


def branches(update: int, align: AlignConfig = ALIGN, preference: PreferenceConfig = PREFERENCE) -> list[Branch]:
    words, positions = control_words(preference), torch.tensor([200, 900])
    return make_branches(align, preference, words, SigmaGrid(align), positions, ["a cat", "a dog"], update)


@pytest.mark.parametrize(
    ("update", "positive", "negative"), [(1, "Detail", "Painting"), (4, "Natural-lighting", "Oil")]
)
def test_words_cycle_from_update_one_and_the_branches_exchange_roles(update: int, positive: str, negative: str) -> None:
    denoise, inversion = branches(update)
    assert denoise.target == inversion.other == [f"{positive}. a cat", f"{positive}. a dog"]
    assert denoise.other == inversion.target == [f"{negative}. a cat", f"{negative}. a dog"]


def test_k_is_read_on_each_branchs_own_schedule() -> None:
    denoise, inversion = branches(1)
    torch.testing.assert_close(denoise.k, torch.tensor([0.1 + 0.15 * 200 / 999, 0.1 + 0.15 * 900 / 999]))
    torch.testing.assert_close(inversion.k, torch.tensor([0.3 - 0.29 * 100 / 999, 0.3 - 0.29 * 800 / 999]))


def test_the_discount_is_read_where_k_is() -> None:
    denoise, inversion = branches(1, preference=PreferenceConfig(discount_shift=3.0))
    torch.testing.assert_close(denoise.discount, torch.tensor([0.6 / 1.4, 2.7 / 2.8]))  # 3 t / (1 + 2 t), t = m / 1000
    torch.testing.assert_close(inversion.discount, torch.tensor([0.3 / 1.2, 2.4 / 2.6]))  # at m = 100 and 800
    assert branches(1)[0].discount == 1.0


def test_only_the_branches_asked_for() -> None:
    assert [branch.name for branch in branches(1, AlignConfig(branches=("inversion",)))] == ["inversion"]


def test_formulas() -> None:
    target, other = torch.tensor([0.3, 0.2]), torch.tensor([0.1, 0.4])
    relative = relative_preference(target, other, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(relative, torch.tensor([0.2, -0.1]))
    torch.testing.assert_close(hinge(relative, 0.1), torch.tensor([0.0, 0.2]))


def test_strength_ends() -> None:
    assert strength((-0.1, 0.2), torch.tensor([0, 99]), 100).tolist() == pytest.approx([-0.1, 0.2])


@pytest.mark.parametrize("words", [(), ("",), ("Bright", "  ")])
def test_empty_words_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least 1 item|blank control word"):
        PreferenceConfig(positive=words)


def test_a_preset_gives_the_words_that_are_left_out() -> None:
    comic = PreferenceConfig(preset="comic", negative=("Oil",))
    assert (comic.positive, comic.negative, comic.prefix) == (("Comic", "Comic book"), ("Oil",), "Comic")
    assert PreferenceConfig(preset="comic", prefix=None).prefix is None
    assert PreferenceConfig.model_validate(comic.model_dump()) == comic
    realism = PreferenceConfig(preset="realism")
    assert (realism.positive, realism.negative) == (PREFERENCE.positive, PREFERENCE.negative)


def test_a_preset_that_does_not_exist_or_does_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="no preset named 'reality'; choose from"):
        PreferenceConfig(preset="reality")
    with pytest.warns(UserWarning, match="vivid has no effect"):
        PreferenceConfig(preset="vivid", positive=("Bright",), negative=("Dark",))
    with pytest.warns(UserWarning, match="comic has no effect"):
        PreferenceConfig(preset="comic", positive=("Bright",), negative=("Dark",), prefix=None)


def test_a_preset_that_gives_the_prefix_alone_is_no_mistake(recwarn: pytest.WarningsRecorder) -> None:
    assert PreferenceConfig(preset="comic", positive=("Bright",), negative=("Dark",)).prefix == "Comic"
    assert not recwarn.list


def test_words_of_a_file_reach_the_branches_of_their_prompt_and_update(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text(
        '{"prompt": "a dog", "positive": ["Loud", "Big"]}\n{"first_update": 4, "last_update": 5, "negative": "Dim"}'
    )
    preference = PreferenceConfig(words_file=str(path))

    def texts(update: int) -> tuple[list[str], list[str]]:
        denoise, _ = branches(update, preference=preference)
        return denoise.target, denoise.other

    assert texts(1) == (["Detail. a cat", "Big. a dog"], ["Painting. a cat", "Painting. a dog"])
    assert texts(4) == (["Natural-lighting. a cat", "Loud. a dog"], ["Dim. a cat", "Dim. a dog"])
