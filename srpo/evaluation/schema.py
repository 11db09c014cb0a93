"""The report of an evaluation as strict models: `report.json`, and all that the HTML shows besides pictures."""

from typing import Any, Literal

from pydantic import Field

from srpo.config import Settings
from srpo.monitor import Limit

REPORT_VERSION: Literal[1] = 1

Verdict = Literal["promote", "keep", "collapsed"]


class Comparison(Settings):
    """One metric, base against trained, over prompts (each the mean of its seeds)."""

    base: float
    trained: float
    change: float
    """`trained - base`."""
    lower: float
    """Lower end of the change's bootstrap interval."""
    upper: float
    """Upper end."""
    win_rate: float | None
    """Share of the prompts whose value rose, ties counting half; null for a metric of the whole set."""
    ratio: float | None
    """`trained / base`; null, like its interval, where the base is not positive beyond doubt."""
    ratio_lower: float | None
    ratio_upper: float | None


class GateCheck(Settings):
    """One limit of the gate against the end of the interval that it concerns."""

    metric: str
    limit: Limit
    threshold: float
    """What the config demands."""
    value: float | None
    """Lower end of the interval for a smallest, upper end for a largest value allowed; null where there is no ratio."""
    held: bool


class ImagePair(Settings):
    """The same prompt and noise, drawn by both models."""

    prompt_index: int
    prompt: str
    seed: int
    """Seed of the noise; with the prompt it is the key by which pairs are matched."""
    base: dict[str, float]
    """Metric -> score of the base model's image."""
    trained: dict[str, float]
    """Metric -> score of the trained model's image."""


class Curves(Settings):
    """What training wrote down."""

    updates: list[dict[str, float]]
    """One entry per update: its number (`update`) and metrics."""
    held_out: list[dict[str, Any]]
    """One entry per measurement on held-out prompts; `violations` lists the bounds that it broke."""
    best_update: int
    num_updates: int
    seconds: float


class Provenance(Settings):
    """What the numbers were made from, and with."""

    code: dict[str, str]
    """Version and, in a git checkout, commit."""
    packages: dict[str, str]
    """Versions of Python and of the packages that decide the numbers."""
    device: str
    hashes: dict[str, str]
    """sha256 of weights, prompts and config."""
    sources: dict[str, str]
    """Where they came from."""
    licences: dict[str, str] = Field(default_factory=dict)
    """What the sources of weights say of their terms; empty where they say nothing."""
    config: dict[str, Any]
    """The whole config of the run."""


class Report(Settings):
    """Everything an evaluation found. The same inputs give the same report, but for `created` and seconds."""

    schema_version: Literal[1] = REPORT_VERSION
    name: str
    """Name of the run's experiment."""
    created: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall time of the evaluation."""
    verdict: Verdict
    reason: str
    """The verdict in one sentence."""
    damage: list[str]
    """Bounds of the monitor that the estimates break: the model has collapsed."""
    wanted: str
    """The metric that the run was meant to raise."""
    confidence: float
    """Level of all intervals."""
    num_prompts: int
    seeds_per_prompt: int
    metrics: dict[str, Comparison]
    checks: list[GateCheck]
    curves: Curves
    images: list[ImagePair]
    provenance: Provenance

    @property
    def passed(self) -> bool:
        """Whether the version may become champion."""
        return self.verdict == "promote"
