"""A TCP proxy in front of an S3 server that breaks what passes through it: real sockets, real HTTP, chosen faults."""

import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["none", "error", "reset", "slow", "cut"]
FAULTS: tuple[Fault, ...] = ("error", "reset", "slow", "cut")
ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/xml\r\nContent-Length: 54\r\n"
    b"Connection: close\r\n\r\n<Error><Code>InternalError</Code><Message/></Error>   "
)
SLOW = 0.2
"""Seconds that a slow answer lets pass before each piece."""
CUT_AFTER = 100_000
"""Bytes of a request after which a cut connection breaks: in the middle of a file, or of a part of it."""


class FaultyProxy:
    """Listens on loopback; each connection meets the fault of the moment, or one that `choose` draws for it."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.target = (parts.hostname or "", parts.port or 80)
        self.fault: Fault = "none"
        self.share = 1.0
        """Of the connections that meet the fault."""
        self.met: Counter[str] = Counter()
        self.random = random.Random(0)
        self.server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.getsockname()[1]}"

    def close(self) -> None:
        self.server.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        fault: Fault = self.fault if self.random.random() < self.share else "none"
        self.met[fault] += 1
        with client, suppress(OSError):
            if fault == "reset":
                _reset(client)
            elif fault == "error":
                client.recv(65536)
                client.sendall(ERROR)
            else:
                with socket.create_connection(self.target) as server:
                    back = threading.Thread(target=_pump, args=(server, client, fault == "slow", None), daemon=True)
                    back.start()
                    _pump(client, server, fault == "slow", CUT_AFTER if fault == "cut" else None)
                    if fault == "cut":
                        _reset(client)
                    else:
                        back.join()


def _pump(source: socket.socket, sink: socket.socket, slow: bool, limit: int | None) -> None:
    """Pass bytes on until the source ends, or `limit` is reached."""
    passed = 0
    with suppress(OSError):
        while (limit is None or passed < limit) and (piece := source.recv(65536)):
            time.sleep(SLOW if slow else 0)
            sink.sendall(piece)
            passed += len(piece)
        if limit is None or passed < limit:
            sink.shutdown(socket.SHUT_WR)


def _reset(client: socket.socket) -> None:
    """End a connection with RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
