"""A real MLflow store, a bucket whose server answers one request at a time, and what registering needs."""

import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from pipelines.place import Place
from srpo.tracking import connect
from tests.s3 import BUCKET, make_bucket

PREFIX = f"s3://{BUCKET}/srpo"
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A local MLflow store; each test has models of its own in it."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    connect(uri).search_registered_models()
    shutil.copy(folder / "mlflow.db", folder / "empty.db")
    return uri


@pytest.fixture
def own_place(store: str, tmp_path: Path) -> Place:
    """A working folder of the test's own, whose MLflow store holds nothing yet."""
    place = Place(tmp_path / ".srpo")
    place.root.mkdir()
    shutil.copy(Path(store.removeprefix("sqlite:///")).with_name("empty.db"), place.mlflow_database)
    return place


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model's name that no other test uses."""
    return re.sub(r"\W", "-", request.node.name)


Wrapper = Callable[[Any], Any]


def serve(wrap: Wrapper = lambda application: application) -> Iterator[str]:
    """moto's S3 in a process of its own. It checks a condition, then writes: one request at a time keeps that whole."""
    server = make_server("127.0.0.1", 0, wrap(DomainDispatcherApplication(create_backend_app)), threaded=False)
    process = fork.Process(target=server.serve_forever, daemon=True)
    process.start()
    server.socket.close()
    yield f"http://127.0.0.1:{server.port}"
    process.kill()
    process.join()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty prefix."""
    for url in serve():
        make_bucket(url, monkeypatch)
        yield PREFIX


@pytest.fixture
def careless_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a prefix whose server does not know conditions."""

    def without_conditions(application: Any) -> Any:
        def call(environ: dict[str, Any], respond: Any) -> Any:
            kept = {key: value for key, value in environ.items() if key not in {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"}}
            return application(kept, respond)

        return call

    for url in serve(without_conditions):
        make_bucket(url, monkeypatch)
        yield PREFIX


@pytest.fixture(params=["folder", "bucket"])
def lease_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a lease is kept: both kinds that can be had here without an installed server."""
    return str(tmp_path / "leases") if request.param == "folder" else request.getfixturevalue("bucket")
