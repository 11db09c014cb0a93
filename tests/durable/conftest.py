"""A copy in S3, and nodes with disks of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from srpo.durable import Mirror
from tests.hub.conftest import store
from tests.s3 import BUCKET

__all__ = ["store"]

REMOTE = f"s3://{BUCKET}/copy"


@pytest.fixture
def node(bucket: object, tmp_path: Path) -> Callable[[str], Mirror]:
    """The copy as a node of some name sees it."""

    def make(name: str) -> Mirror:
        (tmp_path / name / ".srpo").mkdir(parents=True, exist_ok=True)
        return Mirror(REMOTE, tmp_path / name / ".srpo")

    return make
