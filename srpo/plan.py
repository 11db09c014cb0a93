"""What a run would do, and whether it can: everything that can be known before any expensive work."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path, PurePosixPath

from srpo import models, rewards
from srpo.config import RunConfig, Settings
from srpo.errors import ConfigError
from srpo.evaluation.gate import check_metrics
from srpo.hub import Part, fetched, is_remote, missing, resolve, survey
from srpo.hub.place import store_dir
from srpo.models.layout import folder_shapes
from srpo.prompts import read_both

STEPS = {
    "download": "fetch or find model and reward, hash every file",
    "embed": "text embeddings of all prompts",
    "train": "the updates, with checkpoints and held-out scores",
    "evaluate": "base against trained on held-out prompts: report and verdict",
    "register": "a version in the model registry; champion if it passed",
}
BYTES_PER_VALUE = 4
COPIES_PER_CHECKPOINT = 3  # fp32 master weights and AdamW's two moments
BYTES_STORED = 2  # published transformers are bf16 or wider
T5_WIDTH = 4096  # of T5-XXL, FLUX's long text encoder


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
    """Bytes that downloads, checkpoints, the aligned transformer and embeddings will take at most."""
    disk_free: int
    """Bytes free where they are written."""


def make_plan(config: RunConfig, output_dir: Path, steps: tuple[str, ...] = tuple(STEPS)) -> Plan:
    """Check the run; ConfigError holds one line for each thing that is wrong."""
    checks: list[Check] = []
    problems: list[str] = []

    def look(subject: str, check: Callable[[], str]) -> None:
        try:
            checks.append(Check(subject=subject, finding=check()))
        except ConfigError as error:
            problems.append(str(error))

    look("model", lambda: _model(config))
    look("reward", lambda: _reward(config))
    look("prompts", lambda: _prompts(config))
    look("metrics", lambda: _metrics(config))
    look("output", lambda: _writable(output_dir))
    if problems:
        raise ConfigError("\n".join(problems))
    needed = disk_needed(config) + _space_for_downloads(config, output_dir)
    free = shutil.disk_usage(output_dir).free
    if needed > free:
        raise ConfigError(
            f"{output_dir} has {gibibytes(free)} free, but downloads, checkpoints and embeddings may take "
            f"{gibibytes(needed)}; free some space, run in another folder, or lower train.keep_last"
        )
    checks.append(Check(subject="disk", finding=f"at most {gibibytes(needed)} needed, {gibibytes(free)} free"))
    return Plan(config=config, steps=steps, checks=tuple(checks), disk_needed=needed, disk_free=free)


def disk_needed(config: RunConfig) -> int:
    """Bytes written at most: checkpoints (the last K, the best, one being written), one export, all embeddings."""
    values, width = _sizes(config.model.source)
    checkpoints = config.train.keep_last + 2
    tokens = sum(len(prompts) for prompts in read_both(config.prompts)) * config.model.max_sequence_length
    return BYTES_PER_VALUE * (values * (COPIES_PER_CHECKPOINT * checkpoints + 1) + tokens * width)


def gibibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 2**30:.2f} GiB"


def _sizes(source: str) -> tuple[int, int]:
    """Parameters of the transformer, and numbers per embedded token; bounds for what is not here yet."""
    if is_remote(source) and fetched(source) is None:
        listing = survey(source, "model")
        weights = sum(file.size for file in listing.files if file.path.startswith("transformer/"))
        return weights // BYTES_STORED, T5_WIDTH
    folder = resolve(source, "model") / "transformer"
    width = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("joint_attention_dim", 0)
    return sum(prod(shape) for shape in folder_shapes(folder).values()), width


def _to_fetch(config: RunConfig) -> int:
    """Bytes that will be downloaded."""
    return _left(config.model.source, "model") + _left(config.reward.source, "reward")


def _left(source: str, part: Part) -> int:
    return missing(survey(source, part)) if is_remote(source) else 0


def _space_for_downloads(config: RunConfig, output_dir: Path) -> int:
    """Bytes of downloads that go to the disk of the output folder; ConfigError if another disk cannot take them."""
    needed = _to_fetch(config)
    disk = next(folder for folder in (store_dir(), *store_dir().parents) if folder.exists())
    if not needed or disk.stat().st_dev == output_dir.stat().st_dev:
        return needed
    if (free := shutil.disk_usage(disk).free) < needed:
        raise ConfigError(
            f"{disk} has {gibibytes(free)} free, but {gibibytes(needed)} are to be fetched into it; "
            "free some space, or let SRPO_STORE name another place"
        )
    return 0


def _remote(source: str, part: Part) -> str | None:
    """What a remote source holds, if it still has to be fetched: its layout can only be checked after that."""
    if not is_remote(source):
        return None
    listing = survey(source, part)
    left = missing(listing)
    if not left and fetched(source):
        return None
    if part == "model" and not any(
        PurePosixPath(file.path).match("transformer/*.safetensors") for file in listing.files
    ):
        raise ConfigError(f"model.source: {source} is no diffusers folder; it has no transformer/*.safetensors")
    facts = [f"{gibibytes(left)} of {gibibytes(listing.size)} in {len(listing.files)} files to fetch"]
    facts += [f"commit {listing.revision[:12]}"] if listing.revision else []
    facts += [f"licence {listing.licence}"] if listing.licence else []
    return f"{source}: {', '.join(facts)}; tensors are checked when they are here"


def _model(config: RunConfig) -> str:
    if found := _remote(config.model.source, "model"):
        models.find_family(config.model.family)
        return found
    folder = resolve(config.model.source, "model")
    models.check_model(config.model, folder)
    return (
        f"{config.model.source}: a whole {config.model.family} folder; {config.model.height}x{config.model.width} fits"
    )


def _reward(config: RunConfig) -> str:
    if found := _remote(config.reward.source, "reward"):
        rewards.find_family(config.reward.family)
        return found
    rewards.check_reward(config.reward, resolve(config.reward.source, "reward"))
    return f"{config.reward.source}: a whole {config.reward.family} checkpoint"


def _prompts(config: RunConfig) -> str:
    train, held_out = read_both(config.prompts)
    return f"{len(train)} to train on, {len(held_out)} held out"


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
