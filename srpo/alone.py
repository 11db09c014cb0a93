"""One process at work in a folder, or several readers: locks that the system takes back however a holder ends."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from srpo.errors import BusyError

LOCK, READERS = "lock", ".readers"
ENDING = 3.0
"""Seconds that a killed process may take to let go of its folder."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder. Raises BusyError while another process does; both would write the same files.

    A moment is waited for: a killed process may still hold it, and whoever looks for a holder does for an instant.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        until = time.monotonic() + ENDING
        while not _taken(lock, fcntl.LOCK_EX):
            if time.monotonic() > until:
                raise _busy(holder_of(folder) or "another process", folder)
            time.sleep(0.01)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def refuse_busy(folder: Path) -> None:
    """Raise a BusyError if somebody is at work in a folder, and does not just end there."""
    until = time.monotonic() + ENDING
    while (holder := holder_of(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    if holder:
        raise _busy(holder, folder)


def _busy(holder: str, folder: Path) -> BusyError:
    return BusyError(f"{holder} is at work in {folder}; wait until it ends, or stop it, and run this again")


def _taken(lock: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Hold a folder, as others may at the same time; who would remove what is in it asks `is_read`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / READERS).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def is_read(folder: Path) -> bool:
    """Whether anybody holds a folder so."""
    try:
        with (folder / READERS).open("a") as lock:
            return not _taken(lock, fcntl.LOCK_EX)
    except FileNotFoundError:  # nobody has ever
        return False


def holder_of(folder: Path) -> str | None:
    """Who is at work in a folder; None if nobody is."""
    try:
        with (folder / LOCK).open() as lock:
            return None if _taken(lock, fcntl.LOCK_SH) else lock.read() or "another process"
    except FileNotFoundError:
        return None
