"""The comparison of methods: equal work, changes against the base, a front that can be drawn."""

import pytest

from benchmarks.methods import REWARDS, VARIANTS, front, path_of, settings
from srpo.config import RunConfig


def run_of(reward: str, variant: str, seed: int, luminance: float) -> dict[str, object]:
    measurements = [
        {"luminance": 0.4, "content": 0.9, "spread": 0.2, "saturation": 0.5, "grid/8": 0.0},
        {"luminance": luminance, "content": 0.8, "spread": 0.1, "saturation": 0.7, "grid/8": 0.4},
    ]
    return {"reward": reward, "variant": variant, "seed": seed, "measurements": measurements}


def test_points_are_changes_averaged_over_seeds() -> None:
    runs = [run_of(REWARDS[0], "refl", seed, luminance) for seed, luminance in enumerate((0.5, 0.7))]
    assert path_of(runs, "content") == [(0, 0), (pytest.approx(-0.1), pytest.approx(0.2))]


def test_the_front_has_a_line_for_each_variant_in_each_panel() -> None:
    runs = [run_of(reward, variant, 0, 0.6) for reward in REWARDS for variant in VARIANTS]
    panels = front(runs).axes
    assert len(panels) == len(REWARDS) * 4
    for panel in panels:
        assert [line.get_label() for line in panel.lines] == list(VARIANTS)
    assert panels[1].get_xlabel() == "change of spread of luminance"
    assert panels[1].lines[0].get_xydata().ravel().tolist() == pytest.approx([0, 0, -0.1, 0.2])


@pytest.mark.filterwarnings("ignore:method")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_run_whose_last_update_is_measured(variant: str) -> None:
    config = settings(variant, REWARDS[1], seed=3, num_updates=50, extra=("train.batch_size=2",))
    assert isinstance(config, RunConfig)
    assert (config.train.num_updates, config.monitor.every, config.seed) == (54, 9, 3)
    assert (config.reward.source, config.train.batch_size) == (REWARDS[1], 2)
