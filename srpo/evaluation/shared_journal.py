"""Scores that nodes share: what one has drawn and scored, another finds in the durable copy (`storage.remote`).

The copy of a model holds its thumbnails and, beside them, files `scores-<hash>.jsonl` with rows of the journal. A node
only ever adds files, so that what several write at the same time comes together. They are sent while an evaluation
goes on, and when a model is through.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from srpo.durable import Mirror
from srpo.errors import UnreachableError
from srpo.evaluation.images import Cell
from srpo.evaluation.journal import ImageScores, ScoreJournal, ScoreRow
from srpo.files import write_atomic

SEND_EVERY = 60.0
"""Seconds between two times that an evaluation sends what it has; a node that is lost takes no more with it."""

log = logging.getLogger(__name__)


class SharedJournal(ScoreJournal):
    """The scores in one folder, which lies below a working folder, and what other nodes have."""

    def __init__(self, folder: Path, mirror: Mirror) -> None:
        super().__init__(folder)
        self.mirror = mirror
        self.sent = time.monotonic()

    def find(self, image_key: str, score_key: str, design: Sequence[Cell]) -> dict[Cell, ImageScores]:
        """As ever, after a look at the copy. Raises UnreachableError."""
        folder = self.gallery(image_key).folder
        self.mirror.fetch(folder)
        self.insert(image_key, sorted(_rows_in(folder)))
        return super().find(image_key, score_key, design)

    def add(self, image_key: str, score_key: str, scores: Mapping[Cell, ImageScores]) -> None:
        """As ever, and from time to time they are sent; if that fails they are with the next."""
        super().add(image_key, score_key, scores)
        if time.monotonic() - self.sent >= SEND_EVERY:
            try:
                self.complete(image_key)
            except UnreachableError as error:
                self.sent = time.monotonic()
                log.warning("scores are not in the copy yet: %s", error)

    def complete(self, image_key: str) -> None:
        """Send what the copy does not have of a model. Raises UnreachableError."""
        folder = self.gallery(image_key).folder
        known = _rows_in(folder)
        if new := [row for row in self.rows(image_key) if row not in known]:
            text = "".join(f"{json.dumps(row)}\n" for row in new)
            write_atomic(folder / f"scores-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl", text)
        self.mirror.push(folder, shared=True)
        self.sent = time.monotonic()


def _rows_in(folder: Path) -> set[ScoreRow]:
    """Of all nodes, as far as their files are here."""
    files = folder.glob("scores-*.jsonl")
    return {ScoreRow(*json.loads(line)) for path in files for line in path.read_text(encoding="utf-8").splitlines()}
