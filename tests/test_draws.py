"""Random draws: the same images whatever the number of processes, every prompt once per epoch."""

import torch

from srpo.align import SigmaGrid
from srpo.config import RunConfig
from srpo.draws import Draws, prompt_order


def draws(reuse: int = 1, **train: int) -> Draws:
    config = RunConfig.model_validate(
        {
            "seed": 3,
            "train": train,
            "align": {"num_injections": 2},
            "rollout": {"noise": "per_sample", "reuse": reuse},
        }
    )
    return Draws(config, SigmaGrid(config.align), (2, 4, 4), num_prompts=10)


def test_every_prompt_once_per_epoch_and_shuffled_anew() -> None:
    order = prompt_order(10, seed=1, start=0, count=30)
    epochs = [order[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(10))
    assert prompt_order(10, seed=2, start=0, count=10) != epochs[0]


def test_the_order_can_be_entered_anywhere() -> None:
    order = prompt_order(7, seed=0, start=0, count=50)
    for start in range(0, 40, 3):
        assert prompt_order(7, 0, start, 9) == order[start : start + 9]


def test_an_update_is_the_same_however_it_is_divided() -> None:
    whole = draws(batch_size=4).draw(1)
    split = draws(batch_size=2, accumulation=2).draw(1)
    assert whole.prompts == split.prompts
    assert torch.equal(whole.noise, split.noise) and torch.equal(whole.positions, split.positions)
    parts = [split.part(start, 2) for start in (0, 2)]
    assert torch.equal(torch.cat([part.noise for part in parts]), whole.noise)
    assert torch.equal(torch.cat([part.positions for part in parts], dim=1), whole.positions)


def test_rollouts_that_are_used_again_keep_prompts_and_noise_but_not_levels() -> None:
    plain, again = draws(batch_size=3), draws(reuse=2, batch_size=3)
    first, second, third = (again.draw(update) for update in (1, 2, 3))
    assert second.prompts == first.prompts and torch.equal(second.noise, first.noise)
    assert not torch.equal(second.positions, first.positions)
    assert not torch.equal(third.noise, first.noise)
    assert [first.prompts, third.prompts] == [plain.draw(update).prompts for update in (1, 2)]


def test_noise_is_shared_or_of_ones_own() -> None:
    own = draws(batch_size=4).draw(1)
    assert not torch.equal(own.noise[0], own.noise[1])
    config = RunConfig.model_validate({"train": {"batch_size": 4}})
    shared = Draws(config, SigmaGrid(config.align), (2, 4, 4), 10).draw(1)
    assert torch.equal(shared.noise[0], shared.noise[3])
    assert shared.noise.shape == own.noise.shape == (4, 2, 4, 4)
    assert own.positions.shape == (2, 4) and shared.positions.shape == (1, 4)


def test_the_generators_state_continues_the_draws() -> None:
    first = draws(batch_size=3)
    first.draw(1)
    state = first.generator.get_state()
    second = draws(batch_size=3)
    second.generator.set_state(state)
    assert torch.equal(first.draw(2).noise, second.draw(2).noise)
