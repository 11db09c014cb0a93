"""The report of an evaluation as strict models: `report.json`, and all that the HTML shows besides pictures.

The form is published as `docs/report.schema.json`, which `python -m tests.report.test_schema` writes.
"""

from typing import Any, Literal

from pydantic import Field

from srpo.monitor import Limit
from srpo.strict import Strict

REPORT_VERSION: Literal[2] = 2

BASE, CANDIDATE, CHAMPION = "base", "candidate", "champion"
"""Labels of the models in the report of a run."""

Verdict = Literal["promote", "keep", "collapsed"]
Kept = Literal["worst", "best", "sample"]
"""Why pictures are kept: the largest losses, the largest gains, or by their place alone."""


Content = tuple[str, str]
"""sha256 of the transformer that draws, and of the folder that it draws with; the latter is empty where not known."""


def same_content(one: Content, other: Content) -> bool:
    """Whether two models have the same files, as far as both are known."""
    return one[0] == other[0] and (one[1] == other[1] or not (one[1] and other[1]))


class Level(Strict):
    """One metric of one model over prompts (each the mean of its seeds)."""

    value: float
    lower: float
    """Lower end of the bootstrap interval."""
    upper: float
    """Upper end."""


class Subject(Strict):
    """A model that was evaluated."""

    label: str
    """What the report calls it: `base`, `candidate`, `champion`, or the name that it was asked for by."""
    reference: str
    """Where it comes from: a source, a run, or `models:/name/version`."""
    transformer_sha256: str
    base_sha256: str = ""
    """Of the folder that the transformer draws with: VAE, text encoders, scheduler."""
    metrics: dict[str, Level] = Field(default_factory=dict)

    @property
    def content(self) -> Content:
        """What it is known by."""
        return self.transformer_sha256, self.base_sha256


class Comparison(Strict):
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
    detectable: float | None = None
    """Smallest true change that this many prompts would show in four of five evaluations, at the gate's level; null
    where no prompt differs, because nothing tells then."""
    unseen: float | None = None
    """Where no prompt differs from another, the share of all prompts that may nonetheless: of a larger one these would
    hold a prompt, at the level of one end of the interval; null where prompts differ."""


class Contrast(Strict):
    """One model against another, on the same prompts and noise."""

    reference: str
    """Label of the model that is compared with."""
    candidate: str
    """Label of the model that is judged."""
    metrics: dict[str, Comparison]
    categories: dict[str, dict[str, Comparison]] = Field(default_factory=dict)
    """Category of prompts -> metric -> the same over its prompts alone; only categories with enough of them."""


class Undrawn(Strict):
    """A champion that no picture of the report is of, so that nothing was compared with it."""

    reference: str
    """`models:/name/version`."""
    problem: str
    """Why it could not be drawn, or need not be."""


class GateCheck(Strict):
    """One limit of the gate against the end of the interval that it concerns."""

    metric: str
    against: str
    """Label of the model that the candidate is compared with."""
    limit: Limit
    threshold: float
    """What the config demands."""
    value: float | None
    """Lower end of the interval for a smallest, upper end for a largest value allowed, at the level of the gate; null
    where there is no ratio."""
    held: bool

    @property
    def demand(self) -> str:
        """What the limit demands of the value, in words; one that was reached and not kept had to be exceeded."""
        if self.limit.startswith("max"):
            return "at most"
        return "more than" if not self.held and self.value == self.threshold else "at least"


class ImageSet(Strict):
    """The same prompt and noise, drawn by every model."""

    prompt_index: int
    prompt: str
    category: str = ""
    """What the prompt is about; empty where its file does not say."""
    seed: int
    """Seed of the noise; with the prompt it is the key by which images are matched."""
    scores: dict[str, dict[str, float]]
    """Label of the model -> metric -> score of its image."""
    kept: tuple[Kept, ...] = ()
    """Why the pictures are kept beside the report; empty where they are not."""


class Curves(Strict):
    """What training wrote down; empty, with 0 updates, where models are evaluated that no run of this report made."""

    updates: list[dict[str, float]] = Field(default_factory=list)
    """One entry per update: its number (`update`) and metrics."""
    held_out: list[dict[str, Any]] = Field(default_factory=list)
    """One entry per measurement on held-out prompts; `violations` lists the bounds that it broke, and what was no
    finite number is null. Where training started from another model than the base there are two of update 0, and `of`
    is `base` in the first of them."""
    best_update: int = 0
    num_updates: int = 0
    seconds: float = 0.0
    gpu_hours: float = 0.0
    """Hours of all training processes, loading and measurements included."""
    planned_gpu_hours: float | None = None
    """Predicted for updates and measurements on GPUs of the kind `resources.gpu`; None where it names none."""
    planned_evaluation_gpu_hours: float | None = None
    """Predicted for the evaluation of two models, likewise."""
    stopped: str | None = None
    """Why the monitor or the budget ended training before its last update, if it did."""


class Provenance(Strict):
    """What the numbers were made from, and with."""

    code: dict[str, str]
    """Version and, in a git checkout, commit."""
    packages: dict[str, str]
    """Versions of Python and of the packages that decide the numbers."""
    device: str
    num_processes: int = 1
    """Processes that drew and scored."""
    hashes: dict[str, str]
    """sha256 of weights, prompts and config."""
    sources: dict[str, str]
    """Where they came from."""
    licences: dict[str, str] = Field(default_factory=dict)
    """What the sources of weights say of their terms; empty where they say nothing."""
    config: dict[str, Any]
    """The whole config of the run."""


class Preference(Strict):
    """What people said to one question of a blind study."""

    question: str
    rate: float
    """Share of the votes for the judged model, ties counting half."""
    lower: float
    upper: float
    for_reference: int
    ties: int
    for_candidate: int
    """Votes."""


class Ballot(Strict):
    """A file of votes, and what became of it."""

    file: str
    voter: str
    """Random name that the page gave the voter; empty where the file could not be read."""
    outcome: Literal["complete", "partial", "duplicate", "rejected"]
    num_votes: int
    """Votes in the file."""
    note: str
    """What is wrong with it, or what was taken from elsewhere; empty if there is nothing to say."""


class Study(Strict):
    """A blind comparison of two models by people."""

    study: str = ""
    """Random name of the page that asked; empty in a report of earlier versions."""
    reference: str
    """Label of the model that is compared with."""
    candidate: str
    """Label of the model that is judged."""
    confidence: float
    num_pairs: int
    """Pairs with a vote."""
    num_voters: int
    preferences: list[Preference]
    ballots: list[Ballot]

    @property
    def voters(self) -> set[str]:
        """Random names of those whose votes were counted."""
        return {ballot.voter for ballot in self.ballots if ballot.outcome != "rejected"}


class Published(Strict):
    """What others published for the prompts that the evaluation drew."""

    citation: str
    num_prompts: int
    """Prompts of the whole list."""
    figures: dict[str, dict[str, float]]
    """Model -> metric of this report -> mean."""


class Report(Strict):
    """Everything an evaluation found. The same inputs give the same report, but for `created` and seconds."""

    schema_version: Literal[2] = REPORT_VERSION
    name: str
    """Name of the run's experiment."""
    created: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall time of the evaluation; 0 where nothing was drawn or scored, but reports were compared."""
    verdict: Verdict | None
    """Null where no gate is asked: any models were compared, or one was measured."""
    reason: str
    """The verdict in one sentence; without one, what was found."""
    damage: list[str]
    """Scores that are not finite, bounds of the monitor that are broken beyond doubt: the model has collapsed."""
    wanted: str
    """The metric that the run was meant to raise."""
    confidence: float
    """Level of the intervals of levels and contrasts."""
    gate_confidence: float | None = None
    """Level of the intervals that the gate looks at: corrected for the number of metrics that it names."""
    trained_metrics: list[str] = Field(default_factory=list)
    """Metrics of the rewards that the model was trained with: they show what training did, and are no proof alone."""
    champion: str | None = None
    """The champion that the judged model was compared with, as `models:/name/version`; null if with none."""
    undrawn: Undrawn | None = None
    """The champion that it was not compared with; null if there was none, or it was."""
    num_prompts: int
    seeds_per_prompt: int
    models: list[Subject]
    """The one that the others are compared with comes first, the judged one second."""
    contrasts: list[Contrast]
    """In a run the judged model against each of the others, otherwise each model against the first; the first of them
    is the second model against the first. Empty for one model."""
    checks: list[GateCheck]
    curves: Curves
    images: list[ImageSet]
    provenance: Provenance
    differences: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Setting (or `device`, `code.version`, `packages.torch`, ...) -> label -> value, where the runs that made the
    models differ; empty for a single run."""
    published: Published | None = None
    """Figures of others on these prompts, if `evaluation.benchmark` says that they are a published list."""
    study: Study | None = None
    """What people said, if they were asked."""

    @property
    def metrics(self) -> dict[str, Comparison]:
        """The judged model against the first; empty for one model."""
        return self.contrasts[0].metrics if self.contrasts else {}

    @property
    def gpu_hours(self) -> float:
        """Hours of all processes of the evaluation, each taken to hold one GPU."""
        return self.seconds * self.provenance.num_processes / 3600

    @property
    def passed(self) -> bool:
        """Whether the version may become champion."""
        return self.verdict == "promote"
