"""Where an export goes: a new folder, which appears whole, a place in an S3 bucket, or a repository of the hub."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from srpo.errors import ConfigError, UnreachableError
from srpo.files import atomic_folder
from srpo.hub.listing import CARD


@contextmanager
def open_target(to: str) -> Iterator[Path]:
    """A folder to write into; what is in it at the end is at `to`. ConfigError if `to` cannot take it."""
    if to.startswith("s3://"):
        with _bucket(to) as folder:
            yield folder
        return
    if to.startswith("hf://"):
        from srpo.hub.upload import HubRepository

        repository = HubRepository(to)
        repository.create()
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
            repository.upload(Path(name))
        return
    if "://" in to:
        raise ConfigError(f"--to {to}: give a folder, s3://BUCKET/PREFIX, or hf://OWNER/NAME")
    target = Path(to).expanduser().resolve()
    _make_way(to, target)
    with atomic_folder(target) as folder:
        yield folder


def _make_way(to: str, target: Path) -> None:
    """Remove an empty folder where the export will appear; ConfigError if it has to stay, or is none."""
    if target == Path.cwd():
        raise ConfigError(f"--to {to} is the current folder, which cannot be replaced; give a new one")
    try:
        target.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:  # it holds something, is a file, or a mount point
        raise ConfigError(
            f"--to {to} exists already and cannot be replaced ({error.strerror}); give a new folder, or an empty one "
            "that is no mount point"
        ) from None


def require_space(folder: Path, needed: int) -> None:
    """ConfigError if the disk of a folder cannot take so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{folder.parent} has {free / 2**30:.1f} GiB free, but the export may take {needed / 2**30:.1f}; "
            "free some space, give --to on another disk, or for a remote one let TMPDIR name it"
        )


@contextmanager
def _bucket(to: str) -> Iterator[Path]:
    """Files are uploaded in order of their names, the card last: where it is, all is."""
    from srpo.hub.s3 import Bucket

    bucket = Bucket(to)
    if not bucket.prefix:
        raise ConfigError(f"--to {to}: name a bucket and a prefix, s3://BUCKET/PREFIX")
    if found := sorted(key for key in bucket.keys(f"{bucket.prefix}/") if not key.endswith("/")):
        raise ConfigError(f"--to {to} holds {found[0].removeprefix(f'{bucket.prefix}/')} already; give a new prefix")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield folder
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        try:
            for name in sorted(names, key=lambda name: name == CARD):
                bucket.upload(folder / name, bucket.key(name))
        except BaseException:  # Ctrl-C too: what it leaves would be in the way of the next attempt
            with suppress(UnreachableError, ConfigError):
                for name in names:
                    bucket.delete(bucket.key(name))
            raise
