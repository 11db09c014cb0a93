"""What training logs, kept in a file until MLflow has taken it: training never waits, and nothing gets lost.

`mlflow.jsonl` holds every entry in order, with the time at which it was made; `mlflow.sent` says up to which byte the
server has taken them. A thread sends one after the other; while the server is away it tries again after a pause that
doubles up to a bound. An entry that was taken without us hearing of it is sent twice, which shows nowhere: MLflow
knows a metric by name, step, time and value, and for a picture `send` looks first. A tag may change its value, so each
is sent.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srpo.files import write_atomic

FILE, MARK = "mlflow.jsonl", "mlflow.sent"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between a failed attempt and the next."""

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], None]


class Outbox:
    """The entries of one training, `send` one after the other by a thread of its own."""

    def __init__(self, folder: Path, send: Send) -> None:
        self.path, self.mark = folder / FILE, folder / MARK
        self.send = send
        folder.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self._cut_back()
        self.known = {_name(entry) for entry in _entries(self.path.read_bytes())}
        self.written = self.path.stat().st_size
        self.sent = self.written - unsent(folder)
        if (
            marked(folder) > self.written
        ):  # a machine stop took the end of the log, not the mark, or they were copied so
            write_atomic(self.mark, str(self.written))
        self._hurry = self._closed = False
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def put(self, entry: dict[str, Any]) -> None:
        """Write an entry through to the file; what an earlier attempt wrote for the same step is there already."""
        if entry["kind"] != "tags" and _name(entry) in self.known:
            return
        self.known.add(_name(entry))
        line = json.dumps(entry | {"time": int(time.time() * 1000)}).encode() + b"\n"
        with self._changed:
            with self.path.open("ab") as file:
                file.write(line)
            self.written += len(line)
            self._changed.notify_all()

    def close(self, seconds: float) -> int:
        """Wait until all is sent, at most so long; the entries that are not."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.sent >= self.written, seconds)
            self._closed = True
            self._changed.notify_all()
        with self.path.open("rb") as file:
            file.seek(self.sent)
            return len(_entries(file.read()))

    def _work(self) -> None:
        """The thread."""
        pause = 0.0
        while self._wait_for_entries():
            try:
                with self.path.open("rb") as file:
                    file.seek(self.sent)
                    line = file.readline()
                self.send(json.loads(line))
                if self._closed:  # meanwhile the file may be another's, whose mark this must not move back
                    return
                write_atomic(self.mark, str(self.sent + len(line)))
            except Exception as error:  # whatever a server, its client or a proxy in between may raise
                if not pause:
                    log.warning("MLflow does not answer (%s); entries wait in %s", type(error).__name__, self.path)
                pause = FIRST_PAUSE if self._hurry or not pause else min(2 * pause, LONGEST_PAUSE)
                self._wait(pause)
                continue
            pause = 0.0
            with self._changed:
                self.sent += len(line)
                self._changed.notify_all()

    def _wait_for_entries(self) -> bool:
        """False when there is nothing left to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.sent < self.written)
            return not self._closed

    def _wait(self, seconds: float) -> None:
        with self._changed:  # at the end it tries again once a second
            self._changed.wait_for(lambda: self._closed or (self._hurry and seconds > FIRST_PAUSE), seconds)

    def _cut_back(self) -> None:
        """Drop a last line that a kill cut short."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            with self.path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def unsent(folder: Path) -> int:
    """Bytes in a training's folder that MLflow has not taken yet."""
    path = folder / FILE
    return max(0, path.stat().st_size - marked(folder)) if path.exists() else 0


def marked(folder: Path) -> int:
    """Bytes that MLflow has taken, as the mark says."""
    mark = folder / MARK
    return int(mark.read_text(encoding="utf-8")) if mark.exists() else 0


def _entries(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def _name(entry: dict[str, Any]) -> str:
    """What makes two entries the same, whenever they were made and whatever was measured."""
    return json.dumps([entry["kind"], entry.get("step"), sorted(entry.get("metrics", {}))])
