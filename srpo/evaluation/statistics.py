"""Paired comparison of two models on the same prompts and seeds.

The unit is the prompt: its seeds are averaged first, because images of one prompt are no independent evidence. Then
prompts are resampled, each with the images of all models (paired bootstrap). Every level is a function of the weights
`w` that a resample gives the prompts (Efron & Tibshirani 1993, chapter 20), so all metrics come from one product:

    level(w) = w @ mean of the prompt's images             spread(w) = sqrt(w @ mean square - (w @ mean)^2)

Intervals are those of `srpo.evaluation.bootstrap`: of `spread` by the bootstrap-t, of all others by percentiles.

    detectable = (t(gate's level) + t(0.8 of the distribution)) * standard error by the jackknife
    unseen     = 1 - (half the doubt)^(1 / prompts)

What no prompt shows no interval of theirs can hold. Damage to a share p of all prompts is on none of n of them with
probability (1 - p)^n: of candidates that lose the content of every twentieth prompt, 36 % lose none of 20 and pass
for sound. An interval that allowed for it would be 0.17 wide on 20 prompts where nothing happened, and refuse every
model there; so where no prompt differs the interval is a point, and `unseen` says what may hide behind it.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t

from srpo.config import EvaluationConfig
from srpo.evaluation.bootstrap import Array, Bootstrap, equal
from srpo.report.schema import Comparison, Contrast, Level
from srpo.sample_size import MIN_PROMPTS
from srpo.wording import ROUNDING

ByPrompt = Mapping[str, Array]
"""Metric -> (prompts, seeds) of one model."""
POWER = 0.8
SPREAD, SPREAD_OF = "spread", "luminance"
LARGEST_SPREAD = 0.5
"""Standard deviation that values in [0, 1] can have at most (Popoviciu 1935)."""
LARGEST_LOG = 700.0  # of a float64, nearly


def make_contrast(
    scores: Mapping[str, ByPrompt], categories: Sequence[str], config: EvaluationConfig, seed: int
) -> Contrast:
    """The second of two models against the first, over all prompts and by category (one per prompt)."""
    (reference, before), (candidate, after) = scores.items()
    return Contrast(
        reference=reference,
        candidate=candidate,
        metrics=compare(before, after, config, seed),
        categories=compare_categories(before, after, categories, config, seed),
    )


def compare(
    reference: ByPrompt, candidate: ByPrompt, config: EvaluationConfig, seed: int, confidence: float | None = None
) -> dict[str, Comparison]:
    """Every metric of two models, and `spread`; intervals at `confidence`, the config's if None.

    ValueError if the scores do not pair up, are not finite, or come from fewer than `MIN_PROMPTS` prompts.
    """
    _check_pairs(reference, candidate)
    before, after = _Model(reference), _Model(candidate)
    count, names = before.num_prompts, before.names
    resample = Bootstrap(config.num_resamples, confidence or config.confidence, seed)
    pairs = [(before(weights), after(weights)) for weights in resample.weights(count)]
    old, new = (np.concatenate(side) for side in zip(*pairs, strict=True))
    changes = resample.ends(new - old, count)
    ratios = resample.ends(new / _positive(old), count)
    (low,), (high,) = (model(equal(count)) for model in (before, after))
    spreads = resample.studentised(_spread_changes, np.concatenate([before.moments, after.moments], axis=1))
    changes[:, -1] = spreads[:, 0]
    ratios[:, -1] = np.exp(np.minimum(spreads[:, 1], LARGEST_LOG)) if low[-1] > math.sqrt(ROUNDING) else np.nan
    errors, unseen = _errors(before, after), 1 - ((1 - resample.confidence) / 2) ** (1 / count)
    rows = {}
    for column, name in enumerate(names):
        ratio = ratios[:, column] if low[column] > 0 and np.isfinite(ratios[:, column]).all() else None
        differ = errors[column] > ROUNDING
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
            detectable=_to_detect(config.gate_confidence, count) * errors[column] if differ else None,
            unseen=None if differ or abs(high[column] - low[column]) > ROUNDING else unseen,
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
    lower[-1], upper[-1] = np.minimum(np.exp(resample.studentised(_log_spread, model.moments)[:, 0]), LARGEST_SPREAD)
    (values,) = model(equal(model.num_prompts))
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
        return np.concatenate([weights @ self.means, _spread(weights @ self.moments)[0]], axis=1)

    def without_each(self) -> Array:
        """The levels of all prompts but one, for each in turn: (prompts, metrics)."""
        return np.concatenate([_others(self.means), _spread(_others(self.moments))[0]], axis=1)


def _others(values: Array) -> Array:
    """(prompts, any) -> for each prompt the mean of all others."""
    return (values.sum(0) - values) / (len(values) - 1)


def _spread(moments: Array) -> tuple[Array, Array]:
    """(rows, 2) -> the spread (rows, 1), and how fast it grows with each moment (rows, 1, 2)."""
    mean, square = moments[:, :1], moments[:, 1:]
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return spread, _over(np.concatenate([-mean, np.full_like(mean, 0.5)], axis=1), spread)[:, None]


def _log_spread(moments: Array) -> tuple[Array, Array]:
    """The same of its logarithm."""
    spread, slope = _spread(moments)
    return np.log(spread), _over(slope, spread[:, None])


def _spread_changes(moments: Array) -> tuple[Array, Array]:
    """(rows, 4), of two models -> change of the spread and logarithm of its ratio, with their slopes."""
    values, slopes = [], []
    for statistic in (_spread, _log_spread):
        (before, slope_before), (after, slope_after) = map(statistic, np.split(moments, 2, axis=1))
        values.append(after - before)
        slopes.append(np.concatenate([-slope_before, slope_after], axis=2))
    return np.concatenate(values, axis=1), np.concatenate(slopes, axis=1)


def _errors(before: _Model, after: _Model) -> Array:
    """Standard error of the change of each metric, by the jackknife."""
    return np.sqrt((before.num_prompts - 1) * (after.without_each() - before.without_each()).var(0))


def _to_detect(confidence: float, count: int) -> float:
    """Standard errors that a true change must have for its interval to leave out 0 with probability `POWER`."""
    return float(t.ppf((1 + confidence) / 2, count - 1) + t.ppf(POWER, count - 1))


def _positive(values: Array) -> Array:
    """The values, nan where they are not positive: a ratio to them has no meaning."""
    return np.where(values > 0, values, np.nan)


def _over(values: Array, by: Array) -> Array:
    """The quotient, 0 where it has none."""
    return np.divide(values, by, out=np.zeros_like(values), where=by > 0)


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
