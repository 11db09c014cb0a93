"""The benchmark's counters, on untrained models: what each lever saves, and that the gradient stays the same."""

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.update import Measured, World, difference, run, update, variants
from srpo.config import ModelConfig, RewardConfig
from srpo.models import load_model, load_text_encoder
from srpo.rewards import load_reward

PROMPTS = ["a red circle", "two cats", "a dog", "a house"]


def make_world(flux_folder: Path, hps_folder: Path) -> World:
    config = ModelConfig(height=32, width=32)
    embeddings = load_text_encoder(config, flux_folder).encode_prompts(PROMPTS, 12)
    reward = load_reward(RewardConfig(architecture="tiny.json"), hps_folder)
    return World.make(load_model(config, flux_folder), reward, PROMPTS, embeddings)


@pytest.fixture(scope="module")
def chain(flux_folder: Path, hps_folder: Path) -> list[Measured]:
    return run(make_world(flux_folder, hps_folder), repeats=1)


def test_every_lever_leaves_the_gradient_alone(chain: list[Measured]) -> None:
    assert chain[0].gradient is not None and chain[0].gradient.norm() > 0
    assert all(difference(chain[0], measured) < 1e-4 for measured in chain)


def test_forward_equivalents_are_the_recipes(chain: list[Measured]) -> None:
    """25 rollout steps, then two branches of one forward and one backward worth two."""
    assert {measured.counters.forward_equivalents(len(PROMPTS)) for measured in chain} == {25 + 2 * 3}


def test_what_each_lever_saves(chain: list[Measured]) -> None:
    reference, no_anomaly, frozen, cached, one_pass, ours = chain
    assert reference.stray_gradients == no_anomaly.stray_gradients > 50
    assert {measured.stray_gradients for measured in (frozen, cached, one_pass, ours)} == {0}
    assert [measured.counters.texts_encoded / len(PROMPTS) for measured in (reference, frozen, cached)] == [4, 4, 2]
    # the plain prompt, which the log shows, is the third text
    assert one_pass.counters.texts_encoded == ours.counters.texts_encoded == 3 * len(PROMPTS)


def test_what_a_pass_keeps_grows_with_what_is_in_it(chain: list[Measured]) -> None:
    """Two branches keep twice what one keeps, four prompts four times as much."""
    reference, no_anomaly, frozen, cached, one_pass, ours = (measured.peak_bytes for measured in chain)
    assert reference == no_anomaly == frozen == cached > 0
    assert one_pass / cached == pytest.approx(2, rel=0.2)
    assert ours / one_pass == pytest.approx(4, rel=0.2)


def test_text_features_are_computed_once_for_all_updates(flux_folder: Path, hps_folder: Path) -> None:
    world = make_world(flux_folder, hps_folder)
    ours = variants(len(PROMPTS))[-1]
    update(world, ours)
    seen = world.counters.texts_encoded
    update(world, ours)
    assert world.counters.texts_encoded == seen


def test_the_chain_changes_one_thing_at_a_time() -> None:
    chain = variants(4)
    for before, after in pairwise(chain):
        changed = [name for name in vars(before) if name != "name" and getattr(before, name) != getattr(after, name)]
        assert len(changed) == 1
