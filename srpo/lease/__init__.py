"""One process at a time moves a champion: a lease around reading, judging and writing, on one machine or many.

    a folder, or nothing beside a local MLflow store    a file lock, which the kernel frees when its process ends
    s3://bucket/prefix                                  conditional writes (`srpo.lease.s3`)
    postgresql://user@host/database                     an advisory lock, freed with its session

MLflow's REST API has no lock of its own and its aliases know no condition, so all who write to a server must name the
same place; the registered model remembers it (`srpo.registry.lookup.open_model`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from srpo.errors import ConfigError, UnreachableError

WAIT = 300.0
"""Seconds that someone waits for a lease; what is done under one takes a few."""


class Held(Protocol):
    """A lease, as its holder sees it."""

    def confirm(self) -> None:
        """Return if the lease is still held; UnreachableError if it was lost. Call it right before a write."""


Keeper = Callable[[str, str, float], AbstractContextManager[Held]]
"""(place, name, seconds to wait) -> the lease."""


def lease(store: str, place: str | None, name: str, wait: float = WAIT) -> AbstractContextManager[Held]:
    """The only holder of `name`; others wait.

    `store`: MLflow's URI. `place`: the config's `registry.lease`; None: what the store itself offers. ConfigError if
    that is nothing, UnreachableError after `wait` seconds without the lease.
    """
    where = place_of(store, place)
    return _keeper(where)(where, name, wait)


def place_of(store: str, place: str | None) -> str:
    """Where the leases of a store lie: a folder or a URI; ConfigError where nothing says it."""
    if place is not None:
        return place.removeprefix("file://")
    if store.startswith("sqlite:///"):
        return str(Path(store.removeprefix("sqlite:///")).parent / "leases")
    if store.startswith("postgresql"):
        return store
    if "://" not in store or store.startswith("file:"):
        folder = url2pathname(urlsplit(store).path) if store.startswith("file:") else store
        return str(Path(folder) / ".leases")
    raise ConfigError(
        f"the MLflow store {_kind(store)} offers no lock, so two runs could move the champion at once; set "
        "registry.lease to s3://bucket/prefix or postgresql://user@host/database, the same for all who write to it, "
        "or to a folder if all of them run on one machine"
    )


def _kind(store: str) -> str:
    """A store without what its address may hold of passwords."""
    scheme, _, address = store.partition("://")
    return f"{scheme}://{address.rpartition('@')[2]}"


def _keeper(place: str) -> Keeper:
    if place.startswith("s3://"):
        from srpo.lease.s3 import s3_lease

        return s3_lease
    if place.startswith("postgresql"):
        from srpo.lease.postgres import postgres_lease

        return postgres_lease
    return file_lease


class _FileHeld:
    """The kernel takes a lock from no living process."""

    def confirm(self) -> None:
        """Always held."""


@contextmanager
def file_lease(folder: str, name: str, wait: float) -> Iterator[Held]:
    """A lock (flock) on `folder/name.lock`, for processes of one machine."""
    path = Path(folder) / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=wait):
            yield _FileHeld()
    except Timeout:
        raise UnreachableError(f"another process has held {path} for {wait:g} s; try again") from None
