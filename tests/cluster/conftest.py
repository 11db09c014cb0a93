"""One installation for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.servers import Site, site


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """ZenML's server, MLflow's and S3."""
    with site(Path(tmp_path_factory.mktemp("site"))) as found:
        yield found
