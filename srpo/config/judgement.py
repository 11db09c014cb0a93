"""What is measured, and what it takes to pass."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from srpo.config.base import NAME, Settings
from srpo.sample_size import MIN_PROMPTS

ScoreName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]


class Bound(Settings):
    """What one metric may do relative to the base model: a change, or a ratio."""

    metric: str
    """Name of a metric, as the report has it: relative, reward, saturation, sharpness, clipped, spread, ..."""
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

    @model_validator(mode="after")
    def bounds_leave_room(self) -> Self:
        """A smallest value above the largest would never hold."""
        for kind in ("change", "ratio"):
            least, most = getattr(self, f"min_{kind}"), getattr(self, f"max_{kind}")
            if least is not None and most is not None and least > most:
                raise ValueError(
                    f"the bound on {self.metric!r} can never hold: min_{kind} {least:g} is above max_{kind} {most:g}; "
                    "lower the one or raise the other"
                )
        return self


DAMAGE_BOUNDS = (
    Bound(metric="saturation", min_ratio=0.5, max_ratio=1.5),
    Bound(metric="sharpness", min_ratio=0.5, max_ratio=2.0),
    Bound(metric="clipped", max_change=0.10),
    Bound(metric="spread", min_ratio=0.6),
)


class MonitorConfig(Settings):
    """Held-out scores and a fixed sample strip during training; they choose the best checkpoint, and end a collapse."""

    every: int = Field(default=5, gt=0)
    """Updates between measurements; a multiple of `train.save_every`, so that each measurement has its checkpoint."""
    num_images: int = Field(default=32, gt=1)
    """Held-out images measured each time (the same prompts and noise)."""
    share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the held-out prompts that only the monitor sees; the verdict rests on the others."""
    strip_images: int = Field(default=8, gt=0)
    """How many of them are kept as pictures."""
    bounds: tuple[Bound, ...] = DAMAGE_BOUNDS
    """A checkpoint outside any of these is damaged and cannot be the best, however high its watched metric."""
    watch: str = "relative"
    """The metric that ranks the sound checkpoints: the highest goes on to the evaluation. A run that leaves it out
    watches what its method trains on: `relative`, or `reward`."""
    stop_after_damaged: int | None = Field(default=2, gt=0)
    """Training stops when so many measurements in a row break a bound; null: it never stops for that."""
    patience: int | None = Field(default=None, gt=0)
    """Training stops when the watched metric has not exceeded its best for so many measurements; null: never."""


class ScoreConfig(Settings):
    """A published score that is only measured: nothing is trained towards it, so it cannot be gamed."""

    family: str
    """Key of `srpo.rewards.measured.SCORES`: `hps`, `pick_score`, `clip_score`, `image_reward`, `aesthetic`."""
    source: str
    """Where the checkpoint lies: a file, a folder, hf://owner/name[@revision][/file], s3://..., or `builtin:shapes`."""
    companion: str | None = None
    """What the checkpoint needs beside it, as a source: for `aesthetic` the SigLIP folder that its head reads, for
    `image_reward` BERT's vocab.txt."""
    architecture: str = "ViT-H-14"
    """For `hps`: an open_clip model name, or the path of an open_clip model JSON."""
    positive: tuple[str, ...] = Field(default=("Realistic photo",), min_length=1)
    """Control words of the score's own relative preference, `relative/<name>`: those that are wanted."""
    negative: tuple[str, ...] = Field(default=("CG Render",), min_length=1)
    """Control words that are not."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Everything that has to be here."""
        return (self.source,) if self.companion is None else (self.source, self.companion)


class EvaluationConfig(Settings):
    """Base, trained and champion on held-out prompts with the same seeds."""

    num_steps: int = Field(default=50, gt=0)
    """Sampling steps; the schedule is the model folder's own."""
    guidance: float | None = Field(default=3.5, ge=0)
    """Guidance of the samples; null for none."""
    num_prompts: int = Field(default=200, ge=MIN_PROMPTS)
    """Held-out prompts used, without the monitor's; fewer if the file has fewer. Of more they are evenly spaced in the
    order of their categories, or the first ones where there are none."""
    seeds_per_prompt: int = Field(default=4, gt=0)
    """Images per prompt; they are averaged within the prompt, which is the unit that is resampled."""
    batch_size: int = Field(default=4, gt=0)
    """Images per forward pass."""
    num_processes: int | None = Field(default=None, gt=0)
    """Processes that draw and score; null: one per GPU, or one on the CPU."""
    world: Literal["shapes"] | None = None
    """An embedded world whose captions let content and style be measured exactly."""
    grid_periods: tuple[int, ...] = ()
    """Periods in pixels at which a grid is looked for, as `grid/<period>`: those of the VAE and of the 2x2 patches, 8
    and 16 for FLUX and Qwen-Image. Images must be at least four periods long."""
    scores: dict[ScoreName, ScoreConfig] = Field(default_factory=dict)
    """Held-out scores by name; each becomes a metric, and `relative/<name>` another if it reads the prompt. During
    training only those are measured that `monitor.bounds` names."""
    diversity_by: str = "reward"
    """Whose image features say how unlike the images of one prompt are (`diversity`): `reward`, or one of `scores`."""
    benchmark: Literal["hpdv2"] | None = None
    """The published list that `prompts.held_out` is: the report then shows what was published for it beside what is
    measured. Nothing can tell that the prompts are those of the list but you; `hpdv2`: HPDv2's benchmark of 3,200."""
    wanted: str = "relative"
    """The metric the summary shows first: what this run is meant to raise."""
    num_resamples: int = Field(default=5000, ge=100)
    """Bootstrap resamples; more are drawn where fewer than 20 of so many would lie beyond an end of an interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of every interval."""
    gate: tuple[Bound, ...] = (Bound(metric="relative", min_change=0.0), *DAMAGE_BOUNDS)
    """What a version must show against the base to become champion: the interval's bound, not the mean, must keep
    every limit, and exceed a smallest change of the wanted metric."""
    champion_gate: tuple[Bound, ...] | None = None
    """The same against the champion, if there is one. Null: the wanted metric must be higher beyond doubt."""
    correction: Literal["bonferroni", "none"] = "bonferroni"
    """How the gate's intervals allow for several metrics: `bonferroni` shares the doubt out over all that the gates
    name, so that all of their statements hold together at the confidence; `none` gives each the whole of it."""
    num_report_images: int = Field(default=60, gt=0)
    """Prompts and seeds whose images are kept as thumbnails and shown in the report."""

    @model_validator(mode="after")
    def diversity_is_seen_by_a_judge(self) -> Self:
        """Only what an evaluation loads can look at its images."""
        if self.diversity_by not in ("reward", *self.scores):
            raise ValueError(
                f"diversity_by: no score named {self.diversity_by!r}; choose from {', '.join(('reward', *self.scores))}"
            )
        return self

    @property
    def score_sources(self) -> tuple[str, ...]:
        """Everything that the held-out scores are made from."""
        return tuple(source for score in self.scores.values() for source in score.sources)

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


class RegistryConfig(Settings):
    """Where versions are registered."""

    model_name: str = Field(default="srpo", pattern=NAME)
    """Name of the registered model, whose versions compete for one champion; the run's `name` if left out."""
    lease: str | None = None
    """Where writers agree whose turn it is to move the champion: null for what a local MLflow store, or one in
    PostgreSQL, offers itself. For an MLflow server: s3://bucket/prefix or postgresql://user@host/database, the same for
    all who write to it; a folder (an absolute path) will do while all of them run on one machine."""

    @field_validator("lease")
    @classmethod
    def lease_is_a_place(cls, lease: str | None) -> str | None:
        """Something that a lease can be kept in, the same from every folder, without a secret in the run file."""
        if lease is None:
            return None
        scheme, separator, address = lease.partition("://")
        if separator and not re.fullmatch(r"s3|file|postgresql(\+\w+)?", scheme):
            raise ValueError(f"no lease can be kept at {scheme}://; give s3://, postgresql:// or an absolute path")
        if not separator and not lease.startswith("/"):
            raise ValueError(f"{lease!r} depends on the folder a run starts in; give an absolute path")
        if scheme.startswith("postgresql") and (":" in address.rpartition("@")[0] or "password=" in address):
            raise ValueError("the address holds a password, and run files are logged; set PGPASSWORD or ~/.pgpass")
        return lease
