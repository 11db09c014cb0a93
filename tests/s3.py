"""S3 on loopback with one bucket, and the environment that names it to boto3."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "artifacts"
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "very-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a server that holds nothing."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_client(environment: Mapping[str, str]) -> Any:
    """A client of the S3 that an environment names, which need not be this process's own."""
    names = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    names |= {"region_name": "AWS_DEFAULT_REGION", "endpoint_url": "AWS_ENDPOINT_URL"}
    return boto3.session.Session().client("s3", **{key: environment[name] for key, name in names.items()})


def make_bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, which has the bucket now; boto3 knows this server and no account of the user's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (ACCOUNT | {"AWS_ENDPOINT_URL": url}).items():
        monkeypatch.setenv(name, value)
    client = s3_client(os.environ)
    client.create_bucket(Bucket=BUCKET)
    return client
