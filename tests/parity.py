"""One SRPO update against recorded numbers of the reference (tests/golden/README.md); driven by golden.json alone."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from srpo.align import SigmaGrid
from srpo.config import AlignConfig, PreferenceConfig
from srpo.criteria import Criterion
from srpo.flow import shifted_sigmas
from srpo.models.flux import Flux, pack
from srpo.objective import Asked, StepScores, objective, passes
from srpo.preference import Branch, strength
from srpo.rewards import hps
from srpo.rewards.dual_encoder import DualEncoderReward
from srpo.rewards.preprocessing import clip_preprocessing
from srpo.rollout import Rollout, sample

ABSOLUTE = 1e-5
"""Tolerance of images, latents and rewards."""
RELATIVE = 1e-4
"""Tolerance of gradients, relative to their norm."""


SHIPPED_SETS = [Path(__file__).parent / "golden" / name for name in ("hps", "wide")]


def golden_sets() -> list[Path]:
    """The recorded sets: ours, or only the one that SRPO_GOLDEN_DIR names."""
    if named := os.environ.get("SRPO_GOLDEN_DIR"):
        return [Path(named)]
    return SHIPPED_SETS


@dataclass
class Golden:
    """A recorded set with the models it was computed on."""

    cases: list[dict[str, Any]]
    tensors: dict[str, Tensor]
    training: dict[str, Any]
    model: Flux
    reward: DualEncoderReward
    align: AlignConfig
    preference: PreferenceConfig

    @classmethod
    def load(cls, folder: Path) -> "Golden":
        """Build the models from golden.json and the weights beside it; a missing file is an error."""
        recorded = json.loads((folder / "golden.json").read_text())
        training = recorded["training"]
        transformer = FluxTransformer2DModel(**recorded["transformer"])
        transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
        vae = AutoencoderKL(**recorded["vae"])
        vae.load_state_dict(load_file(folder / "vae.safetensors"))
        clip = open_clip.CLIP(**recorded["reward"])
        clip.visual.load_state_dict(load_file(folder / "reward_visual.safetensors"))
        reward = hps.build(clip, recorded["reward"])
        assert reward.image_size == training["reward_image_size"]
        reward.preprocess = clip_preprocessing(reward.image_size, training["reward_mean"], training["reward_std"])
        align = AlignConfig(
            guidance=training["trained_guidance"],
            shift=training["shift"],
            grid_steps=training["grid_steps"],
            window=training["window"],
            num_levels=training["num_levels"],
            groundtruth_ratio=training["groundtruth_ratio"],
        )
        assert len(align.branches) == training["num_branches"]
        preference = PreferenceConfig(
            k_denoise=training["k_denoise"], k_inversion=training["k_inversion"], margin=training["margin"]
        )
        model = Flux(transformer, vae, FlowMatchEulerDiscreteScheduler(shift=training["shift"]))
        tensors = load_file(folder / "cases.safetensors")
        return cls(recorded["cases"], tensors, training, model, reward, align, preference)

    def stack(self, cases: list[dict[str, Any]], name: str) -> Tensor:
        """A recorded tensor of several cases as one batch."""
        return torch.cat([self.tensors[f"case{case['case']}.{name}"] for case in cases])

    def rollout(self, cases: list[dict[str, Any]]) -> Rollout:
        """Sample the cases' clean latents from their recorded noise."""
        noise = self.stack(cases, "noise")
        channels, height, width = self.model.latent_shape(self.training["height"], self.training["width"])
        assert noise.shape == (len(cases), channels, height, width)
        embeddings = {
            "prompt_embeds": self.stack(cases, "encoder_hidden_states"),
            "pooled_prompt_embeds": self.stack(cases, "pooled"),
        }
        sigmas = shifted_sigmas(self.training["rollout_steps"], self.training["shift"])
        x0 = sample(self.model, embeddings, noise, sigmas, self.training["rollout_guidance"])
        return Rollout(x0, noise, embeddings, [case["prompt"] for case in cases])

    def branches(self, cases: list[dict[str, Any]]) -> list[Branch]:
        """Both branches with the recorded texts; levels and k are computed from the recorded position alone."""
        grid = SigmaGrid(self.align)
        positions = torch.tensor([case["timestep_select"] for case in cases])
        branches = []
        for name, ends in (("denoise", self.preference.k_denoise), ("inversion", self.preference.k_inversion)):
            levels = grid.levels(name, positions)
            target = [text for case in cases for text in case[name]["target"]]
            other = [text for case in cases for text in case[name]["relative"]]
            k = strength(ends, levels.index, grid.num_levels)
            self.reward.text_cache |= zip(target, self.stack(cases, f"{name}.text_features"), strict=True)
            self.reward.text_cache |= zip(other, self.stack(cases, f"{name}.text_features_relative"), strict=True)
            branches.append(Branch(name, levels.sigma_from, levels.sigma_to, k, target, other))
        return branches

    def update(self, cases: list[dict[str, Any]], together: bool) -> tuple[Rollout, list[StepScores]]:
        """Rollout, both branches, backward; the gradients are left on the transformer."""
        self.model.transformer.zero_grad()
        rollout = self.rollout(cases)
        scores: list[StepScores] = []
        branches = self.branches(cases)
        for group in passes(branches, together):
            asked = [Asked(Criterion("", self.reward, self.preference), group)]
            loss, measured = objective(self.model, rollout, asked, len(branches), self.align.guidance)
            loss.backward()
            scores += measured
        return rollout, scores

    def check(self, cases: list[dict[str, Any]], together: bool = True) -> None:
        """Every recorded number of these cases, computed in one batch; AssertionError where one differs."""
        rollout, scores = self.update(cases, together)
        close(pack(rollout.x0), self.stack(cases, "rollout_latents_packed"))
        for measured in scores:
            name = measured.step.name
            close(measured.images, self.stack(cases, f"{name}.image"))
            close(measured.relative, self.stack(cases, f"{name}.reward"))
            close(measured.relative, torch.tensor([case[name]["reward"] for case in cases]))
            close(measured.step.k, torch.tensor([case[name]["k"] for case in cases]))
        gradients = {name: p.grad for name, p in self.model.transformer.named_parameters()}
        recorded = [name for name in self.tensors if name.startswith(f"case{cases[0]['case']}.grad.")]
        assert recorded, "the set records no gradient"
        for name in (name.split(".grad.")[1] for name in recorded):
            total = torch.stack([self.tensors[f"case{case['case']}.grad.{name}"] for case in cases]).sum(dim=0)
            same_gradient(gradients[name], total / len(cases))
        if len(cases) == 1:
            norm = torch.cat([g.flatten() for g in gradients.values() if g is not None]).norm().item()
            assert abs(norm - cases[0]["grad_norm"]) <= RELATIVE * cases[0]["grad_norm"]


def close(got: Tensor, recorded: Tensor) -> None:
    """Within the absolute tolerance everywhere."""
    torch.testing.assert_close(got, recorded, atol=ABSOLUTE, rtol=0)


def same_gradient(got: Tensor | None, recorded: Tensor) -> None:
    """The difference is small beside the gradient itself."""
    assert got is not None
    assert (got - recorded).norm() <= RELATIVE * recorded.norm(), f"{(got - recorded).norm() / recorded.norm()}"
