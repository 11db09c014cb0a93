"""What has to be as it was for a run to go on from its checkpoints: settings, and the content of what they name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srpo.artifacts import TrainJob
from srpo.config import RunConfig
from srpo.config.base import flatten
from srpo.errors import ConfigError
from srpo.prompts import texts_hash

CONTENTS = {
    "words": "preference.words_file",
    "images": "images.source",
    "train_prompts": "prompts.train",
    "held_out_prompts": "prompts.held_out",
}
"""What a checkpoint knows the hash of -> the setting that names the files; weights are named as their snapshots."""
MEASURED: dict[str, Any] = {
    "monitor": {"num_images", "share", "strip_images", "bounds", "watch"},
    "evaluation": {"num_steps", "guidance", "world", "grid_periods"},
}
"""Settings that held-out measurements depend on, which are compared with the base's and with each other."""
HOW: dict[str, set[str]] = {
    "train": {"gradient_checkpointing", "vae_checkpointing", "compile", "attention", "deterministic"},
    "align": {"together"},
}
"""Settings by section that decide in what memory and time an update is made; its numbers are equal to rounding."""


def contents_of(job: TrainJob, words: str | None) -> dict[str, str | None]:
    """Hashes of all that takes part in training and its measurements; `words`: that of the file of control words."""
    scores = {name: job.weights.scores[name] for name in job.config.watched_scores if name in job.weights.scores}
    used = job.weights.model_copy(update={"scores": scores})
    return {
        "words": words,
        "images": job.prompts.images.sha256 if job.prompts.images else None,
        "train_prompts": texts_hash(job.prompts.train),
        "held_out_prompts": texts_hash(job.prompts.held_out),
        **{f"{name}_weights": files.sha256 for name, files in used.snapshots.items()},
    }


def refuse_other_contents(folder: Path, now: Mapping[str, str | None], then: Mapping[str, Any]) -> None:
    """ConfigError if a hash differs from the checkpoint's in `folder`; what that does not know may be anything."""
    for name, content in now.items():
        if then.get(name, content) != content:
            what = CONTENTS.get(name, f"the {name.replace('_', ' ')}")
            raise ConfigError(f"{folder} was made with another content of {what}; bring it back, or start a new run")


def refuse_other_settings(folder: Path, now: RunConfig, then: RunConfig) -> None:
    """A run goes on only as it began, but for how its updates are made and what their images are spread over.

    More updates are fine where the learning rate does not depend on them.
    """
    free = {"keep_last"} | HOW["train"] | ({"num_updates"} if now.train.schedule.startswith("constant") else set())
    reused = now.rollout.reuse > 1  # those pictures are each process's own
    if now.train.images_per_update == then.train.images_per_update and not reused:
        free |= {"num_processes", "accumulation", "sharding", "gather", "reduce"}
        free |= set() if now.images else {"batch_size"}  # micro-batches of real images have one shape each
    before, after = (flatten(_fixed(config, free)) for config in (then, now))
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if changed:
        raise ConfigError(
            f"{folder} was made with other settings in {', '.join(changed)}; resume with the same, or start a new run"
        )


def _fixed(config: RunConfig, free: set[str]) -> dict[str, Any]:
    """What updates and measurements depend on; `free`: settings of `train` that may change."""
    sections = {"seed", "model", "reward", "rewards", "method", "prompts", "images"}
    sections |= {"preference", "align", "rollout", "train"}
    free_too = {"train": free, "align": HOW["align"]}
    fixed = config.model_dump(include=dict.fromkeys(sections, True) | MEASURED, exclude=free_too)
    fixed["evaluation"]["scores"] = config.watched_scores
    return fixed
