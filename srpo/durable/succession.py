"""A training that goes on from where another one ended, in a folder of its own, which leaves what the other made."""

import shutil
from pathlib import Path

from srpo.budget import SPENT
from srpo.durable.mirror import Mirror
from srpo.errors import ConfigError
from srpo.files import atomic_folder, link_or_copy
from srpo.record import HELD_OUT, METRICS, read_journal, tracked
from srpo.tracking import Tracker

CHECKPOINTS, SAMPLES, TRANSFORMER = "checkpoints", "samples", "transformer"


def take_over(earlier: Path, folder: Path, mirror: Mirror) -> bool:
    """Begin in `folder` with the journals, samples and checkpoints of another training, here or in the durable copy.

    False if this has been done already. Raises ConfigError if nothing is left of the other.
    """
    target = folder / CHECKPOINTS
    if target.exists() or (mirror.bucket and mirror.folders(target)):  # journals alone are sent before a checkpoint
        return False
    mirror.fetch(earlier, names=lambda name: not name.startswith(f"{TRANSFORMER}/"))
    for name in mirror.folders(earlier / CHECKPOINTS) if mirror.bucket else ():
        mirror.fetch(earlier / CHECKPOINTS / name)
    if not any((earlier / CHECKPOINTS).glob("update-*")):
        raise ConfigError(f"{earlier} has no checkpoint any more, so nothing can go on from it; start a new run")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, HELD_OUT):
        shutil.copyfile(earlier / name, folder / name)
    if (earlier / SPENT).exists():
        shutil.copyfile(earlier / SPENT, folder / SPENT)
    shutil.copytree(earlier / SAMPLES, folder / SAMPLES, dirs_exist_ok=True)
    with atomic_folder(target) as staging:  # last: it says that all is there
        for checkpoint in (earlier / CHECKPOINTS).glob("update-*"):
            shutil.copytree(checkpoint, staging / checkpoint.name, copy_function=link_or_copy)
    return True


def goes_on(folder: Path, mirror: Mirror) -> bool:
    """Whether a training has a checkpoint, which holds all that it began from; with a copy one that every node sees."""
    checkpoints = folder / CHECKPOINTS
    return bool(mirror.folders(checkpoints)) if mirror.bucket else any(checkpoints.glob("update-*"))


def log_again(folder: Path, tracker: Tracker) -> None:
    """Tell another MLflow run what a training's journals say."""
    for name, prefix in ((METRICS, "train"), (HELD_OUT, "held_out")):
        for entry in read_journal(folder / name):
            tracker.log_metrics(tracked(entry, prefix), entry["update"])
