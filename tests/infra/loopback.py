"""Small servers on loopback: fixed answers over HTTP, and MLflow's own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2

NOBODY = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class JsonHandler(BaseHTTPRequestHandler):
    """Replies with JSON, logs nothing."""

    def reply(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silence."""


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server whose requests the handler answers; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def serving(answers: Mapping[str, tuple[int, Any]]) -> Iterator[str]:
    """A server that answers GET by path with a status and JSON, anything else with 404; its URL."""

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            self.reply(*answers.get(self.path, (404, {})))

    with listening(Handler) as url:
        yield url


class MlflowServer:
    """`mlflow ...` as a container would run it, on a port and a SQLite database that it keeps when it starts again."""

    def __init__(self, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.folder, port = folder, free_port()
        self.url = f"http://127.0.0.1:{port}"
        arguments = [part for part in command[1:] if not part.startswith(("--port", "--host"))]
        self.command = [sys.executable, "-m", *command[:1], *arguments, "--host=127.0.0.1", f"--port={port}"]
        own = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db"} | dict(environment)
        self.environment = os.environ | own

    def start(self) -> None:
        """Until it answers."""
        with (self.folder / "log.txt").open("a") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        until_healthy(self.url, self.process, self.folder / "log.txt")

    def kill(self) -> None:
        """With all its workers, in the middle of whatever they do."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """As a service manager would."""
        self.process.terminate()
        self.process.wait()


@contextmanager
def mlflow_server(command: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """The URL of such a server once it is up."""
    server = MlflowServer(command, environment, folder)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


def until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a server's `/health`; what it has logged if it ends before."""
    while process.poll() is None:
        try:
            httpx2.get(f"{url}/health", timeout=5).raise_for_status()
        except httpx2.HTTPError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError(log.read_text())
