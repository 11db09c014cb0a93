"""Semantic relative preference (method section 3)."""

import pytest
import torch

from srpo.align import SigmaGrid
from srpo.config import AlignConfig, PreferenceConfig
from srpo.preference import hinge, make_branches, relative_preference, strength

ALIGN, PREFERENCE = AlignConfig(), PreferenceConfig()


def branches(update: int, align: AlignConfig = ALIGN) -> list:
    return make_branches(align, PREFERENCE, SigmaGrid(align), torch.tensor([200, 900]), ["a cat", "a dog"], update)


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
