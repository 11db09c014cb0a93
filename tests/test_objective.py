"""The objective on real (untrained) models: one batch or branch after branch, anchor, several samples."""

from pathlib import Path

import pytest
import torch

from srpo.align import SigmaGrid
from srpo.config import AlignConfig, ModelConfig, PreferenceConfig, RewardConfig
from srpo.control_words import control_words
from srpo.criteria import Criterion
from srpo.flow import shifted_sigmas
from srpo.models import TextToImage, load_model, load_text_encoder
from srpo.objective import Asked, StepScores, objective, passes
from srpo.preference import make_branches
from srpo.rewards import Reward, load_reward
from srpo.rollout import Rollout, sample, seeded_noise

PROMPTS = ["a red circle on a blue background", "a green ring on a cyan background", "two cats"]
POSITIONS = torch.tensor([120, 500, 900])


@pytest.fixture(scope="module")
def model(flux_folder: Path) -> TextToImage:
    return load_model(ModelConfig(height=32, width=32, max_sequence_length=12), flux_folder)


@pytest.fixture(scope="module")
def reward(hps_folder: Path) -> Reward:
    return load_reward(RewardConfig(architecture="tiny.json"), hps_folder)


@pytest.fixture(scope="module")
def rollout(model: TextToImage, flux_folder: Path) -> Rollout:
    embeddings = load_text_encoder(ModelConfig(), flux_folder).encode_prompts(PROMPTS, 12)
    noise = seeded_noise(model.latent_shape(32, 32), range(3))
    return Rollout(sample(model, embeddings, noise, shifted_sigmas(4, 3.0), 1.0), noise, embeddings, PROMPTS)


def part(rollout: Rollout, row: int) -> Rollout:
    one = slice(row, row + 1)
    embeddings = {name: tensor[one] for name, tensor in rollout.embeddings.items()}
    return Rollout(rollout.x0[one], rollout.noise[one], embeddings, rollout.prompts[one])


def gradient(
    model: TextToImage,
    reward: Reward,
    rollout: Rollout,
    positions: torch.Tensor,
    together: bool = True,
    branches: tuple[str, ...] = ("denoise", "inversion"),
    **preference: float,
) -> tuple[torch.Tensor, float, list[StepScores]]:
    """The whole gradient as one vector, the loss, and the scores."""
    align, settings = AlignConfig(branches=branches), PreferenceConfig(**preference)
    words = control_words(settings)
    made = make_branches(align, settings, words, SigmaGrid(align), positions, rollout.prompts, update=1)
    model.transformer.zero_grad()
    total, scores = 0.0, []
    for group in passes(made, together):
        asked = [Asked(Criterion("", reward, settings), group)]
        loss, measured = objective(model, rollout, asked, len(made), align.guidance)
        loss.backward()
        total += loss.item()
        scores += measured
    return torch.cat([p.grad.flatten() for p in model.transformer.parameters() if p.grad is not None]), total, scores


def same(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((got - expected).norm() <= 1e-4 * expected.norm()) and expected.norm() > 0


def test_branches_together_or_one_by_one_have_the_same_gradient(
    model: TextToImage, reward: Reward, rollout: Rollout
) -> None:
    together, loss, _ = gradient(model, reward, rollout, POSITIONS, together=True, content_anchor=2.0)
    one_by_one, loss_too, _ = gradient(model, reward, rollout, POSITIONS, together=False, content_anchor=2.0)
    assert same(one_by_one, together)
    assert loss == pytest.approx(loss_too, rel=1e-5)


def test_a_batch_is_the_mean_of_its_samples(model: TextToImage, reward: Reward, rollout: Rollout) -> None:
    together, _, _ = gradient(model, reward, rollout, POSITIONS)
    alone = [gradient(model, reward, part(rollout, i), POSITIONS[i : i + 1])[0] for i in range(3)]
    assert same(together, torch.stack(alone).mean(dim=0))


def test_two_branches_are_half_of_each(model: TextToImage, reward: Reward, rollout: Rollout) -> None:
    both, _, _ = gradient(model, reward, rollout, POSITIONS)
    denoise, _, _ = gradient(model, reward, rollout, POSITIONS, branches=("denoise",))
    inversion, _, _ = gradient(model, reward, rollout, POSITIONS, branches=("inversion",))
    assert same(both, (denoise + inversion) / 2)


@pytest.mark.parametrize("discount", [{}, {"discount_shift": 3.0}])
def test_the_loss_is_the_formula(
    model: TextToImage, reward: Reward, rollout: Rollout, discount: dict[str, float]
) -> None:
    settings = {"margin": 0.7, "content_anchor": 3.0} | discount
    _, loss, (denoise, inversion) = gradient(model, reward, rollout, POSITIONS, **settings)
    for measured in (denoise, inversion):
        target, other = reward(measured.images, measured.step.target, measured.step.other)
        torch.testing.assert_close(measured.relative, (1 + measured.step.k) * target - other)
        torch.testing.assert_close(measured.reward, reward(measured.images, PROMPTS)[0])
    pushed, pulled = ((0.7 - each.step.discount * each.relative).relu().mean() for each in (denoise, inversion))
    expected = pushed - 3.0 * denoise.reward.mean() + pulled
    assert loss == pytest.approx(expected.item() / 2, rel=1e-5)


def test_what_is_measured_keeps_no_graph(model: TextToImage, reward: Reward, rollout: Rollout) -> None:
    align, settings = AlignConfig(), PreferenceConfig()
    made = make_branches(align, settings, control_words(settings), SigmaGrid(align), POSITIONS, PROMPTS, update=1)
    asked = [Asked(Criterion(name, reward, settings), made) for name in ("", "other")]
    loss, scores = objective(model, rollout, asked, len(made), align.guidance)
    assert loss.requires_grad
    for each in scores:
        measured = [each.images, each.relative, each.reward, each.loss, *each.added.values()]
        assert len(measured) == 6 and not any(tensor.requires_grad for tensor in measured)


def test_an_image_that_has_reached_the_margin_is_left_alone(
    model: TextToImage, reward: Reward, rollout: Rollout
) -> None:
    nothing, loss, _ = gradient(model, reward, rollout, POSITIONS, margin=-10.0)
    assert loss == 0 and nothing.abs().max() == 0
    anchored, _, _ = gradient(model, reward, rollout, POSITIONS, margin=-10.0, content_anchor=1.0)
    assert anchored.norm() > 0


def test_the_anchor_does_not_pull_through_the_inversion_branch(
    model: TextToImage, reward: Reward, rollout: Rollout
) -> None:
    plain, _, _ = gradient(model, reward, rollout, POSITIONS, branches=("inversion",))
    anchored, _, _ = gradient(model, reward, rollout, POSITIONS, branches=("inversion",), content_anchor=5.0)
    assert torch.equal(plain, anchored)


def test_one_step_along_the_gradient_raises_the_preference(
    model: TextToImage, reward: Reward, rollout: Rollout
) -> None:
    """Both branches push the same way: towards the positive words, away from the negative ones."""
    for branches in (("denoise",), ("inversion",)):
        before = [parameter.detach().clone() for parameter in model.transformer.parameters()]
        gradient(model, reward, rollout, POSITIONS, branches=branches)
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.transformer.parameters() if p.grad is not None])
        with torch.no_grad():
            for parameter in model.transformer.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad / norm
        _, _, (after,) = gradient(model, reward, rollout, POSITIONS, branches=("denoise",))
        with torch.no_grad():
            for parameter, old in zip(model.transformer.parameters(), before, strict=True):
                parameter.copy_(old)
        _, _, (start,) = gradient(model, reward, rollout, POSITIONS, branches=("denoise",))
        assert after.relative.mean() > start.relative.mean()
