"""A model that takes part in an evaluation: files known by their content, and what decides its pixels."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import srpo
from srpo.artifacts import Snapshot, Weights
from srpo.config import ModelConfig, RewardConfig, RunConfig, ScoreConfig
from srpo.hub import digests
from srpo.report.schema import Level, Subject
from srpo.rewards import hps
from srpo.shapes.measure import ORACLE_PATH
from srpo.strict import Strict

PACKAGES = (
    *("torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "numpy", "scipy"),
    *("peft", "bitsandbytes", "torchao"),  # what adds an adapter, and keeps weights in few bits
)
"""What decides the numbers besides this package."""
OF_THE_DESIGN = {"num_prompts", "seeds_per_prompt", "batch_size", "num_processes", "num_report_images"}
OF_THE_VERDICT = {"wanted", "num_resamples", "confidence", "gate", "champion_gate", "correction", "benchmark"}
"""Settings of the evaluation that change neither an image nor its scores."""


class Contender(Strict):
    """One model."""

    label: str
    """What the report calls it."""
    reference: str
    """Where it comes from."""
    model: ModelConfig
    base: Snapshot
    """Diffusers folder: VAE, text encoders, scheduler, and a transformer."""
    transformer: Snapshot | None = None
    """Drawn with instead of the base's: a transformer's folder or file, or an adapter."""

    @property
    def transformer_sha256(self) -> str:
        """Of the transformer that draws."""
        return (self.transformer or self.base.part("transformer")).sha256

    def subject(self, metrics: dict[str, Level]) -> Subject:
        """What the report says of it."""
        return Subject(
            label=self.label,
            reference=self.reference,
            transformer_sha256=self.transformer_sha256,
            base_sha256=self.base.sha256,
            metrics=metrics,
        )

    def image_key(self, config: RunConfig, device: str) -> str:
        """A hash of everything that decides an image's pixels, besides its prompt and seed."""
        made = self.model.model_dump(include={"family", "height", "width", "max_sequence_length", "weights"})
        sampling = config.evaluation.model_dump(include={"num_steps", "guidance"})
        files = [self.transformer_sha256, self.base.sha256]
        return _hash([files, made, sampling, config.prompts.dtype, device, code_digest()])


def drawn_alike(model: ModelConfig, config: RunConfig) -> ModelConfig:
    """A model with the size and the length of text that the config draws all models of an evaluation with."""
    return model.model_copy(update=config.model.model_dump(include={"height", "width", "max_sequence_length"}))


def score_key(config: RunConfig, weights: Weights) -> str:
    """A hash of everything that decides an image's scores, besides its pixels and its prompt."""
    settings = config.evaluation.model_dump(mode="json", exclude=OF_THE_DESIGN | OF_THE_VERDICT)
    words = config.preference.model_dump(mode="json", include={"positive", "negative"})
    reads = {name: reward.model_dump(mode="json", exclude={"source"}) for name, reward in config.all_rewards.items()}
    judges = {name: files.sha256 for name, files in weights.snapshots.items() if name != "model"}
    oracle = digests.sha256(ORACLE_PATH) if config.evaluation.world else None
    return _hash([judges, list(_architectures(config, weights)), oracle, reads, words, settings, code_digest()])


def _architectures(config: RunConfig, weights: Weights) -> Iterator[str]:
    """Hashes of the files that say how a judge is built; they need not lie in its snapshot."""
    scores = config.evaluation.scores
    judges: list[tuple[RewardConfig | ScoreConfig, Snapshot]] = [
        (config.reward, weights.reward),
        *((reward, weights.rewards[name]) for name, reward in config.rewards.items()),
        *((scores[name], files.checkpoint) for name, files in weights.scores.items() if name in scores),
    ]
    for judge, files in judges:
        if judge.family == "hps":
            yield from map(digests.sha256, hps.architecture_files(files.path, judge.architecture))


def package_versions() -> dict[str, str]:
    """Versions of `PACKAGES`, of those that are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def code_digest() -> str:
    """Of this package's source and of the versions of what it computes with."""
    assert srpo.__file__, "srpo is a package with an __init__.py"
    root = Path(srpo.__file__).parent
    sources = [[str(path.relative_to(root)), path.read_text(encoding="utf-8")] for path in sorted(root.rglob("*.py"))]
    return _hash([sources, package_versions()])


def _hash(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
