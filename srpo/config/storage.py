"""What lasts longer than the disk that a step runs on."""

from pydantic import Field

from srpo.config.base import Settings


class StorageConfig(Settings):
    """The durable copy of what a run writes."""

    remote: str | None = Field(default=None, pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[\w.=-]+)*/?$")
    """s3://bucket/prefix that steps copy their files to and take missing ones from, so that each may run on an empty
    disk; null: the local disk is all there is. Credentials are boto3's own (environment, profile, role)."""
    max_wait_s: float = Field(default=120.0, gt=0)
    """Seconds that the end of training waits at most for S3, beyond what its last checkpoints take at 100 MB/s, and
    for MLflow; while it trains it waits for neither."""
    grace_s: float = Field(default=30.0, gt=0)
    """Seconds between SIGTERM and the kill (terminationGracePeriodSeconds of a pod): what the checkpoint of a preempted
    run leaves of them goes to its upload. They have to be more than a micro-batch and a checkpoint take."""
