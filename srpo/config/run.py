"""A whole run: its sections, and what they demand of each other."""

import re
import warnings
from typing import Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from srpo.config.base import NAME, Settings
from srpo.config.images import ImagesConfig
from srpo.config.judgement import EvaluationConfig, MonitorConfig, RegistryConfig, ScoreConfig
from srpo.config.method import (
    AlignConfig,
    Method,
    PlainMethod,
    PreferenceConfig,
    RolloutConfig,
    SamplerMethod,
    SrpoMethod,
)
from srpo.config.notify import NotifyConfig
from srpo.config.resources import ResourcesConfig
from srpo.config.rewards import AddedRewards, with_own_preferences
from srpo.config.storage import StorageConfig
from srpo.config.training import TrainConfig
from srpo.config.world import QUANTISED, ModelConfig, PromptsConfig, RewardConfig
from srpo.meters import meters

SCHEMA_VERSION = 1
"""Form of the run files that this version reads."""
OF_A_SET = ("spread", "drift", "diversity")
"""Metrics of several pictures that are measured without asking what they should be."""


class RunConfig(Settings):
    """One run of the pipeline."""

    schema_version: Literal[1] = 1
    """Form of this file."""
    name: str = Field(default="srpo", pattern=NAME)
    """Name of the experiment; runs are named after it."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of everything random; NumPy's takes no larger one."""
    model: ModelConfig = ModelConfig()
    """The base model, and the size of its images."""
    reward: RewardConfig = RewardConfig()
    """What says how well pictures agree with texts: trained on, and what the run is judged by."""
    rewards: AddedRewards = Field(default_factory=dict)
    """Further rewards by name, trained on beside `reward`, whose scores stay those that the run is judged by."""
    method: Method = SrpoMethod()
    """How the reward is raised: the name of a method, or its name with its settings."""
    prompts: PromptsConfig = PromptsConfig()
    """What is drawn: to train on, and held out to measure on."""
    images: ImagesConfig | None = None
    """Real images to train on; null: rollouts alone."""
    preference: PreferenceConfig = PreferenceConfig()
    """Wanted and unwanted control words, and how far they count."""
    align: AlignConfig = AlignConfig()
    """Which noise levels are trained."""
    rollout: RolloutConfig = RolloutConfig()
    """How clean latents are drawn to train on."""
    train: TrainConfig = TrainConfig()
    """The updates: how many, of what size, by which optimizer, in how much memory."""
    monitor: MonitorConfig = MonitorConfig()
    """What is measured in training: it chooses the best checkpoint, and ends a collapse."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured in the end, and what it takes to become champion."""
    registry: RegistryConfig = RegistryConfig()
    """Where the result is registered."""
    resources: ResourcesConfig = ResourcesConfig()
    """What the steps ask of a cluster."""
    storage: StorageConfig = StorageConfig()
    """Where what the steps write is copied to."""
    notify: NotifyConfig = NotifyConfig()
    """Who is told how it ended."""

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
    def trained_metrics(self) -> tuple[str, ...]:
        """Metrics of the rewards that are trained on, and of held-out scores of the same source at any revision."""
        ends = ("", *(f"/{name}" for name in self.rewards))
        trained = {_without_revision(reward.source) for reward in self.all_rewards.values()}
        same = [name for name, score in self.evaluation.scores.items() if _without_revision(score.source) in trained]
        return (
            *(f"{kind}{end}" for end in ends for kind in ("reward", "relative")),
            *(f"{kind}{name}" for name in same for kind in ("", "relative/")),
        )

    @property
    def trained_judges(self) -> dict[str, str]:
        """Settings that leave a choice to a held-out score of a checkpoint that is trained on, and its metric."""
        chosen = {"monitor.watch": self.monitor.watch, "evaluation.wanted": self.evaluation.wanted}
        scores = {each for name in self.evaluation.scores for each in (name, f"relative/{name}")}
        return {key: metric for key, metric in chosen.items() if metric in scores & {*self.trained_metrics}}

    @property
    def unjudged_gates(self) -> tuple[str, ...]:
        """Gates that name nothing but trained metrics, which also rise where a reward is cheated, and mere meters.

        A meter shows damage, and nothing of what a picture should be unless it is what the run means to raise.
        """
        settings = self.evaluation
        blind = {*self.trained_metrics, *({*meters(settings.grid_periods), *OF_A_SET} - {settings.wanted})}
        gates = {"evaluation.gate": settings.gate, "evaluation.champion_gate": settings.against_champion}
        named = {key: {bound.metric for bound in bounds} for key, bounds in gates.items()}
        return tuple(key for key, metrics in named.items() if metrics and metrics <= blind)

    @property
    def watched_scores(self) -> dict[str, ScoreConfig]:
        """The held-out scores that the monitor names: only those are loaded beside a model in training."""
        named = (self.monitor.watch, *(bound.metric for bound in self.monitor.bounds))
        watched = {name.removeprefix("relative/") for name in named}
        return {name: score for name, score in self.evaluation.scores.items() if name in watched}

    @property
    def num_injections(self) -> int:
        """Steps with gradient for each rollout, whose losses are averaged."""
        return self.method.num_injections(self.align)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where all weights lie, of held-out scores too."""
        rewards = (reward.source for reward in self.all_rewards.values())
        return self.model.source, *rewards, *self.evaluation.score_sources

    @property
    def inputs(self) -> tuple[str, ...]:
        """Where everything lies that a run reads: weights, prompts, words, images."""
        others = self.preference.words_file, self.images.source if self.images else None
        return *self.sources, self.prompts.train, self.prompts.held_out, *filter(None, others)

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
        if isinstance(monitor, MonitorConfig):
            monitor = monitor.model_dump(exclude_unset=True)
        if not isinstance(monitor, dict) or "watch" in monitor:
            return data
        try:
            method = TypeAdapter[SrpoMethod | PlainMethod](Method).validate_python(data.get("method", "srpo"))
        except ValidationError:
            return data  # said where it stands
        return {**data, "monitor": {**monitor, "watch": method.trains_on}}

    @model_validator(mode="before")
    @classmethod
    def versions_are_named_after_the_run(cls, data: Any) -> Any:
        """The name of the registered model, where the run does not say."""
        registry, name = (data.get("registry", {}), data.get("name")) if isinstance(data, dict) else (None, None)
        if isinstance(registry, RegistryConfig):
            registry = registry.model_dump(exclude_unset=True)
        if not isinstance(registry, dict) or not isinstance(name, str) or not re.match(NAME, name):
            return data  # what is wrong is said where it stands
        return {**data, "registry": {"model_name": name, **registry}}

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
        if self.preference.content_anchor and "denoise" not in self.align.branches:
            warnings.warn(
                "preference.content_anchor acts in the denoise branch, which align.branches leaves out", stacklevel=2
            )
        word = self.method.word if isinstance(self.method, PlainMethod) else None
        if word and self.monitor.watch == "relative" and word not in self.preference.positive:
            warnings.warn(
                f"method.word {word!r} is not among preference.positive ({', '.join(self.preference.positive)}), so "
                "relative, which the monitor watches, says nothing of it; name it there, or set monitor.watch",
                stacklevel=2,
            )
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
        return self

    @model_validator(mode="after")
    def pictures_stay_in_sight(self) -> Self:
        """A reward has to see what it judges."""
        most = min(self.model.height, self.model.width) // 2
        if self.train.jitter > most:
            raise ValueError(
                f"train.jitter ({self.train.jitter}) may move half of a picture out of sight, at most {most} px at "
                f"{self.model.height} x {self.model.width}; half a patch of the reward's image tower is enough"
            )
        return self

    @model_validator(mode="after")
    def rollouts_are_rounded_once(self) -> Self:
        """Training in bf16 rolls out in bf16 anyway."""
        if self.rollout.precision == self.train.precision:
            raise ValueError(
                f"rollout.precision {self.rollout.precision!r} does nothing, because train.precision is the same; "
                "leave it out, or set train.precision to 'fp32'"
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
    def nodes_share_evenly(self) -> Self:
        """Every pod of the training starts as many processes."""
        nodes, processes = self.resources.train.nodes, self.train.num_processes
        if processes % nodes:
            raise ValueError(
                f"train.num_processes ({processes}) must be a multiple of resources.train.nodes ({nodes}); it "
                "counts the processes (GPUs) of all nodes together"
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


def _without_revision(source: str) -> str:
    """`hf://owner/name/file` of `hf://owner/name@revision/file`; any other source as it is."""
    return re.sub(r"^(hf://[^@]+)@[^@/]+", r"\1", source)
