"""Cron expressions, checked before anything takes them; and the crontab line for a machine that has no other scheduler.

Five fields as in POSIX crontab and Kubernetes CronJobs: minute, hour, day of month, month, day of week.
"""

import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from srpo.errors import ConfigError

FIELDS = {"minute": (0, 59), "hour": (0, 23), "day of month": (1, 31), "month": (1, 12), "day of week": (0, 6)}
"""Name -> least and greatest value."""
PART = re.compile(r"(?:\*|(?P<first>\d+)(?:-(?P<last>\d+))?)(?:/(?P<step>\d+))?")


def checked_cron(expression: str) -> str:
    """The expression with single spaces; ConfigError says which field is wrong."""
    fields = expression.split()
    if len(fields) != len(FIELDS):
        raise ConfigError(
            f"--cron {expression!r} has {len(fields)} fields, expected {len(FIELDS)} ({', '.join(FIELDS)}), "
            "for instance '0 3 * * 0' for Sundays at three"
        )
    for field, (name, (least, greatest)) in zip(fields, FIELDS.items(), strict=True):
        if not all(_fits(part, least, greatest) for part in field.split(",")):
            raise ConfigError(
                f"--cron {expression!r}: {field!r} is no {name}; give *, or numbers from {least} to {greatest} "
                "with ranges (1-5), lists (1,3) or steps (*/2)"
            )
    return " ".join(fields)


def _fits(part: str, least: int, greatest: int) -> bool:
    """Whether one member of a list is a rising range inside the field's."""
    found = PART.fullmatch(part)
    if not found or found["step"] == "0":
        return False
    first = int(found["first"] or least)
    return least <= first <= int(found["last"] or max(first, least)) <= greatest


def crontab_line(cron: str, folder: Path, command: Sequence[str]) -> str:
    """What `crontab -e` takes to run a command in a folder, never twice at once; another one there waits for it."""
    files, digest = folder / ".srpo", hashlib.sha256(shlex.join(command).encode()).hexdigest()[:8]
    alone = ["flock", "--nonblock", str(files / f"schedule-{digest}.lock"), "flock", str(files / "schedule.lock")]
    once = [*alone, *command]
    log = shlex.quote(str(files / "schedule.log"))
    shell = f"cd {shlex.quote(str(folder))} && {shlex.join(once)} >> {log} 2>&1"
    return f"{cron} {shell.replace('%', chr(92) + '%')}"  # cron reads a bare % as the end of the line
