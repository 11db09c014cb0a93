"""Every setting of a run, as one frozen model that refuses unknown keys and impossible values.

The defaults are the reference recipe for FLUX.1-dev with HPSv2.1 (arXiv:2509.06942, its public configuration); a YAML
file in `configs/` says what a run does differently.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from srpo.config.base import Range, Settings
from srpo.config.images import ImagesConfig
from srpo.config.judgement import DAMAGE_BOUNDS, Bound, EvaluationConfig, MonitorConfig, RegistryConfig, ScoreConfig
from srpo.config.method import (
    AlignConfig,
    DirectAlignMethod,
    DraftLvMethod,
    Method,
    PlainMethod,
    PreferenceConfig,
    ReflMethod,
    RolloutConfig,
    SamplerMethod,
    SrpoMethod,
)
from srpo.config.notify import NotifyConfig
from srpo.config.resources import GpuStepResources, ResourcesConfig, StepResources
from srpo.config.rewards import AddedReward, AddedRewards, with_own_preferences
from srpo.config.storage import StorageConfig
from srpo.config.training import LoraConfig, TrainConfig
from srpo.config.world import QUANTISED, ModelConfig, PromptsConfig, RewardConfig, WeightsFormat
from srpo.errors import ConfigError

__all__ = [
    "DAMAGE_BOUNDS",
    "AddedReward",
    "AlignConfig",
    "Bound",
    "DirectAlignMethod",
    "DraftLvMethod",
    "EvaluationConfig",
    "GpuStepResources",
    "ImagesConfig",
    "LoraConfig",
    "Method",
    "ModelConfig",
    "MonitorConfig",
    "NotifyConfig",
    "PlainMethod",
    "PreferenceConfig",
    "PromptsConfig",
    "Range",
    "ReflMethod",
    "RegistryConfig",
    "ResourcesConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "ScoreConfig",
    "Settings",
    "SrpoMethod",
    "StepResources",
    "StorageConfig",
    "TrainConfig",
    "WeightsFormat",
    "load_config",
    "parse_config",
]

SCHEMA_VERSION = 1
"""Form of the run files that this version reads."""


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
    rewards: AddedRewards = Field(default_factory=dict)
    """Further rewards by name, trained on beside `reward`, whose scores stay those that the run is judged by."""
    method: Method = SrpoMethod()
    prompts: PromptsConfig = PromptsConfig()
    images: ImagesConfig | None = None
    """Real images to train on; null: rollouts alone."""
    preference: PreferenceConfig = PreferenceConfig()
    align: AlignConfig = AlignConfig()
    rollout: RolloutConfig = RolloutConfig()
    train: TrainConfig = TrainConfig()
    monitor: MonitorConfig = MonitorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    registry: RegistryConfig = RegistryConfig()
    resources: ResourcesConfig = ResourcesConfig()
    """What the steps ask of a cluster."""
    storage: StorageConfig = StorageConfig()
    notify: NotifyConfig = NotifyConfig()

    @property
    def num_offline_updates(self) -> int:
        """Updates, from the first on, that take real images instead of rollouts."""
        return (self.images.until_update or self.train.num_updates) if self.images else 0

    @property
    def guidance(self) -> dict[str, float | None]:
        """Every guidance of the run by the name of its setting."""
        rolls_out = self.num_offline_updates < self.train.num_updates
        return {
            "align.guidance": self.align.guidance,
            **({"rollout.guidance": self.rollout.guidance} if rolls_out else {}),
            "evaluation.guidance": self.evaluation.guidance,
        }

    @property
    def all_rewards(self) -> dict[str, RewardConfig]:
        """Every reward by the name of its setting, the first one first."""
        return {"reward": self.reward} | {f"rewards.{name}": added for name, added in self.rewards.items()}

    @property
    def num_injections(self) -> int:
        """Steps with gradient for each rollout, whose losses are averaged."""
        return self.method.num_injections(self.align)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where all weights lie, of held-out scores too."""
        rewards = (reward.source for reward in self.all_rewards.values())
        return self.model.source, *rewards, *self.evaluation.score_sources

    @model_validator(mode="before")
    @classmethod
    def added_rewards_share_the_preference(cls, data: Any) -> Any:
        """What an added reward's preference leaves out, resolved here so that a run file shows it."""
        return with_own_preferences(data) if isinstance(data, dict) and isinstance(data.get("rewards"), dict) else data

    @model_validator(mode="before")
    @classmethod
    def monitor_watches_what_is_trained(cls, data: Any) -> Any:
        """Which metric the monitor watches, where the run does not say."""
        monitor = data.get("monitor", {}) if isinstance(data, dict) else None
        if not isinstance(monitor, dict) or "watch" in monitor:
            return data
        try:
            method = TypeAdapter[SrpoMethod | PlainMethod](Method).validate_python(data.get("method", "srpo"))
        except ValidationError:
            return data  # said where it stands
        return {**data, "monitor": {**monitor, "watch": method.trains_on}}

    @model_validator(mode="after")
    def settings_are_read(self) -> Self:
        """Refuse what the method cannot do, warn of what differs from its default though the method ignores it."""
        if isinstance(self.method, SamplerMethod) and (self.images or self.rollout.reuse > 1):
            raise ValueError(
                f"method {self.method.name!r} takes the last step of its own rollouts, so that it cannot train on real "
                "images or on rollouts of earlier updates; leave images out, and rollout.reuse at 1"
            )
        if ignored := [key for key in self.method.unread if self._differs(*key.split("."))]:
            warnings.warn(f"method {self.method.name} does not train by {', '.join(ignored)}", stacklevel=2)
        return self

    def _differs(self, section: str, name: str) -> bool:
        """Whether a setting is not the default."""
        settings: Settings = getattr(self, section)
        return bool(getattr(settings, name) != type(settings).model_fields[name].default)

    @model_validator(mode="after")
    def images_and_rollouts_take_turns(self) -> Self:
        """Refuse a turn that never comes."""
        last = self.images.until_update if self.images else None
        if last is not None and last >= self.train.num_updates:
            raise ValueError(
                f"images.until_update ({last}) leaves none of the {self.train.num_updates} updates to roll out; "
                "lower it, or leave it out to train on images alone"
            )
        return self

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
    def an_adapter_can_be_merged(self) -> Self:
        """There is one, and weights that a small change can be added to."""
        if not self.rollout.merge_lora:
            return self
        if self.train.lora is None:
            raise ValueError("rollout.merge_lora has nothing to merge; set train.lora, or leave it out")
        if self.model.weights in QUANTISED:
            raise ValueError(
                f"rollout.merge_lora cannot add an adapter to {self.model.weights!r} weights, whose steps are far "
                "wider than what it has learnt; set model.weights to 'bf16' or 'fp32', or leave merge_lora out"
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


def with_overrides(config: RunConfig, overrides: tuple[str, ...], origin: str) -> RunConfig:
    """The config with `a.b=value` overrides. ConfigError as of `load_config`."""
    data = config.model_dump(mode="json")
    for override in overrides:
        _set(data, override)
    return parse_config(data, origin)


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
