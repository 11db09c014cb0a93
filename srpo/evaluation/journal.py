"""Scores that outlive an evaluation: one that was interrupted goes on, and a model that was scored is not drawn again.

A folder holds `scores.db` (SQLite) and the thumbnails of the images. An image is known by what decides its pixels
(`Contender.image_key`, prompt, seed) and its scores by what decides them (`score_key`), so whatever changes is drawn
and scored anew. A score is written after its thumbnail, in one transaction per batch: a kill loses one batch at most.
"""

import json
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from srpo.evaluation.images import Cell, Gallery

DATABASE, THUMBNAILS = "scores.db", "thumbnails"
SECONDS_TO_WAIT = 60  # for another evaluation that is writing
TABLE = """
create table if not exists scores (
    image_key text, score_key text, prompt text, seed integer, scores text,
    primary key (image_key, score_key, prompt, seed)
) without rowid
"""


class ImageScores(NamedTuple):
    """What was found of one image."""

    metrics: Mapping[str, float]
    """Metric -> score."""
    features: bytes
    """Its unit features in float16, by which it is told from its siblings."""

    def dump(self) -> str:
        """As JSON."""
        return json.dumps({"metrics": self.metrics, "features": b64encode(self.features).decode()})

    @classmethod
    def load(cls, text: str) -> Self:
        """From `dump`."""
        found = json.loads(text)
        return cls(found["metrics"], b64decode(found["features"]))


class ScoreRow(NamedTuple):
    """The scores of one of a model's images."""

    score_key: str
    prompt: str
    seed: int
    scores: str
    """`ImageScores.dump`."""


class ScoreJournal:
    """The scores in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            connection.execute(TABLE)

    def gallery(self, image_key: str) -> Gallery:
        """The thumbnails of one model's images."""
        return Gallery(self.folder / THUMBNAILS / image_key[:32])

    def find(self, image_key: str, score_key: str, design: Sequence[Cell]) -> dict[Cell, ImageScores]:
        """Scores of those images of a design that are known and whose thumbnail is there."""
        with self._open() as connection:
            rows = connection.execute(
                "select prompt, seed, scores from scores where image_key = ? and score_key = ?", (image_key, score_key)
            )
            known = {(prompt, seed): scores for prompt, seed, scores in rows}
        gallery = self.gallery(image_key)
        gallery.use()
        found = [cell for cell in design if (cell.prompt, cell.seed) in known and gallery.has(cell)]
        return {cell: ImageScores.load(known[cell.prompt, cell.seed]) for cell in found}

    def add(self, image_key: str, score_key: str, scores: Mapping[Cell, ImageScores]) -> None:
        """Note the scores of some images."""
        self.insert(
            image_key, [ScoreRow(score_key, cell.prompt, cell.seed, row.dump()) for cell, row in scores.items()]
        )

    def forget(self) -> None:
        """Drop the scores of models whose thumbnails were removed: nobody takes a score without its picture."""
        with self._open() as connection:
            for (key,) in connection.execute("select distinct image_key from scores").fetchall():
                if not self.gallery(key).folder.exists():
                    connection.execute("delete from scores where image_key = ?", (key,))

    def complete(self, image_key: str) -> None:
        """A model is through: nothing is left to do here."""

    def rows(self, image_key: str) -> list[ScoreRow]:
        """All that is known of a model's images."""
        with self._open() as connection:
            query = "select score_key, prompt, seed, scores from scores where image_key = ?"
            return [ScoreRow(*row) for row in connection.execute(query, (image_key,))]

    def insert(self, image_key: str, rows: Sequence[ScoreRow]) -> None:
        """Note rows of a model."""
        with self._open() as connection:
            connection.executemany(
                "insert or replace into scores values (?, ?, ?, ?, ?)", [(image_key, *row) for row in rows]
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept if all goes well."""
        with closing(sqlite3.connect(self.folder / DATABASE, timeout=SECONDS_TO_WAIT)) as connection, connection:
            yield connection
