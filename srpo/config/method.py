"""The method: which one, preference, Direct-Align, rollouts."""

import warnings
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from srpo.config.base import Range, Settings
from srpo.flow import Solver, shifted_sigmas
from srpo.presets import PRESETS


class PreferenceConfig(Settings):
    """Semantic relative preference: wanted control words against unwanted (arXiv:2509.06942, section 3.3)."""

    preset: str | None = None
    """Words that belong together: realism, bright, dark, vivid, painting, comic, anime or sketch. `positive`,
    `negative` and `prefix` that are given here come before its own."""
    positive: tuple[str, ...] = Field(
        default=("Natural-lighting", "Detail", "Detailed", "Real"), min_length=1, validate_default=True
    )
    """Wanted words, put in front of the prompt as `"<word>. <prompt>"`; update u (from 1) uses
    `positive[u % len(positive)]`. A word works as far as the reward knows it; the command `words` tells before."""
    negative: tuple[str, ...] = Field(
        default=("Concept art", "Painting", "Anime", "Flat", "Oil"), min_length=1, validate_default=True
    )
    """Unwanted words, cycled the same way."""
    words_file: str | None = None
    """CSV or JSON lines with other words for some prompts or updates (`srpo.control_words`), here, at `s3://` or
    `hf://`; null: the same for all.

    Only training reads it: held-out scores and the evaluation are measured with the words above.
    """
    prefix: str | None = Field(default=None, pattern=r"\S")
    """Word that the aligned model draws with (`"<prefix>. <prompt>"`) in `generate`; evaluation goes without it."""
    k_denoise: Range = (0.1, 0.25)
    """Strength k of `(1 + k) r(target) - r(other)` in the denoise branch, from the first (clean end) to the last level
    of the grid."""
    k_inversion: Range = (0.3, 0.01)
    """Strength of the inversion branch, likewise. The authors advise: its first slightly above the last of denoise
    works against over-saturation; the first of denoise slightly above its last keeps structure; a negative early k of
    denoise (-0.1 to 0.2) penalises high-frequency tricks."""
    margin: float = 0.7
    """Hinge: an image whose relative preference has reached the margin is no longer pushed. 0.7 is never reached with
    HPSv2.1, whose relative preference is about 0.03 to 0.1."""
    discount_shift: float | None = Field(default=None, gt=0)
    """The relative preference is multiplied by a factor that rises from 0 at the clean end of the grid to 1 at the
    noisy one, bent by this shift (3 in the reference's recipe for Qwen-Image); null: it counts fully everywhere."""
    content_anchor: float = Field(default=0.0, ge=0)
    """Weight of the plain reward r(image, prompt) beside the hinge, which keeps what the prompt asks for; in the
    denoise branch alone, because through inversion it would push away from the prompt. 0 is the reference's loss."""

    @model_validator(mode="before")
    @classmethod
    def preset_fills_what_is_left_out(cls, data: Any) -> Any:
        """The words of a preset, resolved here so that a run file shows them."""
        name = data.get("preset") if isinstance(data, dict) else None
        if not isinstance(name, str):
            return data
        if name not in PRESETS:
            raise ValueError(f"no preset named {name!r}; choose from {sorted(PRESETS)}")
        return PRESETS[name]._asdict() | data

    @model_validator(mode="after")
    def preset_is_used(self) -> Self:
        """A preset beside words that replace all of its own would say nothing."""
        preset = PRESETS[self.preset] if self.preset else None
        if preset and not any(value and value == getattr(self, name) for name, value in preset._asdict().items()):
            warnings.warn(f"preference.preset {self.preset} has no effect: other words are given", stacklevel=2)
        return self

    @model_validator(mode="after")
    def words_are_not_blank(self) -> Self:
        """A blank control word would change nothing and say nothing."""
        for name, words in (("positive", self.positive), ("negative", self.negative)):
            if any(not word.strip() for word in words):
                raise ValueError(f"{name} holds a blank control word: {list(words)}; remove it")
        return self


class AlignConfig(Settings):
    """Direct-Align: which noise levels are trained, and how (arXiv:2509.06942)."""

    branches: tuple[Literal["denoise", "inversion"], ...] = Field(default=("denoise", "inversion"), min_length=1)
    """Branches of an update. `denoise` pulls towards the positive words; `inversion` steps to a noisier level, which
    turns the gradient around, so that rewarding the negative words pushes away from them."""
    together: bool = True
    """Run the branches as one batch (faster) or one after the other (less memory); the gradients are the same."""
    guidance: float | None = Field(default=3.5, ge=0)
    """Guidance of the trained step, as the model's family means it; null for none."""
    shift: float = Field(default=3.0, gt=0)
    """Schedule shift of the sigma grid."""
    grid_steps: int = Field(default=50, gt=0)
    """Steps of the schedule that the window counts in."""
    window: tuple[int, int] = (5, 25)
    """First and last step of the schedule that is trained. Early steps draw structure, late ones colour and detail:
    stay below sigma 0.99 (structure breaks) and away from late steps (colours are hacked); both warn."""
    num_levels: int = Field(default=1000, ge=11)
    """Points of the sigma grid inside the window; with 0.9 of 1000 known the model steps over at most 100 of them."""
    groundtruth_ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of the way that the known noise covers; the model's step covers at most the rest."""
    num_injections: int = Field(default=1, gt=0)
    """Noise levels drawn per rollout; their losses are averaged (the paper's aggregation). Exact: x0 stays.
    Rollouts are three quarters of the work."""

    @model_validator(mode="after")
    def window_lies_in_the_schedule(self) -> Self:
        """Refuse what cannot work, warn of what the authors found to hurt."""
        if len(set(self.branches)) != len(self.branches):
            raise ValueError(f"branches names one twice: {list(self.branches)}")
        first, last = self.window
        if not 0 <= first < last <= self.grid_steps:
            raise ValueError(f"window {first, last} must be two rising steps within 0..{self.grid_steps}")
        sigmas = shifted_sigmas(self.grid_steps, self.shift)
        noisiest, cleanest = float(sigmas[first]), float(sigmas[last])
        if noisiest >= 1:
            raise ValueError(f"window starts at step {first}, sigma 1, where Direct-Align divides by zero; start later")
        if noisiest > 0.99:
            warnings.warn(f"window starts at sigma {noisiest:.3f}; above 0.99 training damages structure", stacklevel=2)
        if last > 0.6 * self.grid_steps:
            warnings.warn(
                f"window ends at step {last} of {self.grid_steps} (sigma {cleanest:.2f}): late steps invite hacks",
                stacklevel=2,
            )
        return self


class RolloutConfig(Settings):
    """Where clean latents come from: sampled by the model itself, without gradient.

    Exact settings leave x0 as it is, to rounding; lossy ones train on another: `benchmarks/rollouts.py` measures both.
    """

    num_steps: int = Field(default=25, gt=0)
    """Steps of the solver. Lossy below the recipe's 25."""
    solver: Solver = "euler"
    """`euler` is the recipe's; of order 2 are `ab2` and `dpmpp_2m`, with one evaluation per step, and `heun`, with two.
    Lossy: another x0, though in as many evaluations a nearer one to where the flow leads."""
    precision: Literal["bf16"] | None = None
    """bf16: autocast for the rollout alone, where training has none. Lossy; null: as `train.precision`."""
    merge_lora: bool = False
    """Add the adapter to a copy of the weights while a rollout is drawn. Exact in fp32; lossy where weights are kept or
    computed with in bf16, to which the sum is rounded. Quantised weights cannot take it."""
    reuse: int = Field(default=1, gt=0)
    """Updates that train on the same rollouts, each at new noise levels. Lossy: x0 is of weights some updates old."""
    shift: float = Field(default=3.0, gt=0)
    """Schedule shift of the rollout."""
    guidance: float | None = Field(default=1.0, ge=0)
    """Guidance of the rollout; null for none."""
    noise: Literal["shared", "per_sample"] = "shared"
    """`shared`: one noise for all images of an update on all ranks, as in the reference; `per_sample`: one for each."""


class SrpoMethod(Settings):
    """SRPO (arXiv:2509.06942): Direct-Align with the relative preference; `preference` and `align` say how."""

    name: Literal["srpo"] = "srpo"
    """What `method` is set to."""

    unread: ClassVar[tuple[str, ...]] = ()
    """Settings of the run that training by this method ignores."""

    scaled_by: ClassVar[str] = "relative"
    """The kind of scores in the loss, whose deviation gives rewards one scale."""
    unless_text_is_read: ClassVar[str] = (
        "control words cancel out of its relative preference (what is left is k * r, whatever they say); set method to "
        "'direct_align', 'refl' or 'draft_lv'"
    )
    """What happens with a reward that ignores the text, and what to do."""

    @property
    def trains_on(self) -> str:
        """The held-out metric that training raises, which the monitor watches."""
        return "relative"

    def num_injections(self, align: AlignConfig) -> int:
        """Noise levels with gradient for each rollout, whose losses are averaged."""
        return align.num_injections


RELATIVE_ONLY = (
    *("align.branches", "align.together", "preference.words_file", "preference.k_denoise", "preference.k_inversion"),
    *("preference.margin", "preference.discount_shift", "preference.content_anchor"),
)
GRID_ONLY = tuple(
    f"align.{name}" for name in ("shift", "grid_steps", "window", "num_levels", "groundtruth_ratio", "num_injections")
)


class PlainMethod(Settings):
    """What raises the reward itself, r(image, prompt), not one text's against another's."""

    margin: float | None = None
    """Hinge `relu(margin - r)` per image; null: `-r`, as in DRaFT."""
    word: str | None = Field(default=None, pattern=r"\S")
    """The reward is asked about `"<word>. <prompt>"`; null: about the prompt."""

    unread: ClassVar[tuple[str, ...]] = (*RELATIVE_ONLY, *GRID_ONLY)
    scaled_by: ClassVar[str] = "reward"
    unless_text_is_read: ClassVar[str] = "method.word says nothing to it; leave method.word out"

    @property
    def trains_on(self) -> str:
        """The held-out metric that training raises; for a word that is the preference for it over others."""
        return "relative" if self.word else "reward"

    def num_injections(self, align: AlignConfig) -> int:
        """Steps with gradient for each rollout, whose losses are averaged."""
        return 1


class DirectAlignMethod(PlainMethod):
    """Direct-Align without control words (arXiv:2509.06942, section 3.2): the denoise branch raises the plain reward.

    `align` says which noise levels; `align.num_injections` of them are averaged for each rollout.
    """

    name: Literal["direct_align"] = "direct_align"
    """What `method` is set to."""
    discount_shift: float | None = Field(default=None, gt=0)
    """The reward is multiplied by a factor that rises from 0 at the clean end of the grid to 1 at the noisy one, bent
    by this shift, so that late steps count less; null: all levels count fully."""

    unread: ClassVar[tuple[str, ...]] = RELATIVE_ONLY

    def num_injections(self, align: AlignConfig) -> int:
        """Noise levels drawn for each rollout."""
        return align.num_injections


class SamplerMethod(PlainMethod):
    """What takes the last step of the model's own rollouts: no real images, no rollouts kept from earlier updates."""


class ReflMethod(SamplerMethod):
    """ReFL (ImageReward, arXiv:2304.05977): the image predicted at once from a random late step, with gradient."""

    name: Literal["refl"] = "refl"
    """What `method` is set to."""
    window: Range = (0.75, 0.975)
    """Shares of the rollout that the step is drawn between; ReFL's are steps 30 to 39 of 40."""

    @model_validator(mode="after")
    def window_lies_in_the_rollout(self) -> Self:
        """A step before the first or after the last does not exist."""
        first, last = self.window
        if not 0 <= first <= last <= 1:
            raise ValueError(f"window {first, last} must be two rising shares of the rollout, within 0..1")
        return self


class DraftLvMethod(SamplerMethod):
    """DRaFT-LV (arXiv:2309.17400): gradient through the last step of the rollout, and of noised copies of its image."""

    name: Literal["draft_lv"] = "draft_lv"
    """What `method` is set to."""
    num_copies: int = Field(default=2, ge=0)
    """Copies noised back to the last level and denoised again, which lowers the gradient's variance; 0 is DRaFT-1."""

    def num_injections(self, align: AlignConfig) -> int:
        """The rollout's own last step, and one for each copy."""
        return 1 + self.num_copies


def _by_name(value: Any) -> Any:
    """`method: refl` is short for `method: {name: refl}`."""
    return {"name": value} if isinstance(value, str) else value


Method = Annotated[
    Annotated[SrpoMethod | DirectAlignMethod | ReflMethod | DraftLvMethod, Field(discriminator="name")],
    BeforeValidator(_by_name),
]
"""The method of a run: its name, or its name with its settings."""
