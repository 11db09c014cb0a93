"""Sources -> local files whose content is known: `builtin:shapes`, or a path (used in place, never copied)."""

import hashlib
from pathlib import Path
from typing import Literal

from srpo.artifacts import FileEntry, Snapshot
from srpo.errors import ConfigError
from srpo.shapes import WEIGHTS_DIR

Part = Literal["model", "reward"]
BUILTIN = {
    "builtin:shapes": {"model": WEIGHTS_DIR / "flux", "reward": WEIGHTS_DIR / "reward"},
}


def resolve(source: str, part: Part) -> Path:
    """The local place of a source; ConfigError where there is none."""
    if source.startswith("builtin:"):
        if source not in BUILTIN:
            raise ConfigError(f"{part}.source: no embedded world {source!r}; choose from {sorted(BUILTIN)}")
        return BUILTIN[source][part]
    if "://" in source:
        raise ConfigError(
            f"{part}.source: {source!r} is not a path; fetch it first, then give the path of the folder or file"
        )
    path = Path(source).expanduser().resolve()
    if not path.exists():
        raise ConfigError(f"{part}.source: nothing at {path}; give a path that exists, or one of {sorted(BUILTIN)}")
    return path


def fetch(source: str, part: Part) -> Snapshot:
    """Make a source local and note its content (name, size, sha256 of every file)."""
    return snapshot(resolve(source, part), source)


def snapshot(path: Path, source: str) -> Snapshot:
    """The content of a file, or of all files of a folder, as it is now."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    root = path.parent if path.is_file() else path
    entries = (
        FileEntry(path=file.relative_to(root).as_posix(), size=file.stat().st_size, sha256=_sha256(file))
        for file in files
    )
    return Snapshot(source=source, uri=str(path), files=tuple(entries))


def verify(recorded: Snapshot) -> None:
    """ConfigError if the files are no longer those that were recorded."""
    now = snapshot(recorded.path, recorded.source)
    changed = sorted(
        {(file.path, file.sha256) for file in now.files} ^ {(file.path, file.sha256) for file in recorded.files}
    )
    if changed:
        raise ConfigError(f"{recorded.uri} has changed since it was recorded: {changed[0][0]}; start a new run")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
