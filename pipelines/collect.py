"""What nobody needs any more goes: surplus versions, then the large files that neither a version nor a run refers to.

Versions go first. A crash after that leaves files without a version, which the next call finds by the same rule:
nothing is noted in between. A run's record, metrics, report and MLflow run stay.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zenml.client import Client

from pipelines.outcome import outputs_of
from pipelines.place import Place
from pipelines.runs import RunRecord, load_runs, unreadable_runs
from srpo.alone import is_read
from srpo.artifacts import PromptSets, Trained, Weights
from srpo.errors import ConfigError
from srpo.evaluation.journal import DATABASE, THUMBNAILS, ScoreJournal
from srpo.hub.place import store_dir
from srpo.hub.store import unused
from srpo.registry import Version, delete, load_manifest, surplus, versions
from srpo.report.page import REPORT_JSON
from srpo.tracking import known_runs

LARGE = ("checkpoints", "transformer")
"""Folders of a run's training that are worth freeing."""
REMOVED = ".removed"
UNUSED = 30 * 86400
"""Seconds after which goes what has not been used and can be had again: pictures and scores, comparisons, fetched
weights; and what was said of errors."""


@dataclass(frozen=True)
class Folder:
    """Something on disk that nobody refers to; of the store of fetched weights also a file."""

    path: Path
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Surplus:
    """What goes, in this order."""

    versions: list[Version]
    folders: list[Folder]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(folder.size for folder in self.folders)


def find_surplus(place: Place, keep: int) -> Surplus:
    """What `collect` would remove now."""
    started_from = _started_from(place)
    gone = [version for version in surplus(place.mlflow_uri, keep) if version.reference not in started_from]
    return Surplus(gone, unreferenced(place, gone))


def collect(place: Place, keep: int) -> Surplus:
    """Remove the versions beyond the newest `keep` of each model that nothing speaks for, then their files.

    ConfigError, and nothing removed, while a run cannot be read: it may refer to anything.
    """
    found = find_surplus(place, keep)
    for version in found.versions:
        delete(place.mlflow_uri, version.reference)
    folders = unreferenced(place, [])  # asked again: a run may have started meanwhile
    for folder in folders:
        remove(folder.path)
    if (place.scores / DATABASE).exists():
        ScoreJournal(place.scores).forget()
    return Surplus(found.versions, folders)


def delete_version(place: Place, version: Version, uri: str | None = None) -> Surplus:
    """Remove one version that has no alias, and of the files that are then free those of its own run.

    `uri`: the registry that it is in, this folder's if None; of another the version goes alone.
    """
    _refuse_unreadable(place)
    if run := _started_from(place).get(version.reference):
        raise ConfigError(f"run {run} starts from {version.reference} and is not done; finish it, or remove its folder")
    delete(uri or place.mlflow_uri, version.reference)
    if uri not in (None, place.mlflow_uri):
        return Surplus([version], [])
    runs = [record.path for record in load_runs(place) if record.tracked.run_id == version.run_id]
    folders = [folder for folder in unreferenced(place, []) if any(folder.path.is_relative_to(run) for run in runs)]
    for folder in folders:
        remove(folder.path)
    return Surplus([version], folders)


def unreferenced(place: Place, gone: Sequence[Version]) -> list[Folder]:
    """The large folders that nobody refers to once the versions `gone` are gone."""
    _refuse_unreadable(place)
    left = [version for version in versions(place.mlflow_uri) if version not in gone]
    released = _released(place, left)
    needed = [path for version in left for path in _files_of_version(place, version)]
    others = [record for record in load_runs(place) if record not in released]
    needed += [path for record in others for path in _files_of_run(place, record)]
    found = [path for path in _candidates(place, released) if not any(_overlap(path, other) for other in needed)]
    fetching = any(record.actual_state == "running" and "weights" not in outputs_of(record) for record in others)
    if store_dir() == place.root / "store" and not fetching:  # another one may serve other folders too
        found += unused(needed, time.time() - UNUSED)
    return [Folder(path, size_of(path)) for path in found]


def remove(path: Path) -> None:
    """A file; or a folder, which is gone at once, whatever happens while its files are removed."""
    if not path.is_dir():
        path.unlink()
        return
    staging = path.with_name(f".{path.name.removeprefix('.').removesuffix(REMOVED)}{REMOVED}")
    if path != staging:
        shutil.rmtree(staging, ignore_errors=True)
        path.rename(staging)
    shutil.rmtree(staging)


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(path.lstat().st_size for path in (place, *place.rglob("*")) if path.is_symlink() or path.is_file())


def _released(place: Place, left: Sequence[Version]) -> list[RunRecord]:
    """The runs that are done and whose versions have all been removed; a store that was lost releases nothing."""
    done = [record for record in load_runs(place) if record.actual_state == "done" and "register" in record.steps]
    registered = {version.run_id for version in left}
    candidates = [record for record in done if record.tracked.run_id not in registered]
    known = known_runs(place.mlflow_uri, [record.tracked.run_id for record in candidates])
    return [record for record in candidates if record.tracked.run_id in known]


def _candidates(place: Place, released: Sequence[RunRecord]) -> Iterator[Path]:
    """The large folders of released runs, all stores of embeddings (unless an evaluation reads some), thumbnails,
    comparisons and details of errors that nobody has written for long, and what an interrupted removal left.
    """
    for record in released:
        yield from (path for name in LARGE if (path := record.training / name).is_dir())
    if not is_read(place.embeddings):
        yield from sorted(path for path in place.embeddings.glob("[!.]*") if path.is_dir())
    galleries = (path for path in (place.scores / THUMBNAILS).glob("[!.]*") if path.is_dir())
    comparisons = (path for path in place.comparisons.glob("[!.]*") if not _holds_votes(path))
    passing = (*galleries, *comparisons, *place.logs.glob("error-*.txt"))
    yield from sorted(path for path in passing if time.time() - path.stat().st_mtime > UNUSED)
    left = [place.runs / "*" / "train", place.embeddings, place.scores / THUMBNAILS, place.comparisons]
    left += [place.root / "store" / "trees"]
    patterns = (folder.relative_to(place.root) / f".*{REMOVED}" for folder in left)
    yield from sorted(path for pattern in patterns for path in place.root.glob(str(pattern)))


def _holds_votes(comparison: Path) -> bool:
    """Whether people's answers were merged into a comparison, which `compare` would not bring back."""
    report = comparison / REPORT_JSON
    return report.is_file() and json.loads(report.read_text(encoding="utf-8")).get("study") is not None


def _started_from(place: Place) -> dict[str, str]:
    """Versions that runs which are not done train from -> the run."""
    unfinished = (record for record in load_runs(place) if record.actual_state != "done")
    return {record.config.train.start.removeprefix("models:/"): record.name for record in unfinished}


def _files_of_version(place: Place, version: Version) -> Iterator[Path]:
    """Nothing, where the MLflow run that held the manifest was deleted: nobody can find the files through it."""
    if version.ours and known_runs(place.mlflow_uri, [version.run_id]):
        manifest = load_manifest(place.mlflow_uri, version.reference)
        yield from (manifest.base.path, manifest.transformer.path)


def _files_of_run(place: Place, record: RunRecord) -> Iterator[Path]:
    """A run's own folder, that of the training it goes on from, and what its steps have made or been given."""
    yield record.training
    if record.continued_training and record.actual_state != "done":
        yield record.continued_training
    outputs = record.given | outputs_of(record)
    for name in outputs.keys() & {"weights", "prompts", "trained"}:
        yield from _places(Client().get_artifact_version(outputs[name]).load())
    if "prompts" not in outputs and "embed" in record.steps and record.actual_state != "done":
        yield place.embeddings  # it has not said yet which store it writes into


def _places(manifest: Weights | PromptSets | Trained) -> tuple[Path, ...]:
    """Where the files of a step's manifest lie."""
    if isinstance(manifest, Weights):
        return tuple(snapshot.path for snapshot in manifest.snapshots.values())
    if isinstance(manifest, PromptSets):
        return manifest.train.snapshot.path, manifest.held_out.snapshot.path
    return manifest.transformer.path, Path(manifest.output_dir)


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _refuse_unreadable(place: Place) -> None:
    if unreadable := unreadable_runs(place):
        raise ConfigError(
            f"{', '.join(unreadable)} in {place.runs} cannot be read by this srpo, or was made elsewhere, and may "
            "refer to any file; move it out of that folder, or use the srpo, or the folder, that it was made with"
        )
