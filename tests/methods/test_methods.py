"""Each method's gradient against the sampler written out, in float64; what each draws; each through the real loop."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srpo.artifacts import TrainJob
from srpo.config import RunConfig, parse_config
from srpo.criteria import Criterion
from srpo.errors import ConfigError
from srpo.flow import shifted_sigmas
from srpo.jitter import move
from srpo.methods import METHODS, Method, make_method
from srpo.record import read_journal
from srpo.rollout import seeded_noise
from tests.analytic import PROMPTS, Analytic, Linear, noise, rollout_of, unroll
from tests.jobs import place, run, weights_of

STEPS = 8
SIGMAS = shifted_sigmas(STEPS, 3.0)


def method_of(model: Analytic, method: object, *added: Criterion, **sections: object) -> Method:
    config = parse_config({"method": method, "rollout": {"num_steps": STEPS}, **sections}, "test")
    return make_method(config, model, [Criterion("", Linear(2), config.preference), *added], nullcontext)


def gradient_of(method: Method, positions: Tensor, x0: Tensor | None = None) -> tuple[float, Tensor]:
    """Mean loss over the injections and its gradient, rolled out as the trainer does it."""
    model = method.model
    model.zero_grad()
    with torch.no_grad():
        x = unroll(model, noise(), method.sigmas(positions)) if x0 is None else x0
    total = 0.0
    for loss, _ in method.losses(rollout_of(x, noise()), positions, update=1):
        (loss / method.config.num_injections).backward()
        total += loss.item() / method.config.num_injections
    return total, model.weight.grad.clone()


def check(method: Method, positions: Tensor, expected: Tensor, x0: Tensor | None = None) -> None:
    loss, gradient = gradient_of(method, positions, x0)
    (same,) = torch.autograd.grad(expected, method.model.weight)
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(gradient, same, rtol=1e-6, atol=1e-9)
    assert gradient.norm() > 1e-4


def reward(model: Analytic, x0: Tensor) -> Tensor:
    return Linear(2)(torch.sigmoid(x0), PROMPTS)[0]


@pytest.mark.parametrize("step", [6, 7])
@pytest.mark.parametrize("hinged", [False, True])
def test_refl_is_the_one_step_prediction_from_a_late_step(step: int, hinged: bool) -> None:
    model = Analytic()
    with torch.no_grad():
        x = unroll(model, noise(), SIGMAS[: step + 1])
    sigma = SIGMAS[step].double()
    scores = reward(model, x - sigma * model.velocity(x, sigma.expand(2), None, None))
    margin = scores.mean().item() if hinged else None  # one image has reached it, the other has not
    expected = (-scores if margin is None else (margin - scores).relu()).mean()
    check(method_of(model, {"name": "refl", "margin": margin}), torch.full((1, 2), step), expected)


@pytest.mark.parametrize("copies", [0, 2])
def test_draft_is_the_whole_sampler_with_only_its_last_step_differentiated(copies: int) -> None:
    model, seeds = Analytic(), torch.arange(2 * (copies + 1)).reshape(-1, 2)
    with torch.no_grad():
        x = unroll(model, noise(), SIGMAS[:-1])
    x0 = unroll(model, x, SIGMAS[-2:])
    losses, sigma = [-reward(model, x0).mean()], SIGMAS[-2].double()
    for row in seeds[1:].tolist():
        noised = (1 - sigma) * x0.detach() + sigma * seeded_noise((3, 4, 4), row).double()
        losses.append(-reward(model, unroll(model, noised, SIGMAS[-2:])).mean())
    check(method_of(model, {"name": "draft_lv", "num_copies": copies}), seeds, torch.stack(losses).mean())


@pytest.mark.parametrize("shift", [None, 3.0])
def test_direct_align_averages_the_plain_reward_over_noise_levels(shift: float | None) -> None:
    model, positions = Analytic(), torch.tensor([[200, 700], [500, 995]])
    align = {"num_injections": 2, "num_levels": 1000}
    method = method_of(model, {"name": "direct_align", "margin": 0.3, "discount_shift": shift}, align=align)
    x0, start, losses = noise().flip(0), noise(), []
    for row in positions:
        levels = method.positions.denoise(row)
        s, e = (level.reshape(-1, 1, 1, 1) for level in (levels.sigma_from, levels.sigma_to))
        x = (1 - s) * x0 + s * start
        predicted = x + (e - s) * model.velocity(x, levels.sigma_from, None, None)
        t = row / 1000
        weight = 1.0 if shift is None else shift * t / (1 + (shift - 1) * t)
        losses.append((0.3 - weight * reward(model, (predicted - e * start) / (1 - e))).relu().mean())
    check(method, positions, torch.stack(losses).mean(), x0)


def test_a_step_against_the_gradient_raises_the_reward_of_what_is_sampled() -> None:
    for name in ("direct_align", "refl", "draft_lv"):
        model = Analytic()
        method = method_of(model, name)
        positions = method.positions.draw((method.config.num_injections, 2), torch.Generator().manual_seed(0))
        x0 = unroll(model, noise(), SIGMAS).detach() if name == "direct_align" else None
        _, gradient = gradient_of(method, positions, x0)
        before = reward(model, unroll(model, noise(), SIGMAS)).mean()
        with torch.no_grad():
            model.weight -= 0.01 * gradient / gradient.norm()
        assert reward(model, unroll(model, noise(), SIGMAS)).mean() > before, name


@pytest.mark.filterwarnings("ignore:method .* does not train by")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("together", [True, False])
def test_rewards_see_each_picture_where_its_injection_has_moved_it(name: str, together: bool) -> None:
    method = method_of(Analytic(), name, align={"num_injections": 3, "together": together})
    seen: list[Tensor] = []

    class Watched(Linear):
        def __call__(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
            seen.append(images.detach())
            return super().__call__(images, *texts)

    method.criteria = [Criterion("", Watched(2), method.config.preference)]
    injections = method.config.num_injections
    positions = method.positions.draw((injections, 2), torch.Generator().manual_seed(0))
    moves = torch.arange(injections * 4).reshape(injections, 2, 2) % 5 - 2
    x0 = noise().flip(0)
    passes = list(method.losses(rollout_of(x0, noise()), positions, update=1))
    still, seen = seen, []
    list(method.losses(replace(rollout_of(x0, noise()), moves=moves), positions, update=1))
    assert len(still) == len(seen) == len(passes)
    for index, (before, after) in enumerate(zip(still, seen, strict=True)):
        rows = moves[index * injections // len(seen)].tolist()
        expected = [move(image, *rows[i % 2]) for i, image in enumerate(before)]
        assert torch.equal(after, torch.stack(expected)) and not torch.equal(after, before)


def test_a_word_is_put_before_the_prompts_that_the_reward_is_asked_about() -> None:
    model, positions = Analytic(), torch.full((1, 2), 7)
    method = method_of(model, {"name": "refl", "word": "Bright"})
    with torch.no_grad():
        x = unroll(model, noise(), SIGMAS[:8])
    scores = Linear(2)(torch.sigmoid(unroll(model, x, SIGMAS[7:])), ["Bright. a", "Bright. abc"])[0]
    check(method, positions, -scores.mean())
    assert (method.config.method.trains_on, RunConfig().method.trains_on) == ("relative", "relative")
    assert parse_config({"method": "refl"}, "test").method.trains_on == "reward"


def test_refl_draws_one_late_step_for_all_and_rolls_out_to_it() -> None:
    method = method_of(Analytic(), {"name": "refl", "window": [0.5, 1.0]})
    generator = torch.Generator().manual_seed(0)
    drawn = [method.positions.draw((1, 5), generator) for _ in range(60)]
    assert all(len(set(steps[0].tolist())) == 1 for steps in drawn)
    assert {int(steps[0, 0]) for steps in drawn} == {4, 5, 6, 7}
    assert torch.equal(method.sigmas(torch.full((1, 5), 6)), SIGMAS[:7])
    assert method.rollout_steps == 5.5


def test_draft_stops_before_the_last_step_and_draws_noise_of_ones_own_for_each_copy() -> None:
    method = method_of(Analytic(), "draft_lv")
    assert (method.rollout_steps, method.config.num_injections) == (STEPS - 1, 3)
    seeds = method.positions.draw((3, 50), torch.Generator().manual_seed(0))
    assert torch.equal(method.sigmas(seeds), SIGMAS[:-1])
    assert len(set(seeds.flatten().tolist())) == 150


def test_added_rewards_of_a_plain_method_add_up_by_weight_and_scale() -> None:
    positions = torch.full((1, 2), 7)
    model = Analytic()
    preference = RunConfig().preference
    alone = gradient_of(method_of(model, "refl"), positions)[1]
    other = Criterion("b", Linear(5), preference, weight=0.25, scale=3.0)
    both = gradient_of(method_of(model, "refl", other), positions)[1]
    second = method_of(model, "refl")
    second.criteria = [Criterion("", Linear(5), preference)]
    torch.testing.assert_close(both, alone + 0.25 * 3.0 * gradient_of(second, positions)[1], rtol=1e-9, atol=1e-12)


def test_a_word_that_the_monitor_does_not_look_for_is_said(recwarn: pytest.WarningsRecorder) -> None:
    worded = {"method": {"name": "refl", "word": "Bright"}}
    with pytest.warns(UserWarning, match="method.word 'Bright' is not among preference.positive .*says nothing of it"):
        parse_config(worded | {"preference": {"positive": ["Vivid"]}}, "test")
    recwarn.clear()
    parse_config(worded | {"preference": {"positive": ["Vivid", "Bright"]}}, "test")
    parse_config(worded | {"monitor": {"watch": "luminance"}}, "test")
    assert not [warning for warning in recwarn if "method.word" in str(warning.message)]


@pytest.mark.parametrize(
    ("method", "kind"), [("srpo", "relative"), ("refl", "reward"), ({"name": "refl", "word": "Bright"}, "reward")]
)
def test_rewards_get_one_scale_by_the_scores_that_a_method_trains(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: object, kind: str
) -> None:
    """With a word it is still the reward that is in the loss, not the preference for the word."""

    def seen(_: object, __: object, kind: str) -> None:
        raise LookupError(kind)

    monkeypatch.setattr("srpo.trainer.measure_scales", seen)
    with pytest.raises(LookupError, match=f"^{kind}$"):
        run(with_method(job, tmp_path, method))


def with_method(job: TrainJob, folder: Path, method: object, **train_settings: object) -> TrainJob:
    job = place(job, folder, schedule="constant", **train_settings)
    chosen = parse_config({"method": method}, "test")
    monitor = job.config.monitor.model_copy(update={"watch": chosen.monitor.watch})
    return job.model_copy(
        update={"config": job.config.model_copy(update={"method": chosen.method, "monitor": monitor})}
    )


@pytest.mark.parametrize("name", [name for name in METHODS if name != "srpo"])
def test_each_method_trains_through_the_loop_and_resumes(job: TrainJob, tmp_path: Path, name: str) -> None:
    run(with_method(job, tmp_path / "whole", name, num_updates=4, jitter=2))
    run(with_method(job, tmp_path / "parts", name, num_updates=2, jitter=2))
    run(with_method(job, tmp_path / "parts", name, num_updates=4, jitter=2))
    whole, parts = (weights_of(tmp_path / folder, 4) for folder in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    entries = read_journal(tmp_path / "whole" / "metrics.jsonl")
    assert {f"{name}/loss", f"{name}/reward", f"{name}/sigma_from", "loss", "reward"} <= set(entries[0])
    assert all(entry["grad_norm"] > 0 for entry in entries)
    assert entries[0]["loss"] == pytest.approx(-entries[0]["reward"], rel=1e-5)
    measured = read_journal(tmp_path / "whole" / "heldout.jsonl")
    best = max(measured[1:], key=lambda entry: entry["reward"])["update"]
    assert (tmp_path / "whole" / "result.json").read_text().count(f'"best_update": {best}') == 1
    with pytest.raises(ConfigError, match="other settings in method"):
        run(with_method(job, tmp_path / "parts", {"name": name, "margin": 1.0}, num_updates=6))


def test_what_a_method_ignores_is_said() -> None:
    with pytest.warns(UserWarning, match=r"method refl does not train by preference\.margin, align\.window"):
        parse_config({"method": "refl", "preference": {"margin": 0.1}, "align": {"window": [4, 20]}}, "test")
    with pytest.raises(ConfigError, match=r"method\.refl: window .* within 0\.\.1"):
        parse_config({"method": {"name": "refl", "window": [0.9, 0.5]}}, "test")
    with pytest.raises(ConfigError, match="method 'draft_lv' takes the last step of its own rollouts"):
        parse_config({"method": "draft_lv", "rollout": {"reuse": 2}}, "test")
    with pytest.raises(ConfigError, match=r"method\.draft_lv\.window: unknown key"):
        parse_config({"method": {"name": "draft_lv", "window": [0, 1]}}, "test")
    with pytest.raises(ConfigError, match=r"'srpo', 'direct_align', 'refl', 'draft_lv'"):
        parse_config({"method": "grpo"}, "test")
