"""The site on loopback that the tests of this folder share, where this machine can be one."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipelines.place import Place
    from tests.cluster.site import Site

NEEDED = (
    "kubernetes",
    "kfp",
    "s3fs",
    "psycopg2",
    "moto",
    "kubernetes_validate",
    "uvicorn",
    "python_multipart",
    "secure",
)
"""Of the extras `cluster`, `server` and `dev`."""


@pytest.fixture(scope="session")
def kubernetes(place: "Place", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Site]":
    """The whole site, with the stack `kubernetes` registered. `place`: this process's own ZenML."""
    if missing := [name for name in NEEDED if not find_spec(name)]:
        pytest.skip(f"the extras cluster and server are not installed ({', '.join(missing)})")
    from tests.cluster.pods import isolation
    from tests.cluster.site import site

    if not isolation():
        pytest.skip("unshare may not make mounts here, which pods need")
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made
