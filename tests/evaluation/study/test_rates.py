"""Intervals of preference rates: known cases, and how often they cover the truth when voters and pairs differ."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from srpo.evaluation.study.rates import Opinion, interval, preference, wilson


@pytest.mark.parametrize(("wins", "count"), [(7, 10), (0, 12), (45, 60)])
def test_wilson_is_scipys(wins: int, count: int) -> None:
    expected = binomtest(wins, count).proportion_ci(0.9, method="wilson")
    assert wilson(wins / count, count, norm.ppf(0.95)) == pytest.approx((expected.low, expected.high))


def crossed(values: list[list[float]], per_prompt: int = 1) -> tuple[np.ndarray, list[str], list[str]]:
    """(voters, pairs) of values as votes; so many pairs in a row are of one prompt."""
    rows = [(value, f"v{v}", f"p{p // per_prompt}") for v, row in enumerate(values) for p, value in enumerate(row)]
    return np.array([row[0] for row in rows]), [row[1] for row in rows], [row[2] for row in rows]


def test_voters_who_say_the_same_are_worth_one_voter_to_the_pairs() -> None:
    """Ten copies of a voter say no more about other pairs than the one."""
    row = [1.0, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0]
    one = interval(*crossed([row]), 0.95)
    assert interval(*crossed([row] * 10), 0.95) == pytest.approx(one, abs=0.03)


def test_unanimity_is_no_certainty() -> None:
    lower, upper = interval(*crossed([[1.0] * 20] * 4), 0.95)
    assert upper == 1
    assert lower < 0.5  # four people
    assert interval(*crossed([[1.0] * 20]), 0.95)[0] > 0.8  # one person, twenty pairs: about other pairs only


def test_a_single_vote_says_nothing() -> None:
    lower, upper = interval(*crossed([[1.0]]), 0.95)
    assert lower < 0.05
    assert upper == 1


def test_ties_count_half() -> None:
    opinions = [Opinion("v", f"p{place}", value) for place, value in enumerate((1, 1, 0.5, 0))]
    found = preference("overall", opinions, 0.95)
    assert (found.for_candidate, found.ties, found.for_reference) == (2, 1, 1)
    assert found.rate == 0.625
    assert found.lower < 0.625 < found.upper


@pytest.mark.parametrize(
    ("voters", "prompts", "per_prompt", "lean"),
    [
        (1, 40, 1, 0.5),
        (2, 40, 1, 0.5),
        (3, 40, 1, 0.5),
        (5, 20, 1, 1.0),
        (8, 30, 1, 0.0),
        (20, 10, 4, 0.5),
        (20, 5, 8, 0.5),
    ],
)
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(
    voters: int, prompts: int, per_prompt: int, lean: float
) -> None:
    """Voters and prompts differ (logits with standard deviations 0.5 and 1); the truth is that of all of them."""
    generator = np.random.default_rng(0)
    habit, taste = generator.normal(size=(2000, 1)), generator.normal(size=(1, 2000))

    def chance(voter: np.ndarray, prompt: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(lean + 0.5 * voter + prompt)))

    everybody, covered = chance(habit, taste).mean(), []
    for _ in range(300):
        voter, prompt = generator.normal(size=(voters, 1)), generator.normal(size=(1, prompts))
        truth = chance(voter, taste).mean() if voters == 1 else everybody
        chances = np.repeat(chance(voter, prompt), per_prompt, axis=1)
        votes = (generator.random(chances.shape) < chances).astype(float)
        lower, upper = interval(*crossed(votes.tolist(), per_prompt), 0.95)
        covered.append(lower <= truth <= upper)
    assert np.mean(covered) > 0.945
