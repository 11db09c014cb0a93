"""Distances between images against what they are by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from srpo.evaluation.images import Gallery, make_design
from srpo.evaluation.pairs import diversity, load_images, measure_drift, pair_metrics, rmse
from srpo.prompts import Prompt


def grey(*levels: float) -> np.ndarray:
    return np.stack([np.full((4, 4, 3), level) for level in levels])


def test_rmse_of_plain_images_is_the_difference_of_their_levels() -> None:
    assert rmse(grey(0.25, 0.5), grey(0.25, 0.9)) == pytest.approx([0.0, 0.4])


def directions(*degrees: float) -> np.ndarray:
    """Unit features in a plane."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=-1)


def test_diversity_is_the_mean_distance_from_the_siblings_and_over_a_prompt_from_all_pairs() -> None:
    found = diversity(directions(0, 60, 180))
    near, far, opposite = 1 - 0.5, 1 + 0.5, 2.0  # 60, 120 and 180 degrees apart
    assert found == pytest.approx([(near + opposite) / 2, (near + far) / 2, (opposite + far) / 2])
    assert found.mean() == pytest.approx((near + far + opposite) / 3)  # of the three pairs
    same = directions(33, 33, 33).astype(np.float16).astype(float)
    assert diversity(same).tolist() == [0, 0, 0]


def test_an_image_without_features_takes_no_other_with_it() -> None:
    features = directions(0, 60, 180)
    features[1, 0] = np.nan
    assert diversity(features) == pytest.approx([2, np.nan, 2], nan_ok=True)
    assert np.isnan(diversity(features[:2])).all(), "one that is left alone has no siblings"


def test_images_of_a_design_are_compared_with_those_of_the_same_noise(tmp_path: Path) -> None:
    design = make_design([Prompt("a"), Prompt("b")], [0, 1], 2, seed=0)
    levels = {"base": [0, 51, 102, 102], "candidate": [51, 51, 0, 204]}
    galleries = {label: Gallery(tmp_path / label) for label in levels}
    for label, greys in levels.items():
        for cell, level in zip(design, greys, strict=True):
            galleries[label].add(cell, torch.full((3, 8, 8), level / 255))
    found = measure_drift(galleries, "base", design)
    assert found["base"].tolist() == [0, 0, 0, 0]
    assert found["candidate"] == pytest.approx([0.2, 0.0, 0.4, 0.4])


def test_large_images_are_compared_at_a_glance(tmp_path: Path) -> None:
    design = make_design([Prompt("a")], [0], 1, seed=0)
    gallery = Gallery(tmp_path)
    gallery.add(design[0], torch.full((3, 256, 512), 0.5))
    images = load_images([gallery.find(design[0])])
    assert images.shape == (1, 64, 128, 3)
    assert images == pytest.approx(0.5, abs=0.01)


def test_a_single_image_has_no_siblings() -> None:
    assert pair_metrics(1) == ["drift"]
    assert pair_metrics(2) == ["drift", "diversity"]
