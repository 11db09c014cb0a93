"""No held-out prompt serves both the choice of a checkpoint and the verdict on it, and both see every category."""

from collections import Counter

import pytest

from srpo.prompts import read_prompts
from srpo.prompts.files import MIN_HELD_OUT
from srpo.prompts.split import split_held_out, take
from srpo.sample_size import MIN_PROMPTS


@pytest.mark.parametrize("share", [0.01, 0.25, 1 / 3, 0.5, 0.99])
@pytest.mark.parametrize("count", [6, 7, 30, 101])
def test_every_prompt_serves_once_and_both_sides_have_enough(count: int, share: float) -> None:
    monitor, verdict = split_held_out([""] * count, share)
    assert sorted(monitor + verdict) == list(range(count))
    assert len(monitor) == min(max(1, round(share * count)), count - 5)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
@pytest.mark.parametrize("count", range(MIN_HELD_OUT, 20))
def test_the_verdict_has_enough_for_an_interval(count: int, share: float) -> None:
    assert len(split_held_out([""] * count, share)[1]) >= MIN_PROMPTS


def test_prompts_without_categories_are_divided_evenly() -> None:
    assert split_held_out([""] * 12, 1 / 3)[0] == [1, 4, 7, 10]


@pytest.mark.parametrize("order", [range(200), [*range(0, 200, 2), *range(1, 200, 2)]])
def test_each_category_is_divided_alike_in_whatever_order_they_come(order: range | list[int]) -> None:
    prompts = read_prompts("builtin:photos", "held_out", 2000)
    categories = [prompts[place].category for place in order]
    monitor, _ = split_held_out(categories, 0.25)
    assert set(Counter(categories[place] for place in monitor).values()) == {5}
    assert len(monitor) == 50


def test_of_more_prompts_than_are_used_each_category_gives_its_share() -> None:
    categories = [*("a" * 8), *("b" * 4), *("c" * 4)]
    assert take(categories, 4) == [2, 6, 10, 14]
    assert Counter(categories[place] for place in take(categories, 8)) == {"a": 4, "b": 2, "c": 2}
    shuffled = categories[::2] + categories[1::2]
    assert Counter(shuffled[place] for place in take(shuffled, 8)) == {"a": 4, "b": 2, "c": 2}


@pytest.mark.parametrize("category", ["", "a"])
def test_without_a_choice_they_are_used_in_their_order(category: str) -> None:
    assert take([""] * 6, 4) == [0, 1, 2, 3]
    assert take([category] * 6, 6) == take([category] * 6, 9) == [0, 1, 2, 3, 4, 5]
