"""The report of an evaluation as strict models: `report.json`, and all that the HTML shows besides pictures."""

from typing import Any, Literal

from pydantic import Field

from srpo.config import Settings
from srpo.monitor import Limit

REPORT_VERSION: Literal[2] = 2

BASE, CANDIDATE, CHAMPION = "base", "candidate", "champion"
"""Labels of the models in the report of a run."""

Verdict = Literal["promote", "keep", "collapsed"]


class Subject(Settings):
    """A model that was evaluated."""

    label: str
    """What the report calls it: `base`, `candidate`, `champion`, or the name that it was asked for by."""
    reference: str
    """Where it comes from: a source, a run, or `models:/name/version`."""
    transformer_sha256: str


class Comparison(Settings):
    """One metric of two models over prompts (each the mean of its seeds)."""

    reference: float
    candidate: float
    change: float
    """`candidate - reference`."""
    lower: float
    """Lower end of the change's bootstrap interval."""
    upper: float
    """Upper end."""
    win_rate: float | None
    """Share of the prompts whose value rose, ties counting half; null for a metric of the whole set."""
    ratio: float | None
    """`candidate / reference`; null, like its interval, where the reference is not positive beyond doubt."""
    ratio_lower: float | None
    ratio_upper: float | None


class Contrast(Settings):
    """One model against another, on the same prompts and noise."""

    reference: str
    """Label of the model that is compared with."""
    candidate: str
    """Label of the model that is judged."""
    metrics: dict[str, Comparison]


class GateCheck(Settings):
    """One limit of the gate against the end of the interval that it concerns."""

    metric: str
    against: str
    """Label of the model that the candidate is compared with."""
    limit: Limit
    threshold: float
    """What the config demands."""
    value: float | None
    """Lower end of the interval for a smallest, upper end for a largest value allowed; null where there is no ratio."""
    held: bool


class ImageSet(Settings):
    """The same prompt and noise, drawn by every model."""

    prompt_index: int
    prompt: str
    seed: int
    """Seed of the noise; with the prompt it is the key by which images are matched."""
    scores: dict[str, dict[str, float]]
    """Label of the model -> metric -> score of its image."""


class Curves(Settings):
    """What training wrote down."""

    updates: list[dict[str, float]]
    """One entry per update: its number (`update`) and metrics."""
    held_out: list[dict[str, Any]]
    """One entry per measurement on held-out prompts; `violations` lists the bounds that it broke."""
    best_update: int
    num_updates: int
    seconds: float
    stopped: str | None = None
    """Why the monitor ended training before its last update, if it did."""


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

    schema_version: Literal[2] = REPORT_VERSION
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
    models: list[Subject]
    """The one that the others are compared with comes first, the judged one second."""
    contrasts: list[Contrast]
    """The judged model against each of the others; the first is against the first model."""
    champion: str | None = None
    """The champion that the judged model was compared with, as `models:/name/version`; null if with none."""
    checks: list[GateCheck]
    curves: Curves
    images: list[ImageSet]
    provenance: Provenance

    @property
    def metrics(self) -> dict[str, Comparison]:
        """The judged model against the first."""
        return self.contrasts[0].metrics

    @property
    def passed(self) -> bool:
        """Whether the version may become champion."""
        return self.verdict == "promote"
