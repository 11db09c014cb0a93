"""Paired comparison of two models on the same prompts and seeds.

The unit is the prompt: its seeds are averaged first, because images of one prompt are no independent evidence. Then
prompts are resampled, each with the images of both models (paired bootstrap; BCa intervals, Efron 1987, by scipy, or
percentile ones where BCa is not defined). Set-level metrics and ratios are recomputed from every resample. Where there
are few prompts the bootstrap is too narrow, so its level is raised as Student's t is wider than the normal (Hesterberg
2015, "What Teachers Should Know About the Bootstrap", expanded percentile interval).
"""

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap, norm, t

from srpo.config import EvaluationConfig
from srpo.evaluation.schema import Comparison

Array = NDArray[np.float64]
Statistic = Callable[..., Array]
"""Arrays whose last axis runs over prompts -> one value per row."""

MIN_PROMPTS = 2
HIGHEST_LEVEL = 1 - 1e-9  # scipy takes nothing from 1 on; already the whole range of the resamples
RESAMPLES_AT_ONCE = 500  # bounds the memory, not the result


def compare(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], config: EvaluationConfig, seed: int
) -> dict[str, Comparison]:
    """Every metric of two models, each given as (prompts, seeds) scores per image; `spread` is added.

    ValueError if the scores do not pair up, are not finite, or come from a single prompt.
    """
    _check_pairs(reference, candidate)
    resample = Bootstrap(config.num_resamples, config.confidence, seed)
    rows = {
        name: _compare(_mean, [reference[name].mean(1)], [candidate[name].mean(1)], resample)
        | {"win_rate": _win_rate(candidate[name].mean(1) - reference[name].mean(1))}
        for name in reference
    }
    spread = _compare(_spread, _moments(reference["luminance"]), _moments(candidate["luminance"]), resample)
    rows["spread"] = spread | {"win_rate": None}
    return {name: Comparison.model_validate(row) for name, row in rows.items()}


class Bootstrap:
    """Resamples prompts; the same seed gives the same intervals."""

    def __init__(self, num_resamples: int, confidence: float, seed: int) -> None:
        self.num_resamples = num_resamples
        self.confidence = confidence
        self.seed = seed

    def interval(self, statistic: Statistic, *samples: Array) -> tuple[float, float]:
        """Interval of a statistic of samples (prompts,) that are resampled together; nan where a resample has no value.

        If no resample differs from another, the interval is a point.
        """
        level = expanded_level(self.confidence, len(samples[0]))
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", DegenerateDataWarning)  # like the divisions by 0, it ends as nan below
            result = bootstrap(
                samples,
                statistic,
                paired=True,
                vectorized=True,
                n_resamples=self.num_resamples,
                batch=RESAMPLES_AT_ONCE,
                confidence_level=level,
                method="BCa",
                rng=np.random.default_rng(self.seed),
            )
        low, high = result.confidence_interval
        if np.isnan(low) or np.isnan(high):
            tail = (1 - level) / 2
            low, high = np.quantile(result.bootstrap_distribution, [tail, 1 - tail])
        return float(low), float(high)


def expanded_level(confidence: float, count: int) -> float:
    """Level at which a bootstrap of `count` prompts covers about as often as `confidence` says."""
    width = math.sqrt(count / (count - 1)) * t.ppf((1 + confidence) / 2, count - 1)
    return min(1 - 2 * float(norm.sf(width)), HIGHEST_LEVEL)


def _compare(
    level: Statistic, reference: list[Array], candidate: list[Array], resample: Bootstrap
) -> dict[str, float | None]:
    """Change and ratio of a level that both models' prompts give, with intervals."""
    count = len(reference)
    before, after = float(level(*reference, axis=-1)), float(level(*candidate, axis=-1))

    def change(*samples: Array, axis: int) -> Array:
        return level(*samples[count:], axis=axis) - level(*samples[:count], axis=axis)

    def ratio(*samples: Array, axis: int) -> Array:
        return level(*samples[count:], axis=axis) / _positive(level(*samples[:count], axis=axis))

    lower, upper = resample.interval(change, *reference, *candidate)
    ratios = resample.interval(ratio, *reference, *candidate) if before > 0 else (math.nan, math.nan)
    known = all(map(math.isfinite, ratios))
    return {
        "reference": before,
        "candidate": after,
        "change": after - before,
        "lower": lower,
        "upper": upper,
        "ratio": after / before if known else None,
        "ratio_lower": ratios[0] if known else None,
        "ratio_upper": ratios[1] if known else None,
    }


def _positive(values: Array) -> Array:
    """The values, nan where they are not positive: a ratio to them has no meaning."""
    return np.where(values > 0, values, np.nan)


def _mean(values: Array, axis: int) -> Array:
    return values.mean(axis)


def _spread(means: Array, squares: Array, axis: int) -> Array:
    """Standard deviation over all images of the prompts, from each prompt's mean and mean square."""
    return np.sqrt(np.maximum(squares.mean(axis) - means.mean(axis) ** 2, 0))


def _moments(values: Array) -> list[Array]:
    """(prompts, seeds) -> mean and mean square of each prompt."""
    return [values.mean(1), (values**2).mean(1)]


def _win_rate(changes: Array) -> float:
    """Share of the prompts that rose; ties count half."""
    return float((changes > 0).mean() + 0.5 * (changes == 0).mean())


def _check_pairs(reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> None:
    for name in reference.keys() | candidate.keys():
        if name not in reference or name not in candidate or reference[name].shape != candidate[name].shape:
            raise ValueError(f"{name!r} was not scored on the same prompts and seeds by both models; score both alike")
        if len(reference[name]) < MIN_PROMPTS:
            raise ValueError(
                f"got {len(reference[name])} prompt, but an interval over prompts needs at least {MIN_PROMPTS}"
            )
        if not (np.isfinite(reference[name]).all() and np.isfinite(candidate[name]).all()):
            raise ValueError(f"{name!r} has scores that are not finite, which no mean survives; look at the images")
