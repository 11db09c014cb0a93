"""What a run would do, and whether it can: everything that can be known before any expensive work."""

import os
import shutil
import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path

from srpo.config import RunConfig, Settings
from srpo.control_words import check_prompts, control_words
from srpo.errors import ConfigError
from srpo.evaluation.gate import check_metrics
from srpo.evaluation.scores import check_captions
from srpo.hub import resolve
from srpo.models import check_guidance, check_model
from srpo.models.layout import folder_shapes, read_json
from srpo.prompts import read_both
from srpo.rewards import check_reward

STEPS = {
    "download": "find model and reward, hash every file",
    "embed": "text embeddings of all prompts",
    "train": "the updates, with checkpoints and held-out scores",
    "evaluate": "base against trained on held-out prompts: report and verdict",
    "register": "a version in the model registry; champion if it passed",
}
BYTES_PER_VALUE = 4
COPIES_PER_CHECKPOINT = 3  # fp32 master weights and AdamW's two moments


class Check(Settings):
    """One thing that was looked at and found good."""

    subject: str
    finding: str


class Plan(Settings):
    """A run before it starts."""

    config: RunConfig
    steps: tuple[str, ...]
    """Names of the steps that will run, in order."""
    checks: tuple[Check, ...]
    disk_needed: int
    """Bytes that checkpoints, the aligned transformer and embeddings will take at most."""
    disk_free: int
    """Bytes free where they are written."""


def make_plan(config: RunConfig, output_dir: Path, steps: tuple[str, ...] = tuple(STEPS), written: int = 0) -> Plan:
    """Check the run; ConfigError holds one line for each thing that is wrong.

    `written`: bytes that an earlier attempt has left, which going on with it need not write again.
    """
    checks: list[Check] = []
    problems: list[str] = []

    def look(subject: str, check: Callable[[], str]) -> None:
        try:
            checks.append(Check(subject=subject, finding=check()))
        except ConfigError as error:
            if str(error) not in problems:  # a folder that is not there spoils several checks
                problems.append(str(error))

    look("model", lambda: _model(config))
    look("guidance", lambda: _guidance(config))
    look("reward", lambda: _reward(config))
    look("prompts", lambda: _prompts(config))
    look("words", lambda: _words(config))
    look("metrics", lambda: _metrics(config))
    look("output", lambda: _writable(output_dir))
    if problems:
        raise ConfigError("\n".join(problems))
    needed = max(0, disk_needed(config, steps) - written)
    free = shutil.disk_usage(output_dir).free
    if needed > free:
        raise ConfigError(
            f"{output_dir} has {gibibytes(free)} free, but checkpoints and embeddings may take {gibibytes(needed)}; "
            "free some space, run in another folder, or lower train.keep_last"
        )
    checks.append(Check(subject="disk", finding=f"at most {gibibytes(needed)} needed, {gibibytes(free)} free"))
    return Plan(config=config, steps=steps, checks=tuple(checks), disk_needed=needed, disk_free=free)


def disk_needed(config: RunConfig, steps: tuple[str, ...] = tuple(STEPS)) -> int:
    """Bytes these steps write at most: embeddings, checkpoints (the last K, the best, one in progress), an export."""
    folder = resolve(config.model.source, "model") / "transformer"
    values = 0
    if "embed" in steps:
        tokens = sum(len(prompts) for prompts in read_both(config.prompts)) * config.model.max_sequence_length
        values += tokens * read_json(folder / "config.json").get("joint_attention_dim", 0)
    if "train" in steps:
        checkpoints = config.train.keep_last + 2
        weights = sum(prod(shape) for shape in folder_shapes(folder).values())
        values += weights * (COPIES_PER_CHECKPOINT * checkpoints + 1)
    return BYTES_PER_VALUE * values


def gibibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 2**30:.2f} GiB"


def _model(config: RunConfig) -> str:
    folder = resolve(config.model.source, "model")
    check_model(config.model, folder)
    return (
        f"{config.model.source}: a whole {config.model.family} folder; {config.model.height}x{config.model.width} fits"
    )


def _guidance(config: RunConfig) -> str:
    values = {
        "align.guidance": config.align.guidance,
        "rollout.guidance": config.rollout.guidance,
        "evaluation.guidance": config.evaluation.guidance,
    }
    check_guidance(config.model, resolve(config.model.source, "model"), values)
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _reward(config: RunConfig) -> str:
    check_reward(config.reward, resolve(config.reward.source, "reward"))
    return f"{config.reward.source}: a whole {config.reward.family} checkpoint"


def _prompts(config: RunConfig) -> str:
    train, held_out = read_both(config.prompts)
    if config.evaluation.world:
        check_captions(config.evaluation.world, held_out)
    return f"{len(train)} to train on, {len(held_out)} held out"


def _words(config: RunConfig) -> str:
    words = control_words(config.preference)
    if words.digest:
        check_prompts(words, read_both(config.prompts)[0])
    finding = f"{', '.join(words.positive)} against {', '.join(words.negative)}"
    return finding + (f"; {len(words.prompts)} prompts and {len(words.ranges)} ranges differ" if words.digest else "")


def _metrics(config: RunConfig) -> str:
    check_metrics(config)
    return "everything that monitor.bounds and evaluation.gate name is measured"


def _writable(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"the output folder {folder} cannot be written ({error.strerror}); run in a folder of your own"
        ) from None
    return f"{folder} can be written"
