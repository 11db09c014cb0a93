"""Errors a user can cause. Their message is one sentence: what was got, what was expected, what to do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError


EXIT_PERMANENT = 42
"""Exit code of what trying again cannot mend; schedulers are told not to retry it."""

EXIT_RETRY = 75
"""Exit code of what may work when it is tried again, and loses nothing by it (EX_TEMPFAIL of sysexits.h)."""


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


def first_problem(error: "ValidationError") -> str:
    """The first thing that is wrong with a file's content."""
    return problem_text(error.errors()[0])


def problem_text(problem: Mapping[str, Any], whole: str = "") -> str:
    """One of pydantic's `ErrorDetails`: `key: what`; where it is wrong as a whole, `whole: what`, or only what."""
    key = ".".join(map(str, problem["loc"])) or whole
    return (f"{key}: " if key else "") + problem["msg"].removeprefix("Value error, ")
