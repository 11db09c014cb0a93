"""Errors a user can cause. Their message is one sentence: what was got, what was expected, what to do."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class ConfigError(ValueError):
    """The run cannot work as it is described: a setting, a file or a folder is wrong. Trying again will not help."""


class TrainingStoppedError(RuntimeError):
    """Training stopped itself before it could do damage; the last good checkpoint is kept."""


class UnreachableError(ConnectionError):
    """A hub or bucket does not answer, or stopped in the middle. Trying again may help, and loses nothing."""


class OutOfSightError(UnreachableError):
    """A run goes on elsewhere, but nobody there answers. Watching it again may help; nothing was changed."""


class RemoteRunError(RuntimeError):
    """A run on a cluster failed there. The message says why; resuming it goes on from what it has finished."""


class PreemptedError(RuntimeError):
    """Training was told to stop (SIGTERM) and has saved itself. Trying again goes on from there, bit for bit."""


class BusyError(RuntimeError):
    """Somebody else is at work there. Trying again when that has ended may help; nothing was written."""


class DiskFullError(OSError):
    """No space is left. What was whole before still is; trying again goes on from there once there is space."""


EXIT_PERMANENT = 42
"""Exit code of what trying again cannot mend; schedulers are told not to retry it."""

EXIT_RETRY = 75
"""Exit code of what may work when it is tried again, and loses nothing by it (EX_TEMPFAIL of sysexits.h)."""


def first_problem(error: "ValidationError") -> str:
    """Of what is wrong with a file's content: `key: what`, or only what if it is the whole."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
