"""One training at a time in a folder, or several readers: locks that the system takes back however a holder ends."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srpo.errors import BusyError

LOCK, READERS = "lock", ".readers"
ENDING = 3.0
"""Seconds that a killed process may take to let go of its folder."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder. Raises BusyError while another process does; both would write the same checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refuse_busy(folder)
            raise BusyError(f"{folder} was held by another process a moment ago; run this again") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def refuse_busy(folder: Path) -> None:
    """Raise a BusyError if somebody trains in a folder, and does not just end there."""
    until = time.monotonic() + ENDING
    while (holder := trainer_in(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    if holder:
        raise BusyError(f"{holder} is training in {folder}; wait until it ends, or stop it, and run this again")


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
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # nobody has ever
        return False
    return False


def trainer_in(folder: Path) -> str | None:
    """Who trains in a folder; None if nobody does."""
    try:
        with (folder / LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read() or "another process"
    except FileNotFoundError:
        pass
    return None
