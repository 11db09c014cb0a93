"""Every setting of a run, as one frozen model that refuses unknown keys and impossible values.

The defaults are the reference recipe for FLUX.1-dev with HPSv2.1 (arXiv:2509.06942, its public configuration); a YAML
file in `configs/` says what a run does differently.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from srpo.errors import ConfigError
from srpo.flow import shifted_sigmas
from srpo.presets import PRESETS

SCHEMA_VERSION = 1
"""Form of the run files that this version reads."""

Range = tuple[float, float]
WeightsFormat = Literal["fp32", "bf16", "int8", "nf4"]
QUANTISED: tuple[WeightsFormat, ...] = ("int8", "nf4")
FLUX_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class Settings(BaseModel):
    """Base of every section: frozen, strict about keys, documented by the strings under the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Settings):
    """The model to align."""

    family: str = "flux"
    """Architecture: a key of `srpo.models.MODELS`."""
    source: str = "builtin:shapes"
    """Where the diffusers folder lies: a path, hf://owner/name[@revision], s3://bucket/prefix, or `builtin:shapes`."""
    height: int = Field(default=720, gt=0)
    """Height of the training images in pixels; a multiple of what the VAE and the 2x2 patches need."""
    width: int = Field(default=720, gt=0)
    """Width of the training images in pixels."""
    max_sequence_length: int = Field(default=512, gt=0)
    """Tokens of the long text encoder (T5 for FLUX, Qwen2.5-VL for Qwen-Image)."""
    weights: WeightsFormat = "fp32"
    """How the transformer's weights are kept: fp32, bf16, or quantised and frozen under LoRA: int8, nf4 (4 bits)."""


class RewardConfig(Settings):
    """The frozen text-conditioned reward."""

    family: str = "hps"
    """Key of `srpo.rewards.REWARDS`. `hps`: an open_clip state dict; `clip`: a transformers CLIPModel folder."""
    source: str = "builtin:shapes"
    """Where the checkpoint lies: a file, a folder, hf://owner/name[@revision][/file], s3://..., or `builtin:shapes`."""
    architecture: str = "ViT-H-14"
    """For `hps`: an open_clip model name, or the path of an open_clip model JSON."""


class PromptsConfig(Settings):
    """What is drawn, and how its embeddings are made."""

    train: str = "builtin:shapes"
    """Prompts to train on: a file (.txt, .csv, .jsonl; see `srpo.prompts.files`), `builtin:shapes`: the captions of the
    embedded world, or `builtin:photos`: 640 prompts in ten categories for a real model."""
    held_out: str = "builtin:shapes"
    """Prompts that are only measured on, during training and at the end; none may be among the training prompts.
    `builtin:photos` holds 200 of them, in the same categories."""
    max_characters: int = Field(default=2000, gt=0)
    """Longest prompt accepted."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """How embeddings are stored. `fp32`: exactly; `bf16`: half the space, rounded to 8 bits of mantissa (lossy)."""
    num_processes: int | None = Field(default=None, gt=0)
    """Processes that encode; null: one per GPU, or one on the CPU."""


class PreferenceConfig(Settings):
    """Semantic relative preference: wanted control words against unwanted (method section 3)."""

    preset: str | None = None
    """Name of words in `srpo.presets`; `positive`, `negative` and `prefix` that are given here come before its own."""
    positive: tuple[str, ...] = Field(
        default=("Natural-lighting", "Detail", "Detailed", "Real"), min_length=1, validate_default=True
    )
    """Wanted words; update u (from 1) uses `positive[u % len(positive)]`."""
    negative: tuple[str, ...] = Field(
        default=("Concept art", "Painting", "Anime", "Flat", "Oil"), min_length=1, validate_default=True
    )
    """Unwanted words, cycled the same way."""
    words_file: str | None = None
    """CSV or JSON lines with other words for some prompts or updates (`srpo.control_words`); null: the same for all.

    Only training reads it: held-out scores and the evaluation are measured with the words above.
    """
    prefix: str | None = Field(default=None, pattern=r"\S")
    """Word that the aligned model draws with (`"<prefix>. <prompt>"`) in `generate`; evaluation goes without it."""
    k_denoise: Range = (0.1, 0.25)
    """Strength of the denoise branch, from the first (clean end) to the last level of the grid."""
    k_inversion: Range = (0.3, 0.01)
    """Strength of the inversion branch, likewise."""
    margin: float = 0.7
    """Hinge: an image whose relative preference has reached the margin is no longer pushed."""
    discount_shift: float | None = Field(default=None, gt=0)
    """The relative preference is multiplied by a factor that rises from 0 at the clean end of the grid to 1 at the
    noisy one, bent by this shift (3 in the reference's recipe for Qwen-Image); null: it counts fully everywhere."""
    content_anchor: float = Field(default=0.0, ge=0)
    """Weight of the plain reward r(image, prompt) beside the hinge; 0 is the reference's loss."""

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
        if preset and preset.positive != self.positive and preset.negative != self.negative:
            warnings.warn(
                f"preference.preset {self.preset} has no effect: positive and negative are given as well", stacklevel=2
            )
        return self

    @model_validator(mode="after")
    def words_are_not_blank(self) -> Self:
        """A blank control word would change nothing and say nothing."""
        for name, words in (("positive", self.positive), ("negative", self.negative)):
            if any(not word.strip() for word in words):
                raise ValueError(f"{name} holds a blank control word: {list(words)}; remove it")
        return self


class AlignConfig(Settings):
    """Direct-Align: which noise levels are trained, and how (method sections 2 and 4)."""

    branches: tuple[Literal["denoise", "inversion"], ...] = Field(default=("denoise", "inversion"), min_length=1)
    """Branches of an update. `denoise` pulls towards the positive words, `inversion` pushes from the negative ones."""
    together: bool = True
    """Run the branches as one batch (faster) or one after the other (less memory); the gradients are the same."""
    guidance: float | None = Field(default=3.5, ge=0)
    """Guidance of the trained step, as the model's family means it; null for none."""
    shift: float = Field(default=3.0, gt=0)
    """Schedule shift of the sigma grid."""
    grid_steps: int = Field(default=50, gt=0)
    """Steps of the schedule that the window counts in."""
    window: tuple[int, int] = (5, 25)
    """First and last step of the schedule that is trained: early steps draw structure, late ones colour and detail."""
    num_levels: int = Field(default=1000, ge=11)
    """Points of the sigma grid inside the window."""
    groundtruth_ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of the way that the known noise covers; the model's step covers at most the rest."""
    num_injections: int = Field(default=1, gt=0)
    """Noise levels drawn per rollout; their losses are averaged (the paper's aggregation)."""

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
    """Where clean latents come from: sampled by the model itself, without gradient."""

    num_steps: int = Field(default=25, gt=0)
    """Euler steps."""
    shift: float = Field(default=3.0, gt=0)
    """Schedule shift of the rollout."""
    guidance: float | None = Field(default=1.0, ge=0)
    """Guidance of the rollout; null for none."""
    noise: Literal["shared", "per_sample"] = "shared"
    """`shared`: one noise for all images of an update on all ranks, as in the reference; `per_sample`: one for each."""


class LoraConfig(Settings):
    """A low-rank adapter instead of the transformer's own weights."""

    rank: int = Field(default=16, gt=0)
    """Rank of the change of each layer."""
    alpha: int = Field(default=16, gt=0)
    """The change counts alpha / rank."""
    target_modules: tuple[str, ...] = Field(default=FLUX_ATTENTION, min_length=1)
    """Names of the linear layers that get an adapter, by their last parts."""


class TrainConfig(Settings):
    """The loop."""

    num_updates: int = Field(default=20, gt=0)
    """Optimizer steps."""
    num_processes: int = Field(default=1, gt=0)
    """Processes (GPUs) that share an update."""
    batch_size: int = Field(default=1, gt=0)
    """Prompts per process and micro-batch."""
    accumulation: int = Field(default=1, gt=0)
    """Micro-batches per update."""
    learning_rate: float = Field(default=5e-6, gt=0)
    """AdamW; the authors advise 1e-6 to 1e-5 for FLUX."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """AdamW."""
    betas: Range = (0.9, 0.999)
    """AdamW."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW."""
    max_grad_norm: float = Field(default=0.1, gt=0)
    """The gradient is scaled down to this norm."""
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    """Learning rate over the updates."""
    num_warmup_updates: int = Field(default=0, ge=0)
    """Updates of linear warm-up, for the schedules that have one."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: autocast over fp32 master weights; fp32: no autocast."""
    lora: LoraConfig | None = None
    """Train an adapter; null trains every weight of the transformer."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit keeps the moments in blocks of 8-bit values: a quarter of their memory."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How an update is rounded into bf16 weights; stochastic keeps in the mean what nearest would drop."""
    sharding: Literal["none", "fsdp2"] = "none"
    """fsdp2: each process keeps a slice of weights, gradients and moments; none: each keeps them all."""
    gradient_checkpointing: Literal["none", "selective", "full"] = "full"
    """What of the transformer the backward pass computes again: all, all but matmuls and attention, or nothing."""
    vae_checkpointing: bool = False
    """Recompute the VAE's activations too."""
    attention: str | None = None
    """Attention kernel by diffusers' name (`native`, `_native_cudnn`, `flash`, `_flash_3`); null is torch's choice."""
    compile: bool = False
    """Compile the repeated blocks of the transformer (exact to rounding; a minute once, then faster)."""
    deterministic: bool = True
    """Deterministic algorithms only, so that a resumed run equals an uninterrupted one bit for bit."""
    save_every: int = Field(default=5, gt=0)
    """Updates between checkpoints."""
    keep_last: int = Field(default=2, gt=0)
    """Checkpoints kept besides the best."""

    @property
    def images_per_update(self) -> int:
        """Rollouts of one update over all processes."""
        return self.num_processes * self.batch_size * self.accumulation

    @model_validator(mode="after")
    def sharding_has_something_to_shard(self) -> Self:
        """Say what sharding does not go with."""
        if self.sharding == "none":
            return self
        if self.num_processes == 1:
            raise ValueError("sharding 'fsdp2' needs more than one process; set num_processes, or sharding to 'none'")
        if self.lora or self.optimizer != "adamw" or self.rounding != "nearest":
            raise ValueError(
                "sharding 'fsdp2' trains every weight in fp32 by plain AdamW; LoRA and 8-bit moments fit without it"
            )
        return self

    @model_validator(mode="after")
    def warmup_is_read(self) -> Self:
        """A warm-up under a schedule that has none would be ignored."""
        if self.schedule == "constant" and self.num_warmup_updates:
            raise ValueError("num_warmup_updates has no effect with schedule 'constant'; use 'constant_with_warmup'")
        return self


class Bound(Settings):
    """What one metric may do relative to the base model: a change, or a ratio."""

    metric: str
    """Name of a metric of the evaluation."""
    min_change: float | None = None
    """Smallest value allowed for `trained - base`."""
    max_change: float | None = None
    """Largest value allowed for `trained - base`."""
    min_ratio: float | None = None
    """Smallest value allowed for `trained / base`."""
    max_ratio: float | None = None
    """Largest value allowed for `trained / base`."""

    @model_validator(mode="after")
    def bounds_something(self) -> Self:
        """A bound without a limit would always hold."""
        if self.min_change is self.max_change is self.min_ratio is self.max_ratio is None:
            raise ValueError(
                f"the bound on {self.metric!r} has no limit; give min_change, max_change, min_ratio or max_ratio"
            )
        return self


DAMAGE_BOUNDS = (
    Bound(metric="saturation", min_ratio=0.5, max_ratio=1.5),
    Bound(metric="sharpness", min_ratio=0.5, max_ratio=2.0),
    Bound(metric="clipped", max_change=0.10),
    Bound(metric="spread", min_ratio=0.6),
)


class MonitorConfig(Settings):
    """Held-out scores and a fixed sample strip during training; they choose the best checkpoint."""

    every: int = Field(default=5, gt=0)
    """Updates between measurements; a multiple of `train.save_every`, so that each measurement has its checkpoint."""
    num_images: int = Field(default=32, gt=1)
    """Held-out images measured each time (the same prompts and noise)."""
    strip_images: int = Field(default=8, gt=0)
    """How many of them are kept as pictures."""
    bounds: tuple[Bound, ...] = DAMAGE_BOUNDS
    """A checkpoint outside any of these is damaged and cannot be the best, however high its relative reward."""


class EvaluationConfig(Settings):
    """Base against trained on held-out prompts with the same seeds."""

    num_steps: int = Field(default=50, gt=0)
    """Sampling steps; the schedule is the model folder's own."""
    guidance: float | None = Field(default=3.5, ge=0)
    """Guidance of the samples; null for none."""
    num_prompts: int = Field(default=200, gt=1)
    """Held-out prompts used, from the first on; fewer if the file has fewer."""
    seeds_per_prompt: int = Field(default=4, gt=0)
    """Images per prompt; they are averaged within the prompt, which is the unit that is resampled."""
    batch_size: int = Field(default=4, gt=0)
    """Images per forward pass."""
    world: Literal["shapes"] | None = None
    """An embedded world whose captions let content and style be measured exactly."""
    wanted: str = "relative"
    """The metric the summary shows first: what this run is meant to raise."""
    num_resamples: int = Field(default=5000, ge=100)
    """Bootstrap resamples."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of every interval."""
    gate: tuple[Bound, ...] = (Bound(metric="relative", min_change=0.0), *DAMAGE_BOUNDS)
    """What a version must show to become champion: the interval's bound, not the mean, must keep every limit."""
    num_report_images: int = Field(default=24, gt=0)
    """Pairs of images shown in the report."""


class RegistryConfig(Settings):
    """Where versions are registered."""

    model_name: str = Field(default="srpo", pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the registered model."""


class RunConfig(Settings):
    """One run of the pipeline."""

    schema_version: Literal[1] = 1
    """Form of this file."""
    name: str = Field(default="srpo", pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the experiment; runs are named after it."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random."""
    model: ModelConfig = ModelConfig()
    reward: RewardConfig = RewardConfig()
    prompts: PromptsConfig = PromptsConfig()
    preference: PreferenceConfig = PreferenceConfig()
    align: AlignConfig = AlignConfig()
    rollout: RolloutConfig = RolloutConfig()
    train: TrainConfig = TrainConfig()
    monitor: MonitorConfig = MonitorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    registry: RegistryConfig = RegistryConfig()

    @model_validator(mode="after")
    def weights_can_learn(self) -> Self:
        """What is trained must be able to hold an update."""
        weights, train = self.model.weights, self.train
        if weights in QUANTISED and train.lora is None:
            raise ValueError(f"model.weights {weights!r} is frozen; set train.lora, or train bf16 or fp32 weights")
        if weights == "bf16" and train.lora is None and train.rounding == "nearest":
            raise ValueError(
                "plain AdamW on bf16 weights loses nine tenths of what 20 updates of 5e-6 would change, because each "
                "is below half a unit of bf16; set train.rounding to 'stochastic', or model.weights to 'fp32'"
            )
        if train.rounding == "stochastic" and (weights != "bf16" or train.lora is not None):
            raise ValueError("train.rounding 'stochastic' acts on bf16 weights that are trained; here it does nothing")
        if train.sharding != "none" and self.monitor.num_images % train.num_processes:
            raise ValueError(
                f"monitor.num_images ({self.monitor.num_images}) must be a multiple of train.num_processes "
                f"({train.num_processes}) when the model is sharded: every process takes part in each forward pass"
            )
        return self

    @model_validator(mode="after")
    def measurements_have_checkpoints(self) -> Self:
        """The best checkpoint is chosen among the measured ones, so each must exist."""
        if self.monitor.every % self.train.save_every:
            raise ValueError(
                f"monitor.every ({self.monitor.every}) must be a multiple of train.save_every ({self.train.save_every})"
            )
        if self.monitor.num_images < self.train.num_processes:
            raise ValueError(
                f"monitor.num_images ({self.monitor.num_images}) must be at least train.num_processes "
                f"({self.train.num_processes}), so that each process has one"
            )
        return self


def load_config(paths: Path | Sequence[Path], overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML run file, and others that change it in the order given, apply `a.b=value` overrides, and check all.

    ConfigError names each wrong key.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    data: dict[str, Any] = {}
    for path in files:
        data = _merged(data, _read(path))
    for override in overrides:
        _set(data, override)
    return parse_config(data, " + ".join(map(str, files)))


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections are merged key by key; any other value of `above` replaces that of `below`."""
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return below | above | {key: _merged(below[key], above[key]) for key in both}


def _read(path: Path) -> dict[str, Any]:
    """The settings of one file."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}; see configs/ for examples") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as a run file: {error.strerror}; see configs/ for examples") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, got {type(data).__name__}")
    return data


def parse_config(data: dict[str, Any], origin: str) -> RunConfig:
    """Check a mapping of settings; ConfigError lists every wrong key with its path."""
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{origin} has schema_version {version!r}, this srpo reads {SCHEMA_VERSION}; "
            "use the srpo that wrote it, or bring the file up to date"
        )
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(origin, problem) for problem in error.errors())) from None


def _describe(origin: str, problem: Any) -> str:
    """One line per problem: where, what was expected, what was got."""
    key = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"{origin}: {key}: unknown key"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{origin}: {key}: {message}" + ("" if problem["type"] == "value_error" else f" (got {problem['input']!r})")


def _set(data: dict[str, Any], override: str) -> None:
    """Apply one `a.b=value`; the value is read as YAML."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r} must have the form section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from None
