"""sha256 of files, remembered for large ones, so that nothing is read twice to learn that it has not changed.

What is remembered holds as long as path, size, time of change and inode do. A file changed in the last seconds is read
again: a second change could fall into the same tick of its clock.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from srpo.files import write_atomic
from srpo.hub.place import store_dir

REMEMBERED = 64 * 2**20
"""Bytes from which a file is remembered; smaller ones are read sooner than looked up."""
SETTLED = 2.0
"""Seconds after which a file's time of change is believed."""


def sha256(path: Path) -> str:
    """Hash of the content, read only if it is not known already."""
    facts = path.stat()
    if facts.st_size < REMEMBERED:
        return _read(path)
    known = _memory().get(str(path.resolve()))
    if known and known[:3] == _state(facts):
        return str(known[3])
    digest = _read(path)
    if time.time() - facts.st_mtime > SETTLED and _state(path.stat()) == _state(facts):
        remember(path, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Note the hash of a file that nobody writes to any more. Where the store cannot be written, nothing is noted."""
    facts = path.stat()
    if facts.st_size < REMEMBERED:
        return
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_path().with_suffix(".lock")):
            kept = {name: known for name, known in _memory().items() if Path(name).exists()}
            write_atomic(_path(), json.dumps(kept | {str(path.resolve()): [*_state(facts), digest]}))
    except OSError:
        return


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(facts: os.stat_result) -> list[int]:
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def _path() -> Path:
    return store_dir() / "digests.json"


def _memory() -> dict[str, list[Any]]:
    try:
        return json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
