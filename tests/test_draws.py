"""Random draws: the same images whatever the number of processes, every prompt once per epoch."""

import torch

from srpo.align import SigmaGrid
from srpo.config import RunConfig
from srpo.draws import Draw, Draws, Shelf, endless_order, shelf_order


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


def test_moves_reach_the_jitter_and_no_further_and_are_divided_with_their_images() -> None:
    (whole,) = draws(batch_size=40, jitter=2).draw(1)
    assert whole.moves is not None and whole.moves.shape == (2, 40, 2)
    assert whole.moves.unique().tolist() == [-2, -1, 0, 1, 2]
    parts = draws(batch_size=20, num_processes=2, jitter=2).draw(1)
    assert torch.equal(torch.cat([part.moves for part in parts if part.moves is not None], dim=1), whole.moves)


def test_without_jitter_nothing_is_drawn_for_it() -> None:
    plain, moved = draws(batch_size=3), draws(batch_size=3, jitter=1)
    first, again = plain.draw(1)[0], moved.draw(1)[0]
    assert first.moves is None and torch.equal(first.positions, again.positions)
    assert not torch.equal(plain.draw(2)[0].positions, moved.draw(2)[0].positions)


def test_every_prompt_once_per_epoch_and_shuffled_anew() -> None:
    order = endless_order(10, [1], start=0, count=30)
    epochs = [order[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(10))
    assert endless_order(10, [2], start=0, count=10) != epochs[0]


def test_the_order_can_be_entered_anywhere() -> None:
    order = endless_order(7, [0], start=0, count=50)
    for start in range(0, 40, 3):
        assert endless_order(7, [0], start, 9) == order[start : start + 9]


def test_an_update_is_the_same_however_it_is_divided() -> None:
    (whole,) = draws(batch_size=4).draw(1)
    for parts in (draws(batch_size=2, accumulation=2).draw(1), draws(batch_size=2, num_processes=2).draw(1)):
        assert [index for part in parts for index in part.prompts] == whole.prompts
        assert torch.equal(torch.cat([part.noise for part in parts]), whole.noise)
        assert torch.equal(torch.cat([part.positions for part in parts], dim=1), whole.positions)


def test_rollouts_that_are_used_again_keep_prompts_and_noise_but_not_levels() -> None:
    plain, again = draws(batch_size=3), draws(reuse=2, batch_size=3)
    first, second, third = (again.draw(update)[0] for update in (1, 2, 3))
    assert second.prompts == first.prompts and torch.equal(second.noise, first.noise)
    assert not torch.equal(second.positions, first.positions)
    assert not torch.equal(third.noise, first.noise)
    assert [first.prompts, third.prompts] == [plain.draw(update)[0].prompts for update in (1, 2)]


def test_noise_is_shared_or_of_ones_own() -> None:
    (own,) = draws(batch_size=4).draw(1)
    assert not torch.equal(own.noise[0], own.noise[1])
    config = RunConfig.model_validate({"train": {"batch_size": 4}})
    (shared,) = Draws(config, SigmaGrid(config.align), (2, 4, 4), 10).draw(1)
    assert torch.equal(shared.noise[0], shared.noise[3])
    assert shared.noise.shape == own.noise.shape == (4, 2, 4, 4)
    assert own.positions.shape == (2, 4) and shared.positions.shape == (1, 4)


def test_the_generators_state_continues_the_draws() -> None:
    first = draws(batch_size=3)
    first.draw(1)
    state = first.generator.get_state()
    second = draws(batch_size=3)
    second.generator.set_state(state)
    assert torch.equal(first.draw(2)[0].noise, second.draw(2)[0].noise)


SHELVES = (Shelf((2, 4, 4), [0, 3, 4, 7, 9]), Shelf((2, 2, 8), [1, 2]), Shelf((2, 8, 2), [5, 6, 8]))


def real(until_update: int | None = None, **train: int) -> Draws:
    config = RunConfig.model_validate(
        {"seed": 3, "train": train, "images": {"source": "photos", "until_update": until_update}}
    )
    return Draws(config, SigmaGrid(config.align), (2, 4, 4), 10, SHELVES)


def assert_same(first: list[Draw], second: list[Draw]) -> None:
    assert [draw.prompts for draw in first] == [draw.prompts for draw in second]
    assert all(torch.equal(a.noise, b.noise) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(first, second, strict=True))


def test_every_real_image_once_per_epoch() -> None:
    drawn = [draw.prompts for update in range(1, 5) for draw in real(accumulation=5).draw(update)]
    epochs = [[image for (image,) in drawn[start : start + 10]] for start in (0, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and epochs[0] != epochs[1]


def test_a_micro_batch_has_one_shape_and_all_of_a_shelf_come_equally_often() -> None:
    """Of 5, 2 and 3 images in pairs an epoch has 3, 1 and 2; after 5 * 2 * 3 epochs all have been drawn as often."""
    draws = real(batch_size=2, accumulation=6, num_updates=30)
    counts = dict.fromkeys(range(10), 0)
    for update in range(1, 31):
        for draw in draws.draw(update):
            shelf = next(shelf for shelf in SHELVES if draw.prompts[0] in shelf.images)
            assert set(draw.prompts) <= set(shelf.images) and draw.noise.shape == (2, *shelf.latent_shape)
            assert draw.offline and draw.positions.shape == (1, 2)
            assert not torch.equal(draw.noise[0], draw.noise[1]), "each has noise of its own"
            for image in draw.prompts:
                counts[image] += 1
    assert [counts[image] for shelf in SHELVES for image in shelf.images] == [36] * 5 + [30] * 2 + [40] * 3


def test_the_order_of_shelves_can_be_entered_anywhere() -> None:
    order = list(shelf_order([5, 2, 3], 2, seed=0, start=0, count=40))
    for start in (1, 5, 6, 17):
        assert list(shelf_order([5, 2, 3], 2, seed=0, start=start, count=9)) == order[start : start + 9]
    assert order != list(shelf_order([5, 2, 3], 2, seed=1, start=0, count=40))


def test_processes_share_out_the_same_real_images() -> None:
    assert_same(real(batch_size=2, accumulation=4).draw(3), real(batch_size=2, accumulation=2, num_processes=2).draw(3))


def test_rollouts_follow_when_the_images_turn_is_over() -> None:
    first, second = real(until_update=1), draws()
    (of_image,), (rolled_out,) = first.draw(1), first.draw(2)
    assert of_image.offline and not rolled_out.offline
    assert rolled_out.prompts == second.draw(1)[0].prompts
