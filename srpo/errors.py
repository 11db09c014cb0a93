"""Errors a user can cause. Their message is one sentence: what was got, what was expected, what to do."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError


EXIT_PERMANENT = 42
"""Exit code of what trying again cannot mend; schedulers are told not to retry it."""

EXIT_RETRY = 75
"""Exit code of what may work when it is tried again, and loses nothing by it (EX_TEMPFAIL of sysexits.h)."""

NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "disk is full")
"""What the system and SQLite say of a full disk, and libraries repeat."""
NO_MEMORY = "OutOfMemoryError"
"""Torch's error on a GPU, by name: it need not be loaded here, and comes out of other processes as text."""


class KnownError(Exception):
    """What ends a command, a step or a training with one sentence instead of a traceback."""

    exit_code: ClassVar[int]
    word: ClassVar[str]
    """What the terminal says before the message."""


class ConfigError(KnownError, ValueError):
    """The run cannot work as it is described: a setting, a file or a folder is wrong. Trying again will not help."""

    exit_code, word = EXIT_PERMANENT, "error"


class TrainingStoppedError(KnownError, RuntimeError):
    """Training stopped itself before it could do damage; the last good checkpoint is kept."""

    exit_code, word = EXIT_PERMANENT, "error"


class GpuMemoryError(KnownError, RuntimeError):
    """A GPU's memory does not suffice. It would not the next time."""

    exit_code, word = EXIT_PERMANENT, "error"


class UnreachableError(KnownError, ConnectionError):
    """What a run leans on does not answer now: a hub, a bucket, MLflow, a database, a cluster, whoever holds a lease.

    Trying again may help, and loses nothing.
    """

    exit_code, word = EXIT_RETRY, "unreachable"


class OutOfSightError(UnreachableError):
    """A run goes on elsewhere, but nobody there answers. Watching it again may help; nothing was changed."""


class RemoteRunError(KnownError, RuntimeError):
    """A run on a cluster failed there. The message says why; resuming it goes on from what it has finished."""

    exit_code, word = 1, "failed"


class PreemptedError(KnownError, RuntimeError):
    """Training was told to stop (SIGTERM) and has saved itself. Trying again goes on from there, bit for bit."""

    exit_code, word = EXIT_RETRY, "stopped"


class BusyError(KnownError, RuntimeError):
    """Somebody else is at work there. Trying again when that has ended may help; nothing was written."""

    exit_code, word = EXIT_RETRY, "busy"


class DiskFullError(KnownError, OSError):
    """No space is left. What was whole before still is; trying again goes on from there once there is space."""

    exit_code, word = EXIT_RETRY, "stopped"


@contextmanager
def memory_needed(advice: str = "take a GPU with more") -> Iterator[None]:
    """A GPU's memory that does not suffice becomes a GpuMemoryError with this advice."""
    try:
        yield
    except KnownError:
        raise
    except Exception as error:
        for each in causes(error):
            if NO_MEMORY in f"{type(each).__name__}: {each}":
                said = str(each).rpartition(f"{NO_MEMORY}: ")[2].partition(". GPU")[0]
                raise GpuMemoryError(f"the GPU's memory does not suffice ({said}); {advice}") from error
        raise


def disk_full(error: BaseException) -> str:
    """The line that says an error comes of a full disk, however it is wrapped; empty where none does, or it is known.

    One line: the whole may be the traceback of another process, or an SQL statement with its values.
    """
    if isinstance(error, KnownError):
        return ""
    lines = (line for each in causes(error) for line in str(each).splitlines())
    return next((line for line in lines if any(words in line for words in NO_SPACE)), "")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came of, what that came of, ..."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_problem(error: "ValidationError") -> str:
    """The first thing that is wrong with a file's content."""
    return problem_text(error.errors()[0])


def problem_text(problem: Mapping[str, Any]) -> str:
    """One of pydantic's `ErrorDetails`: `key: what`; where it is wrong as a whole, only what."""
    key = ".".join(map(str, problem["loc"]))
    return (f"{key}: " if key else "") + problem["msg"].removeprefix("Value error, ")
