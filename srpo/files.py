"""Files and folders that are there whole or not at all, whatever ends the writing of them.

What is not whole yet lies beside its place under a hidden name that ends in `.partial`. A failure removes it, a kill
leaves it: a file's bears the writer's process and thread, so that writers of the same file do not meet; a folder, which
may be large and has one writer at a time, is begun anew under the same name.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path, flush: bool = True) -> Iterator[Path]:
    """A place to write to, which becomes `path` in the end, in a folder that is made if need be.

    `flush`: only when all is on disk (fsync), so that a machine that stops loses nothing either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield staging
        if flush:
            _fsync(staging)
        staging.replace(path)
        if flush:
            _fsync(path.parent)
    finally:
        staging.unlink(missing_ok=True)


def has_content(path: Path) -> bool:
    """Whether a file is there that is not empty."""
    return path.is_file() and path.stat().st_size > 0


def written_in(folder: Path) -> int:
    """Bytes of all files; not those of what is not whole (hidden), which are written anew."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if "/." not in f"/{path.relative_to(folder).as_posix()}")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, never sees half of it."""
    with atomic_file(path) as staging:
        staging.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target`, in place of what was there, at once when all is on disk."""
    staging, replaced = (target.with_name(f".{target.name}.{state}") for state in ("partial", "replaced"))
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for path in (*staging.rglob("*"), staging):
            _fsync(path)
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _fsync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Share a file that nobody changes (hard link); copy it where the file system cannot."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
