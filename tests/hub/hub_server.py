"""A Hugging Face Hub of a few repositories on loopback: what a client asks for, counted, and cut off on demand.

It is written to as the hub is without xet: announce, put the large files (LFS), commit.
"""

import base64
import hashlib
import json
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40
LARGE = 1000  # bytes from which a file is in LFS, and so has its sha256 announced


class HubServer:
    """Repositories by name, and what was sent of each file."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.licences: dict[str, dict[str, str]] = {}
        self.breaks_at: dict[str, int] = {}
        """Path -> byte at which every connection breaks."""
        self.garbled: set[str] = set()
        """Paths whose content arrives changed."""
        self.sent: Counter[str] = Counter()
        """Path -> bytes."""
        self.tokens: set[str] = set()
        """Tokens that came with requests."""
        self.private: set[str] = set()
        self.refuses_to_write = 0
        """Status of the answer to who wants to create a repository; 0: it is created."""
        self.commits: list[list[str]] = []
        """Paths of each commit."""
        self.blobs: dict[str, bytes] = {}
        """Large files by sha256, before they are committed."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def do_POST(self) -> None:
                hub.write(self)

            def do_PUT(self) -> None:
                hub.blobs[self.path.rpartition("/")[2]] = hub.body(self)
                hub._send(self, b"{}")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        self.tokens |= {request.headers["Authorization"]} if "Authorization" in request.headers else set()
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo not in self.repos:
            self._refuse(request, 404, "RepoNotFound")
        elif parts[0] == "api" and parts[4] == "revision":
            self._info(request, repo, parts[5])
        elif repo in self.gated:
            self._refuse(request, 403, "GatedRepo")
        elif parts[0] == "api":
            self._send(request, b"{}")
        else:
            self._file(request, "/".join(parts[4:]), self.repos[repo]["/".join(parts[4:])])

    def body(self, request: BaseHTTPRequestHandler) -> bytes:
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))

    def write(self, request: BaseHTTPRequestHandler) -> None:
        """What a client sends to write."""
        lines = [json.loads(line) for line in self.body(request).splitlines() if line]
        path = unquote(urlsplit(request.path).path).strip("/")
        if path == "api/repos/create":
            self._create(request, lines[0])
        elif path == "api/validate-yaml":
            self._reply(request, {"errors": [], "warnings": []})
        elif path.endswith("objects/batch"):
            objects = [
                item | {"actions": {"upload": {"href": f"{self.url}/{item['oid']}"}}} for item in lines[0]["objects"]
            ]
            self._reply(request, {"transfer": "basic", "objects": objects})
        elif "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                }
                for file in lines[0]["files"]
            ]
            self._reply(request, {"files": files})
        else:
            self._commit(request, "/".join(path.split("/")[2:4]), lines)

    def _create(self, request: BaseHTTPRequestHandler, wanted: dict[str, str]) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        if self.refuses_to_write:
            self._refuse(request, self.refuses_to_write, "")
        elif repo in self.repos:
            self._send(request, json.dumps({"url": f"{self.url}/{repo}"}).encode(), 409)
        else:
            self.repos[repo] = {".gitattributes": b""}
            self.private |= {repo} if wanted["visibility"] == "private" else set()
            self._reply(request, {"url": f"{self.url}/{repo}"})

    def _commit(self, request: BaseHTTPRequestHandler, repo: str, lines: list[dict[str, Any]]) -> None:
        values = {line["value"]["path"]: line["value"] for line in lines if line["key"] != "header"}
        for path, value in values.items():
            content = base64.b64decode(value["content"]) if "content" in value else self.blobs[value["oid"]]
            self.repos[repo][path] = content
        self.commits.append(sorted(values))
        self._reply(request, {"commitUrl": f"{self.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def _reply(self, request: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
        self._send(request, json.dumps(content).encode())

    def _info(self, request: BaseHTTPRequestHandler, repo: str, revision: str) -> None:
        if revision not in ("main", COMMIT):
            self._refuse(request, 404, "RevisionNotFound")
            return
        siblings = [
            {"rfilename": path, "size": len(content), "blobId": blob_id(content)}
            | (
                {"lfs": {"size": len(content), "sha256": sha256(content), "pointerSize": 1}}
                if is_large(content)
                else {}
            )
            for path, content in self.repos[repo].items()
        ]
        facts = {"id": repo, "sha": COMMIT, "gated": "manual" if repo in self.gated else False, "siblings": siblings}
        self._send(request, json.dumps(facts | {"cardData": self.licences.get(repo, {})}).encode())

    def _file(self, request: BaseHTTPRequestHandler, path: str, content: bytes) -> None:
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        end = min(len(content), self.breaks_at.get(path, len(content)))
        body = content[start:end] if path not in self.garbled else bytes(len(content))[start:end]
        self.sent[path] += len(body)
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = True

    def _send(self, request: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        request.wfile.write(body)

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()


def is_large(content: bytes) -> bool:
    return len(content) >= LARGE


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
