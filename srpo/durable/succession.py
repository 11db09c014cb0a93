"""A training that goes on from where another one ended, in a folder of its own, which leaves what the other made."""

import shutil
from pathlib import Path

from srpo.budget import SPENT
from srpo.checkpoint import updates_among
from srpo.durable.mirror import OWN_COPIES, Mirror
from srpo.errors import ConfigError
from srpo.files import atomic_folder, link_or_copy
from srpo.record import HELD_OUT, METRICS, read_journal, tracked
from srpo.tracking import Tracker

CHECKPOINTS, SAMPLES, TRANSFORMER = "checkpoints", "samples", "transformer"


def has_taken_over(earlier: Path, folder: Path, mirror: Mirror) -> bool:
    """Whether a training has all that another one leaves it, of which the newest checkpoint comes last."""
    if (folder / CHECKPOINTS).exists():
        return True
    newest, own = (max(updates_among(_sent(each, mirror)), default=0) for each in (earlier, folder))
    return own > 0 and own >= newest


def take_journals(earlier: Path, folder: Path, mirror: Mirror) -> None:
    """Begin in `folder` with the journals and samples of another training, here or in the durable copy.

    ConfigError where that has no checkpoint any more.
    """
    mirror.fetch(earlier, names=lambda name: not name.startswith(f"{TRANSFORMER}/"))
    if not _sent(earlier, mirror) and not any((earlier / CHECKPOINTS).glob("update-*")):
        raise ConfigError(f"{earlier} has no checkpoint any more, so nothing can go on from it; start a new run")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, HELD_OUT):
        shutil.copyfile(earlier / name, folder / name)
    if (earlier / SPENT).exists():
        shutil.copyfile(earlier / SPENT, folder / SPENT)
    shutil.copytree(earlier / SAMPLES, folder / SAMPLES, dirs_exist_ok=True)


def take_checkpoints(earlier: Path, folder: Path, mirror: Mirror) -> None:
    """Have the checkpoints of another training: in the durable copy those that it holds, here those that are here.

    A training that has them has begun: what else it begins with has to be in `folder`, and is sent before them.
    """
    mirror.push(folder, OWN_COPIES)
    for name in _sent(earlier, mirror):
        mirror.copy(earlier / CHECKPOINTS / name, folder / CHECKPOINTS / name)
    with atomic_folder(folder / CHECKPOINTS) as staging:
        for checkpoint in (earlier / CHECKPOINTS).glob("update-*"):
            shutil.copytree(checkpoint, staging / checkpoint.name, copy_function=link_or_copy)


def _sent(folder: Path, mirror: Mirror) -> list[str]:
    """Names of a training's checkpoints in the durable copy, the oldest first."""
    return mirror.folders(folder / CHECKPOINTS) if mirror.bucket else []


def goes_on(folder: Path, mirror: Mirror) -> bool:
    """Whether a training has a checkpoint, which holds all that it began from; with a copy one that every node sees."""
    checkpoints = folder / CHECKPOINTS
    return bool(mirror.folders(checkpoints)) if mirror.bucket else any(checkpoints.glob("update-*"))


def log_again(folder: Path, tracker: Tracker) -> None:
    """Tell another MLflow run what a training's journals say."""
    for name, prefix in ((METRICS, "train"), (HELD_OUT, "held_out")):
        for entry in read_journal(folder / name):
            tracker.log_metrics(tracked(entry, prefix), entry["update"])
