"""Who is told how a run ended."""

from typing import Literal

from pydantic import Field

from srpo.config.base import Settings

Event = Literal["champion", "kept", "collapsed", "failed", "nothing_new"]


class NotifyConfig(Settings):
    """A webhook, and the alerter of the ZenML stack if it has one."""

    webhook_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the webhook's URL, which is a secret and stands in no file; null: no
    webhook."""
    events: tuple[Event, ...] = ("champion", "kept", "collapsed", "failed")
    """What is told: `champion`: a new one; `kept`: the old one stays; `collapsed`; `failed`; `nothing_new`: a
    `run --if-new-data` that had nothing to do."""
