"""Preference rates with intervals for votes that share voters and prompts.

Votes of one voter, and votes on one prompt, be it the same pair of pictures or several, are no independent evidence.
The variance of the rate is clustered both ways (Cameron, Gelbach & Miller 2011, multi-way clustering), which says how
many independent votes it is worth:

    V = V(prompts) + V(voters) - V(votes of one voter on one prompt),    n = rate (1 - rate) / V

and Wilson's interval is taken at that n (Korn & Graubard 1998), with Student's quantile, because there may be few
voters: its degrees of freedom are min(voters, prompts) - 1, as usual for two ways of clustering (Cameron & Miller
2015). Satterthwaite's are mostly those of the prompts where two or three voters happen to agree: intervals of 0.95 then
covered 0.85 to 0.93, these 0.95 to 1. One voter speaks for other prompts, but not for other people.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from srpo.report.schema import Preference

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Opinion:
    """One vote, as a number."""

    voter: str
    prompt: str
    value: float
    """1 for the judged model, 0 for the reference, 0.5 for neither."""


def preference(question: str, opinions: Sequence[Opinion], confidence: float) -> Preference:
    """Rate and interval of one question."""
    values = np.array([opinion.value for opinion in opinions])
    voters, prompts = ([getattr(opinion, name) for opinion in opinions] for name in ("voter", "prompt"))
    lower, upper = interval(values, voters, prompts, confidence)
    return Preference(
        question=question,
        rate=float(values.mean()),
        lower=lower,
        upper=upper,
        for_reference=int((values == 0).sum()),
        ties=int((values == 0.5).sum()),
        for_candidate=int((values == 1).sum()),
    )


def interval(values: Array, voters: Sequence[str], prompts: Sequence[str], confidence: float) -> tuple[float, float]:
    """Interval of the mean of votes (votes,) in [0, 1]."""
    clusters = [groups for groups in (_groups(voters), _groups(prompts)) if groups.max() > 0]
    rate, count = float(values.mean()), len(values)
    parts = [_variance(values, groups) for groups in clusters]
    shared = _groups([f"{voter}\n{prompt}" for voter, prompt in zip(voters, prompts, strict=True)])
    both = sum(parts) - _variance(values, shared) if len(parts) == 2 else sum(parts)
    variance = max([both, *parts], default=0.0)
    sizes = [int(groups.max()) + 1 for groups in clusters]
    # where everybody agrees, no more is known than that many voters, or prompts, could have differed
    worth = min(count, rate * (1 - rate) / variance) if variance > 0 else min(sizes, default=1)
    freedom = max(1, min(sizes, default=2) - 1)
    return wilson(rate, worth, float(t.ppf((1 + confidence) / 2, freedom)))


def wilson(rate: float, count: float, quantile: float) -> tuple[float, float]:
    """Score interval of a share that `count` independent votes gave (Wilson 1927)."""
    shrink = quantile**2 / count
    centre = (rate + shrink / 2) / (1 + shrink)
    half = quantile / (1 + shrink) * math.sqrt(rate * (1 - rate) / count + shrink / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def _groups(names: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.array(names), return_inverse=True)[1]


def _variance(values: Array, groups: NDArray[np.int64]) -> float:
    """Variance of the mean if the groups are independent, and their members need not be."""
    sums = np.bincount(groups, weights=values - values.mean())
    return float((sums**2).sum()) / len(values) ** 2 * len(sums) / max(1, len(sums) - 1)
