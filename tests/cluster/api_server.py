"""A Kubernetes API server on loopback: what Python clients and ZenML ask of one, over TLS, with Jobs that run.

It does not schedule, authorise, admit or pull: see `README.md`, "What ran, and what did not".
"""

import json
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.cluster.jobs import Jobs
from tests.cluster.pods import Node
from tests.cluster.store import KINDS, ApiError, Object, Store

CONTEXT = "loopback"


class Cluster:
    """One node, its API server and the controller of its Jobs."""

    def __init__(self, folder: Path, image: Mapping[str, str], url: str) -> None:
        self.folder, self.url = folder, url
        self.store = Store()
        self.node = Node(self.store, folder, image, url)
        self.jobs = Jobs(self.store, self.node)

    @property
    def kubeconfig(self) -> Path:
        """For `KUBECONFIG`; its one context is `loopback`."""
        return self.folder / "kubeconfig"

    def pods(self, step: str) -> list[Object]:
        """The pods that ZenML's step had so far, oldest first."""
        return self.store.list("pods", "", f"step_name={step}")

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Object | None) -> Object | str:
        """One request. Raises ApiError."""
        namespace, plural, name, part = _address(path)
        if part == "log":
            self.store.read(plural, namespace, name)
            return self.node.log(name)
        if method == "GET" and name:
            return self.store.read(plural, namespace, name)
        if method == "GET":
            found = self.store.list(plural, namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            api_version, kind = KINDS[plural]
            return {"apiVersion": api_version, "kind": f"{kind}List", "metadata": {}, "items": found}
        if method == "POST" and body is not None:
            made = self.store.create(plural, namespace, body)
            if plural == "jobs":
                self.jobs.start(made)
            return made
        if method == "PATCH" and body is not None:
            return self.store.patch(plural, namespace, name, body)
        if method == "DELETE" and name:
            return self.store.delete(plural, namespace, name)
        raise ApiError(405, "MethodNotAllowed", f"{method} {path}")


@contextmanager
def running_cluster(folder: Path, image: Mapping[str, str], namespace: str = "srpo") -> Iterator[Cluster]:
    """A cluster with a namespace and a node that says it has eight GPUs; `image`: environment of every container."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.socket = _certified(folder).wrap_socket(server.socket, server_side=True)
    cluster = Cluster(folder, image, f"https://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"cluster": cluster})
    cluster.store.create("namespaces", "", {"metadata": {"name": namespace}})
    cluster.store.create("nodes", "", {"metadata": {"name": "node", "labels": {"nvidia.com/gpu.present": "true"}}})
    cluster.store.patch("nodes", "", "node", {"status": {"allocatable": {"nvidia.com/gpu": "8"}}})
    cluster.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(cluster.url, folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield cluster
    finally:
        cluster.jobs.stop()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_PATCH(self) -> None:
        self._respond()

    def do_DELETE(self) -> None:
        self._respond()

    def _respond(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        try:
            self._send(200, self.cluster.answer(self.command, parts.path, query, body))
        except ApiError as error:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": error.code}
            self._send(error.code, status | {"reason": error.reason, "message": str(error)})

    def _send(self, code: int, answer: Object | str) -> None:
        content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silence."""


def _address(path: str) -> tuple[str, str, str, str]:
    """Namespace, plural, name and subresource of a path; empty where it has none."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, part = (*rest, "", "", "")[:3]
    if plural not in KINDS:
        raise ApiError(404, "NotFound", f"the server could not find the requested resource: {path}")
    return namespace, plural, name, part


def _certified(folder: Path) -> ssl.SSLContext:
    """TLS with a certificate of its own, written where clients find it."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=loopback"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.crt")]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1", *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "key.pem")
    return context


def _kubeconfig(url: str, folder: Path) -> Object:
    cluster = {"server": url, "certificate-authority": str(folder / "ca.crt")}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "users": [{"name": CONTEXT, "user": {"token": "loopback"}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }
