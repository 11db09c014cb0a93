"""Where fetched files are kept: a local folder always, and an S3 prefix behind it if SRPO_STORE names one."""

import os
from pathlib import Path

from srpo.errors import ConfigError

VARIABLE = "SRPO_STORE"


def store_dir() -> Path:
    """The local store: SRPO_STORE if it is a path, else `.srpo/store` in the current folder."""
    place = os.environ.get(VARIABLE, "")
    return Path(place).expanduser().resolve() if place and "://" not in place else Path.cwd() / ".srpo" / "store"


def shared_uri() -> str | None:
    """The S3 prefix that nodes share, if there is one."""
    place = os.environ.get(VARIABLE, "")
    if "://" in place and not place.startswith("s3://"):
        raise ConfigError(f"{VARIABLE} is {place!r}; give a folder, or s3://bucket/prefix")
    return place if "://" in place else None
