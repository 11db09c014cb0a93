"""The real servers that a cluster talks to, on loopback: ZenML's, MLflow's on PostgreSQL, and S3."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.infra.loopback import free_port, mlflow_server, until_healthy
from tests.s3 import ACCOUNT, BUCKET, s3_client, s3_server

MLFLOW = ["mlflow", "server", "--workers=1", "--serve-artifacts", f"--artifacts-destination=s3://{BUCKET}/mlflow"]
USER = "postgres"
"""PostgreSQL refuses to run as root."""


@contextmanager
def artifact_server() -> Iterator[dict[str, str]]:
    """An S3 with one bucket; the environment that boto3 reads."""
    with s3_server() as url:
        environment = ACCOUNT | {"AWS_ENDPOINT_URL": url}
        s3_client(environment).create_bucket(Bucket=BUCKET)
        yield environment


@contextmanager
def tracking_server(folder: Path, s3: Mapping[str, str]) -> Iterator[str]:
    """MLflow's server on PostgreSQL, SQLite where there is none, with its files in the bucket; its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _database(folder) as database, mlflow_server(MLFLOW, {**s3, **quiet, **database}, folder) as url:
        yield url


@contextmanager
def _database(folder: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL of its own as MLflow's backend store; without the programs no setting, which leaves SQLite."""
    if not (shutil.which("initdb") and shutil.which("postgres")):
        yield {}
        return
    data, port = folder / "postgres", free_port()
    data.mkdir()
    user = USER if os.geteuid() == 0 else None
    if user:
        shutil.chown(data, user)
        for parent in data.parents[:-2]:
            parent.chmod(parent.stat().st_mode | 0o011)
    subprocess.run(
        ["initdb", "--no-sync", "-U", "mlflow", "-A", "trust", "-D", str(data)],
        user=user,
        check=True,
        capture_output=True,
        cwd="/",
    )
    options = ["-p", port, "-h", "127.0.0.1", "-k", "", "-F"]
    process = subprocess.Popen(["postgres", "-D", str(data), *options], user=user, cwd="/", stderr=subprocess.DEVNULL)
    try:
        _until_it_accepts(port, process)
        yield {"MLFLOW_BACKEND_STORE_URI": f"postgresql://mlflow@127.0.0.1:{port}/postgres"}
    finally:
        process.terminate()
        process.wait()


def _until_it_accepts(port: str, process: "subprocess.Popen[bytes]") -> None:
    import psycopg2

    while process.poll() is None:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", dbname="postgres").close()
        except psycopg2.OperationalError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("PostgreSQL ended")


@contextmanager
def zenml_server(folder: Path) -> Iterator[dict[str, str]]:
    """ZenML's server on SQLite; the environment that its clients read."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    own = {
        "ZENML_CONFIG_PATH": str(folder / "config"),
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        "ZENML_DEFAULT_USER_NAME": "admin",
        "ZENML_DEFAULT_USER_PASSWORD": "admin",
        "ZENML_SERVER_JWT_SECRET_KEY": "0" * 64,
        "ZENML_SERVER_DEPLOYMENT_TYPE": "other",
        "ZENML_SERVER_SERVER_URL": f"http://127.0.0.1:{port}",
        "ZENML_ANALYTICS_OPT_IN": "false",
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ZENML_")}
    command = [sys.executable, "-m", "uvicorn", "zenml.zen_server.zen_server_api:app", "--port", port]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, "--log-level", "warning"], env=inherited | own, stdout=log, stderr=log, cwd=folder
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until_healthy(url, process, folder / "log.txt")
        yield {"ZENML_STORE_URL": url, "ZENML_STORE_API_KEY": _api_key(url)}
    finally:
        process.terminate()
        process.wait()


def _api_key(url: str) -> str:
    """A service account's key, made over the REST API as an administrator would."""
    api = f"{url}/api/v1"
    login = httpx2.post(f"{api}/login", data={"username": "admin", "password": "admin"}, timeout=30).json()
    headers = {"Authorization": f"Bearer {login['access_token']}"}
    account = httpx2.post(f"{api}/service_accounts", json={"name": "srpo", "active": True}, headers=headers, timeout=30)
    key = httpx2.post(
        f"{api}/service_accounts/{account.json()['id']}/api_keys", json={"name": "srpo"}, headers=headers, timeout=30
    )
    return str(key.json()["body"]["key"])
