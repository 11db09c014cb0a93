"""Paired statistics against hand-computed cases, scipy's own functions, and the coverage they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from srpo.config import Bound, EvaluationConfig, MonitorConfig, RunConfig
from srpo.evaluation.bootstrap import LEAST_BEYOND, MOST_RESAMPLES, Array, Bootstrap, expanded_level
from srpo.evaluation.gate import Evidence, judge
from srpo.evaluation.statistics import compare, compare_categories, measure_levels
from srpo.sample_size import MIN_PROMPTS

CONFIG = EvaluationConfig(num_resamples=2000)


def scores(prompts: int = 40, seeds: int = 3, shift: float = 0.0, seed: int = 0) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(1 + shift, 0.1, (prompts, seeds)) for name in ("luminance", "relative")}


def test_means_change_ratio_and_win_rate_by_hand() -> None:
    base = {"luminance": np.array([[0.2, 0.4], [0.5, 0.5], [0.6, 0.8], [0.3, 0.3], [0.1, 0.3]])}
    trained = {"luminance": np.array([[0.4, 0.6], [0.5, 0.5], [0.5, 0.7], [0.4, 0.4], [0.1, 0.3]])}
    row = compare(base, trained, CONFIG, 0)["luminance"]
    assert (row.reference, row.candidate) == pytest.approx((2.0 / 5, 2.2 / 5))
    assert row.change == pytest.approx(0.2 / 5)
    assert row.ratio == pytest.approx(2.2 / 2.0)
    assert row.win_rate == pytest.approx((2 + 2 * 0.5 + 0) / 5)  # two rose, two tied, one fell


def test_the_interval_is_scipys_expanded_percentile_interval_over_prompt_means() -> None:
    base, trained = scores(), scores(shift=0.05, seed=1)
    row = compare(base, trained, CONFIG, 7)["relative"]
    change = (trained["relative"] - base["relative"]).mean(1)
    settings = {"n_resamples": 2000, "batch": 500, "confidence_level": expanded_level(0.95, len(change))}
    settings["method"] = "percentile"
    expected = stats.bootstrap((change,), np.mean, rng=np.random.default_rng(7), **settings).confidence_interval
    assert (row.lower, row.upper) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert row.lower < row.change < row.upper


def test_seeds_of_a_prompt_are_no_independent_evidence() -> None:
    """Repeating each prompt's image ten times must not narrow the interval."""
    base, trained = scores(seeds=1), scores(seeds=1, seed=1)
    repeated = [{name: np.repeat(values, 10, axis=1) for name, values in side.items()} for side in (base, trained)]
    once, ten = compare(base, trained, CONFIG, 0), compare(repeated[0], repeated[1], CONFIG, 0)
    for name in once:
        assert (once[name].lower, once[name].upper) == pytest.approx((ten[name].lower, ten[name].upper), abs=1e-9)


def test_pairing_removes_what_prompts_have_in_common() -> None:
    base = scores(seeds=1)
    rise = np.random.default_rng(5).normal(0.01, 0.001, (40, 1))
    trained = {name: values + rise for name, values in base.items()}
    row = compare(base, trained, CONFIG, 0)["relative"]
    assert 0 < row.lower < row.upper < 0.02  # unpaired, the prompts' own 0.1 would hide a change of 0.01


def test_spread_is_the_deviation_over_all_images() -> None:
    base, trained = scores(), scores(seed=1)
    trained["luminance"] = trained["luminance"].mean() + 0.5 * (trained["luminance"] - trained["luminance"].mean())
    row = compare(base, trained, CONFIG, 0)["spread"]
    assert row.reference == pytest.approx(base["luminance"].std())
    assert row.candidate == pytest.approx(trained["luminance"].std())
    assert row.win_rate is None
    assert row.ratio is not None
    assert row.ratio_lower is not None
    assert row.ratio_upper is not None
    assert row.ratio_lower < row.ratio < row.ratio_upper < 1
    assert row.upper < 0


def test_equal_changes_give_a_point_that_says_what_may_hide_behind_it() -> None:
    base = {"luminance": np.array([[0.25], [0.5], [0.75], [0.5], [0.0]]), "content": np.ones((5, 1))}
    trained = {"luminance": base["luminance"] + 0.125, "content": np.ones((5, 1))}
    rows = compare(base, trained, CONFIG, 0)
    assert (rows["luminance"].lower, rows["luminance"].upper) == pytest.approx((0.125, 0.125), abs=1e-12)
    assert (rows["content"].lower, rows["content"].upper, rows["content"].win_rate) == (0, 0, 0.5)
    (nothing,) = {stats.binomtest(0, 5).proportion_ci(0.95).high}
    assert {row.detectable for row in rows.values()} == {None}
    assert rows["content"].unseen == rows["spread"].unseen == pytest.approx(nothing)
    assert rows["luminance"].unseen is None, "every prompt differs, by the same"
    trained["content"][0] = 0
    seen = compare(base, trained, CONFIG, 0)["content"]
    assert seen.unseen is None and seen.detectable is not None and seen.lower < -0.2


def test_a_spread_of_nothing_has_ends_all_the_same() -> None:
    """All pictures alike: of the candidate, of the base, of both."""
    alike, different = {"luminance": np.full((6, 2), 0.5)}, {"luminance": np.linspace(0, 1, 12).reshape(6, 2)}
    lost, gained, none = (
        compare(*sides, CONFIG, 0)["spread"] for sides in ((different, alike), (alike, different), (alike, alike))
    )
    assert lost.lower < lost.change < lost.upper < 0
    assert (lost.ratio, lost.ratio_upper) == pytest.approx((0, 0), abs=1e-6)
    assert 0 < gained.lower < gained.change < gained.upper
    assert gained.ratio is None
    assert (none.lower, none.upper, none.ratio) == (0, 0, None)
    assert measure_levels(alike, CONFIG, 0)["spread"].upper == pytest.approx(0, abs=1e-6)


def test_the_fewest_pictures_have_a_ratio_of_spreads() -> None:
    """One picture of each of five prompts; some resamples repeat a single one."""
    luminance = np.array([[0.1], [0.3], [0.4], [0.6], [0.9]])
    row = compare({"luminance": luminance}, {"luminance": luminance**2}, CONFIG, 0)["spread"]
    assert row.ratio is not None and row.ratio_lower is not None and row.ratio_upper is not None
    assert 0 < row.ratio_lower < row.ratio < row.ratio_upper < np.inf
    assert compare({"luminance": luminance}, {"luminance": luminance**2}, CONFIG, 0, 0.9999)["spread"].ratio
    bright = np.array([[0.02], [0.03], [0.01], [0.02], [0.95]])
    assert measure_levels({"luminance": bright}, CONFIG, 0)["spread"].upper == 0.5, "none of luminance is larger"


@pytest.mark.parametrize("num_prompts", [5, 20, 200])
def test_the_ends_lie_within_what_was_drawn(num_prompts: int) -> None:
    """Whatever the level: the fewest resamples that a config may ask for do not hold the quantiles of 14 limits."""
    resample = Bootstrap(100, 1 - 0.05 / 14, 0)
    means = np.concatenate([weights @ np.arange(num_prompts) for weights in resample.weights(num_prompts)])
    lower, _ = resample.ends(means, num_prompts)
    assert (means < lower).sum() >= LEAST_BEYOND / 2 or len(means) == MOST_RESAMPLES
    assert len(list(Bootstrap(3000, 0.9, 0).weights(200))) == 6  # 500 at a time


@pytest.mark.parametrize("of_the_last_prompt", [0.0, -0.1, 0.1])
def test_there_is_no_ratio_to_a_base_that_may_be_zero(of_the_last_prompt: float) -> None:
    base = np.zeros((10, 2))
    base[-1] = of_the_last_prompt
    rows = compare(scores(10, 2) | {"clipped": base}, scores(10, 2) | {"clipped": base + 0.1}, CONFIG, 0)
    assert rows["clipped"].ratio is rows["clipped"].ratio_lower is rows["clipped"].ratio_upper is None
    assert rows["clipped"].change == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    base, trained = scores(), scores(seed=1)
    assert compare(base, trained, CONFIG, 3) == compare(base, trained, CONFIG, 3)
    assert compare(base, trained, CONFIG, 3)["relative"].lower != compare(base, trained, CONFIG, 4)["relative"].lower


def test_a_higher_confidence_widens_the_interval() -> None:
    base, trained = scores(), scores(seed=1)
    wide = compare(base, trained, CONFIG.model_copy(update={"confidence": 0.99}), 0)["relative"]
    narrow = compare(base, trained, CONFIG, 0)["relative"]
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_a_confidence_that_is_asked_for_comes_before_the_configs() -> None:
    base, trained = scores(), scores(seed=1)
    configured = CONFIG.model_copy(update={"confidence": 0.99})
    asked, expected = compare(base, trained, CONFIG, 0, 0.99), compare(base, trained, configured, 0)
    for name, row in asked.items():
        assert row.model_copy(update={"detectable": None}) == expected[name].model_copy(update={"detectable": None})


@pytest.mark.parametrize("count", [1, 4])
def test_too_few_prompts_for_an_interval_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} prompts, but .* at least 5"):
        compare(scores(count), scores(count), CONFIG, 0)


def test_scores_of_other_prompts_or_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts and seeds"):
        compare(scores(5), scores(6), CONFIG, 0)
    with pytest.raises(ValueError, match="'content' was not scored"):
        compare(scores(5), scores(5) | {"content": np.ones((5, 3))}, CONFIG, 0)


def test_scores_that_are_not_finite_are_refused() -> None:
    broken = scores()
    broken["relative"][2, 1] = np.nan
    for pair in ((scores(), broken), (broken, scores())):
        with pytest.raises(ValueError, match="'relative' has scores that are not finite"):
            compare(*pair, CONFIG, 0)


def test_the_level_is_raised_for_few_prompts_only() -> None:
    assert expanded_level(0.95, 10) == pytest.approx(2 * stats.norm.cdf(2.262157 * (10 / 9) ** 0.5) - 1, abs=1e-6)
    assert expanded_level(0.95, 10_000) == pytest.approx(0.95, abs=1e-4)
    assert expanded_level(0.95, 2) <= 1


def test_any_statistic_of_resampled_prompts_has_the_interval_that_the_weights_give() -> None:
    values = np.random.default_rng(3).gamma(2.0, 1.0, 40)
    resample = Bootstrap(2000, 0.95, 5)
    means = np.concatenate([weights @ values for weights in resample.weights(40)])
    assert resample.interval(lambda sample, axis: sample.mean(axis), values) == pytest.approx(resample.ends(means, 40))


def test_levels_of_one_model_and_the_comparison_agree() -> None:
    base, trained = scores(), scores(shift=0.05, seed=1)
    rows, levels = compare(base, trained, CONFIG, 0), measure_levels(trained, CONFIG, 0)
    assert list(levels) == list(rows)
    assert all(levels[name].value == pytest.approx(rows[name].candidate) for name in rows)
    assert all(level.lower < level.value < level.upper for level in levels.values())


def test_the_detectable_change_by_hand() -> None:
    """Standard error of the mean change, times the quantiles of t that power and level ask for."""
    base = {"luminance": np.array([[0.2], [0.4], [0.5], [0.7], [0.3]])}
    trained = {"luminance": np.array([[0.3], [0.4], [0.8], [0.9], [0.3]])}
    changes = np.array([0.1, 0.0, 0.3, 0.2, 0.0])
    settings = CONFIG.model_copy(update={"correction": "none"})
    expected = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * stats.sem(changes)
    assert compare(base, trained, settings, 0)["luminance"].detectable == pytest.approx(expected)
    spreads = [[np.delete(side["luminance"], i).std() for i in range(5)] for side in (base, trained)]
    expected_spread = expected / stats.sem(changes) * math.sqrt(4 * np.subtract(*spreads).var())
    assert compare(base, trained, settings, 0)["spread"].detectable == pytest.approx(expected_spread)
    strict = compare(base, trained, CONFIG, 0)["luminance"].detectable
    assert strict == pytest.approx(
        expected
        / (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4))
        * (stats.t.ppf((1 + CONFIG.gate_confidence) / 2, 4) + stats.t.ppf(0.8, 4))
    )


def test_categories_are_compared_on_their_own_prompts_if_there_are_enough() -> None:
    base, trained = scores(14), scores(14, shift=0.05, seed=1)
    categories = ["animals"] * 5 + ["streets"] * 5 + ["rare"] * 2 + [""] * 2
    found = compare_categories(base, trained, categories, CONFIG, 0)
    assert list(found) == ["animals", "streets"]
    alone = ({name: values[5:10] for name, values in side.items()} for side in (base, trained))
    assert found["streets"] == compare(*alone, CONFIG, 0)


# Simulations: what an interval and a gate promise is what they do, over 2,000 evaluations.

KINDS = ("normal", "skewed", "binary", "nearly always right")
RATES = {"binary": 0.8, "nearly always right": 0.98}


def draw_scores(kind: str, shape: tuple[int, int, int], generator: np.random.Generator) -> tuple[Array, Array, float]:
    """Scores (prompts, seeds, repetitions) of two models on prompts that differ, and the true change.

    Of skewed scores the differences are symmetric, as those of any two alike; `skewed differences` are lognormal.
    """
    of_prompt = generator.normal(0.0, 0.7, (shape[0], 1, shape[2]))
    if kind in RATES:
        right = np.clip(RATES[kind] + (1 - RATES[kind]) * of_prompt, 0, 1)
        draws = [(generator.random(shape) < right).astype(float) for _ in range(2)]
        return draws[0], draws[1], 0.0
    base, trained = (of_prompt + generator.normal(0.0, 0.7, shape) for _ in range(2))
    if kind == "skewed differences":
        return base, base + generator.lognormal(0.0, 1.0, (shape[0], 1, shape[2])), math.exp(0.5)
    if kind == "skewed":
        base, trained = np.exp(base), np.exp(trained)  # lognormal
    return base, trained + 0.3, 0.3


def coverage(kind: str, num_prompts: int, repetitions: int) -> float:
    """How often the interval covers the true change; each repetition is a metric of one comparison."""
    base, trained, truth = draw_scores(kind, (num_prompts, 2, repetitions), np.random.default_rng(11))
    covered = []
    for block in np.array_split(np.arange(repetitions), max(1, repetitions // 200)):  # resamples differ by block
        sides = [{"luminance": side[..., 0]} | {str(i): side[..., i] for i in block} for side in (base, trained)]
        rows = compare(*sides, CONFIG, int(block[0]))
        covered += [rows[str(i)].lower <= truth <= rows[str(i)].upper for i in block]
    return float(np.mean(covered))


@pytest.mark.parametrize("num_prompts", [50, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_covers_the_truth_as_often_as_it_says(kind: str, num_prompts: int) -> None:
    """2,000 repetitions: 95 % intervals cover the truth in 93 to 97 %."""
    assert 0.93 <= coverage(kind, num_prompts, 2000) <= 0.97


@pytest.mark.parametrize(("num_prompts", "least"), [(50, 0.87), (200, 0.91)])
def test_skewed_differences_are_covered_less_often(num_prompts: int, least: float) -> None:
    assert least <= coverage("skewed differences", num_prompts, 2000) <= 0.97


@pytest.mark.parametrize(("num_prompts", "loss"), [(20, 0.05), (20, 0.2), (50, 0.05), (200, 0.05)])
def test_what_no_prompt_shows_is_nearly_all_that_is_missed(num_prompts: int, loss: float) -> None:
    """The candidate loses the content of whole prompts; where the interval leaves that out, it says what may hide."""
    lost = np.random.default_rng(3).random((num_prompts, 1, 1000)) < loss
    base = {name: np.ones((num_prompts, 1)) for name in ("luminance", *map(str, range(1000)))}
    trained = base | {str(index): 1.0 - lost[..., index] for index in range(1000)}
    rows = compare(base, trained, CONFIG, 0)
    missed = [row for name, row in rows.items() if name.isdecimal() and row.lower > -loss + 1e-9]
    hidden = [row.unseen for row in missed if row.unseen is not None]
    assert len(hidden) / 1000 == pytest.approx((1 - loss) ** num_prompts, abs=0.04)
    assert (len(missed) - len(hidden)) / 1000 <= 0.04
    assert all((share > loss) == ((1 - loss) ** num_prompts > 0.025) for share in hidden)


@pytest.mark.parametrize("num_prompts", [10, 20, 50])
def test_the_intervals_of_spread_cover_the_truth_at_both_ends(num_prompts: int) -> None:
    """Prompts come closer, their pictures do not. Of 300 repetitions: the change, its ratio, and the level.

    A tenth in size, because a luminance lies in [0, 1].
    """
    generator, settings = np.random.default_rng(5), EvaluationConfig(num_resamples=1000)
    low, high = 0.1 * math.sqrt(1.09), 0.1 * math.sqrt(0.58)
    wrong = np.zeros((3, 2))
    for repetition in range(300):
        of_prompt, own = generator.normal(size=(num_prompts, 1)), generator.normal(size=(2, num_prompts, 2))
        base, trained = (
            {"luminance": 0.1 * (k * of_prompt + 0.3 * noise)} for k, noise in zip((1, 0.7), own, strict=True)
        )
        row = compare(base, trained, settings, repetition)["spread"]
        level = measure_levels(base, settings, repetition)["spread"]
        assert row.ratio_lower is not None and row.ratio_upper is not None
        ends = (row.lower, row.upper), (row.ratio_lower, row.ratio_upper), (level.lower, level.upper)
        wrong += [[a > truth, b < truth] for (a, b), truth in zip(ends, (high - low, high / low, low), strict=True)]
    assert (wrong / 300 <= 0.08).all()
    assert (wrong.sum(1) / 300 <= 0.1).all()


def test_the_fewest_prompts_nearly_give_what_the_interval_says() -> None:
    assert coverage("normal", MIN_PROMPTS, 2000) >= 0.91


GATE = (
    Bound(metric="luminance", min_change=0.0),
    Bound(metric="content", min_change=-0.5),
    Bound(metric="spread", min_ratio=0.5),
)


def promotions(effect: float, repetitions: int) -> float:
    """Share of candidates promoted whose luminance truly differs by `effect` detectable changes, and nothing else."""
    config = RunConfig(
        evaluation=EvaluationConfig(num_resamples=1000, wanted="luminance", world="shapes", gate=GATE),
        monitor=MonitorConfig(bounds=()),
    )
    generator, promoted = np.random.default_rng(4), 0
    error = 0.7 * np.sqrt(2 / 50 / 4)  # of the mean change: 50 prompts, four seeds, two models
    level = config.evaluation.gate_confidence
    rise = effect * (stats.t.ppf((1 + level) / 2, 49) + stats.t.ppf(0.8, 49)) * error
    for repetition in range(repetitions):
        of_prompt = generator.normal(0.0, 1.0, (50, 1))
        base, trained = (
            {name: of_prompt + generator.normal(0.0, 0.7, (50, 4)) for name in ("luminance", "content")}
            for _ in range(2)
        )
        trained["luminance"] += rise
        shown, strict = (compare(base, trained, config.evaluation, repetition, at) for at in (None, level))
        promoted += judge(config, Evidence("base", shown, strict)).verdict == "promote"
    return promoted / repetitions


def test_the_gate_promotes_what_is_better_and_little_else() -> None:
    """The short form, with 100 candidates each."""
    assert promotions(0.0, 100) <= 0.05
    assert promotions(2.0, 100) >= 0.8


@pytest.mark.slow
def test_the_gate_promotes_as_often_as_it_says() -> None:
    """2,000 candidates each: without a true difference, with the detectable one (80 %), with twice that."""
    assert promotions(0.0, 2000) <= 0.05
    assert 0.77 <= promotions(1.0, 2000) <= 0.83
    assert promotions(2.0, 2000) >= 0.8
