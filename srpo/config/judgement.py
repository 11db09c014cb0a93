"""What is measured, and what it takes to pass."""

import warnings
from typing import Literal, Self

from pydantic import Field, model_validator

from srpo.config.base import Settings


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
    share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the held-out prompts that only the monitor sees; the verdict rests on the others."""
    strip_images: int = Field(default=8, gt=0)
    """How many of them are kept as pictures."""
    bounds: tuple[Bound, ...] = DAMAGE_BOUNDS
    """A checkpoint outside any of these is damaged and cannot be the best, however high its relative reward."""


TRAINED_METRICS = ("reward", "relative")
"""Metrics of the reward that a model is trained with."""


class EvaluationConfig(Settings):
    """Base, trained and champion on held-out prompts with the same seeds."""

    num_steps: int = Field(default=50, gt=0)
    """Sampling steps; the schedule is the model folder's own."""
    guidance: float | None = Field(default=3.5, ge=0)
    """Guidance of the samples; null for none."""
    num_prompts: int = Field(default=200, gt=1)
    """Held-out prompts used, from the first on, without the monitor's; fewer if the file has fewer."""
    seeds_per_prompt: int = Field(default=4, gt=0)
    """Images per prompt; they are averaged within the prompt, which is the unit that is resampled."""
    batch_size: int = Field(default=4, gt=0)
    """Images per forward pass."""
    num_processes: int | None = Field(default=None, gt=0)
    """Processes that draw and score; null: one per GPU, or one on the CPU."""
    world: Literal["shapes"] | None = None
    """An embedded world whose captions let content and style be measured exactly."""
    wanted: str = "relative"
    """The metric the summary shows first: what this run is meant to raise."""
    num_resamples: int = Field(default=5000, ge=100)
    """Bootstrap resamples."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of every interval."""
    gate: tuple[Bound, ...] = (Bound(metric="relative", min_change=0.0), *DAMAGE_BOUNDS)
    """What a version must show against the base to become champion: the interval's bound, not the mean, must keep
    every limit."""
    champion_gate: tuple[Bound, ...] | None = None
    """The same against the champion, if there is one. Null: the wanted metric must be higher beyond doubt."""
    correction: Literal["bonferroni", "none"] = "bonferroni"
    """How the gate's intervals allow for several metrics: `bonferroni` shares the doubt out over all that the gates
    name, so that all of their statements hold together at the confidence; `none` gives each the whole of it."""
    num_report_images: int = Field(default=24, gt=0)
    """Pairs of images shown in the report."""

    @property
    def against_champion(self) -> tuple[Bound, ...]:
        """The gate against the champion."""
        return (Bound(metric=self.wanted, min_change=0.0),) if self.champion_gate is None else self.champion_gate

    @property
    def gate_confidence(self) -> float:
        """Level of the intervals that the gates look at; there is one interval per metric and model compared with."""
        named = [{bound.metric for bound in bounds} for bounds in (self.gate, self.against_champion)]
        count = sum(map(len, named)) if self.correction == "bonferroni" else 1
        return 1 - (1 - self.confidence) / max(1, count)

    @model_validator(mode="after")
    def something_else_decides(self) -> Self:
        """The trained reward rises in a model that cheats it as well."""
        if self.gate and all(bound.metric in TRAINED_METRICS for bound in self.gate):
            warnings.warn(
                "evaluation.gate names nothing but the trained reward's own metrics "
                f"({', '.join(TRAINED_METRICS)}), which also rise where it is cheated; "
                "add bounds on what it is not trained on",
                stacklevel=2,
            )
        return self


class RegistryConfig(Settings):
    """Where versions are registered."""

    model_name: str = Field(default="srpo", pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the registered model."""
