"""Paired comparison of two models on the same prompts and seeds.

The unit is the prompt: its seeds are averaged first, because images of one prompt are no independent evidence. Then
prompts are resampled, each with the images of all models (paired bootstrap). Every level is a function of the weights
`w` that a resample gives the prompts (Efron & Tibshirani 1993, chapter 20), so all metrics come from one product:

    level(w) = w @ mean of the prompt's images             spread(w) = sqrt(w @ mean square - (w @ mean)^2)

Intervals are expanded percentile intervals (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"): where
there are few prompts the bootstrap is too narrow, so its level is raised as Student's t is wider than the normal. BCa
intervals were tried and cover less: differences of skewed scores have heavy tails on both sides, and the skewness that
BCa corrects for is then an accident of the sample (0.89 instead of 0.94 for lognormal scores on 50 prompts).

    detectable = (t(gate's level) + t(0.8 of the distribution)) * standard error by the jackknife
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from srpo.config import EvaluationConfig
from srpo.report.schema import Comparison, Level
from srpo.sample_size import MIN_PROMPTS

Array = NDArray[np.float64]
ByPrompt = Mapping[str, Array]
"""Metric -> (prompts, seeds) of one model."""
Statistic = Callable[..., Array]
"""Arrays whose last axis runs over prompts -> one value per row."""

POWER = 0.8
RESAMPLES_AT_ONCE = 500  # bounds the memory, not the result
SPREAD, SPREAD_OF = "spread", "luminance"


def compare(
    reference: ByPrompt, candidate: ByPrompt, config: EvaluationConfig, seed: int, confidence: float | None = None
) -> dict[str, Comparison]:
    """Every metric of two models, and `spread`; intervals at `confidence`, the config's if None.

    ValueError if the scores do not pair up, are not finite, or come from fewer than `MIN_PROMPTS` prompts.
    """
    _check_pairs(reference, candidate)
    before, after = _Model(reference), _Model(candidate)
    resample = Bootstrap(config.num_resamples, confidence or config.confidence, seed)
    pairs = [(before(weights), after(weights)) for weights in resample.weights(before.num_prompts)]
    old, new = (np.concatenate(side) for side in zip(*pairs, strict=True))
    changes = resample.ends(new - old, before.num_prompts)
    ratios = resample.ends(new / _positive(old), before.num_prompts)
    detectable = _detectable(before, after, config.gate_confidence)
    (low,), (high,) = (model(_equal(before.num_prompts)) for model in (before, after))
    rows = {}
    for column, name in enumerate(before.names):
        ratio = ratios[:, column] if low[column] > 0 and np.isfinite(ratios[:, column]).all() else None
        rows[name] = Comparison(
            reference=low[column],
            candidate=high[column],
            change=high[column] - low[column],
            lower=changes[0, column],
            upper=changes[1, column],
            win_rate=None if name == SPREAD else _win_rate(after.means[:, column] - before.means[:, column]),
            ratio=None if ratio is None else high[column] / low[column],
            ratio_lower=None if ratio is None else ratio[0],
            ratio_upper=None if ratio is None else ratio[1],
            detectable=detectable[column],
        )
    return rows


def compare_categories(
    reference: ByPrompt, candidate: ByPrompt, categories: Sequence[str], config: EvaluationConfig, seed: int
) -> dict[str, dict[str, Comparison]]:
    """The comparison on the prompts of each category that has at least `MIN_PROMPTS` of them."""
    found = {}
    for category in sorted(set(categories) - {""}):
        members = [index for index, name in enumerate(categories) if name == category]
        if len(members) >= MIN_PROMPTS:
            before, after = (
                {name: values[members] for name, values in side.items()} for side in (reference, candidate)
            )
            found[category] = compare(before, after, config, seed)
    return found


def measure_levels(scores: ByPrompt, config: EvaluationConfig, seed: int) -> dict[str, Level]:
    """Every metric of one model, and `spread`."""
    model, resample = _Model(scores), Bootstrap(config.num_resamples, config.confidence, seed)
    resampled = np.concatenate([model(weights) for weights in resample.weights(model.num_prompts)])
    lower, upper = resample.ends(resampled, model.num_prompts)
    (values,) = model(_equal(model.num_prompts))
    columns = zip(model.names, values, lower, upper, strict=True)
    return {name: Level(value=value, lower=low, upper=high) for name, value, low, high in columns}


class _Model:
    """One model's levels as a function of the prompts' weights."""

    def __init__(self, scores: ByPrompt) -> None:
        self.names = [*scores, SPREAD]
        self.means = np.stack([values.mean(1) for values in scores.values()], axis=1)
        self.moments = np.stack([scores[SPREAD_OF].mean(1), (scores[SPREAD_OF] ** 2).mean(1)], axis=1)
        self.num_prompts = len(self.means)

    def __call__(self, weights: Array) -> Array:
        """(rows, prompts), each row adding up to 1 -> (rows, metrics)."""
        mean, square = (weights @ self.moments).T
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        return np.concatenate([weights @ self.means, spread[:, None]], axis=1)


class Bootstrap:
    """Resamples prompts; the same seed gives the same intervals."""

    def __init__(self, num_resamples: int, confidence: float, seed: int) -> None:
        self.num_resamples = num_resamples
        self.confidence = confidence
        self.seed = seed

    def interval(self, statistic: Statistic, *samples: Array) -> tuple[float, float]:
        """Interval of any statistic of samples (prompts,) that are resampled together."""
        count = len(samples[0])
        parts = [statistic(*(sample[rows] for sample in samples), axis=-1) for rows in self._draws(count)]
        low, high = self.ends(np.concatenate(parts), count)
        return float(low), float(high)

    def weights(self, count: int) -> Iterator[Array]:
        """The share that each of `count` prompts has of a resample: some rows (resamples, prompts) at a time."""
        for rows in self._draws(count):
            places = rows + count * np.arange(len(rows))[:, None]
            times = np.bincount(places.ravel(), minlength=rows.size)
            yield times.reshape(rows.shape) / count

    def ends(self, resampled: Array, count: int) -> Array:
        """Lower and upper ends (2, ...) of what resamples of `count` prompts gave (resamples, ...).

        nan where a resample has no value; a point if no resample differs from another.
        """
        tail = (1 - expanded_level(self.confidence, count)) / 2
        return np.quantile(resampled, [tail, 1 - tail], axis=0)

    def _draws(self, count: int) -> Iterator[NDArray[np.int64]]:
        """Numbers of the prompts of some resamples at a time."""
        generator = np.random.default_rng(self.seed)
        for start in range(0, self.num_resamples, RESAMPLES_AT_ONCE):
            rows = min(RESAMPLES_AT_ONCE, self.num_resamples - start)
            yield generator.integers(0, count, (rows, count))


def expanded_level(confidence: float, count: int) -> float:
    """Level at which a bootstrap of `count` prompts covers about as often as `confidence` says."""
    width = math.sqrt(count / (count - 1)) * t.ppf((1 + confidence) / 2, count - 1)
    return 1 - 2 * float(norm.sf(width))


def _detectable(before: _Model, after: _Model, confidence: float) -> Array:
    """Smallest true change of each metric whose interval leaves out 0 with probability `POWER`."""
    count = before.num_prompts
    left_out = (1 - np.eye(count)) / (count - 1)
    changes = after(left_out) - before(left_out)
    error = np.sqrt((count - 1) * changes.var(0))
    return (t.ppf((1 + confidence) / 2, count - 1) + t.ppf(POWER, count - 1)) * error


def _equal(count: int) -> Array:
    """The prompts as they are, in one row of weights."""
    return np.full((1, count), 1 / count)


def _positive(values: Array) -> Array:
    """The values, nan where they are not positive: a ratio to them has no meaning."""
    return np.where(values > 0, values, np.nan)


def _win_rate(changes: Array) -> float:
    """Share of the prompts that rose; ties count half."""
    return float((changes > 0).mean() + 0.5 * (changes == 0).mean())


def _check_pairs(reference: ByPrompt, candidate: ByPrompt) -> None:
    for name in reference.keys() | candidate.keys():
        if name not in reference or name not in candidate or reference[name].shape != candidate[name].shape:
            raise ValueError(f"{name!r} was not scored on the same prompts and seeds by both models; score both alike")
        if len(reference[name]) < MIN_PROMPTS:
            raise ValueError(
                f"got {len(reference[name])} prompts, but an interval over prompts needs at least {MIN_PROMPTS}"
            )
        if not (np.isfinite(reference[name]).all() and np.isfinite(candidate[name]).all()):
            raise ValueError(f"{name!r} has scores that are not finite, which no mean survives; look at the images")
