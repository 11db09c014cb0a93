"""The page of a study, one file that works offline, and its key, which stays with whoever asks.

The page holds neither the models' names nor their order: each picture has a random name, and the two of a pair lie in
the order of these. Which side and which order a voter sees is drawn in the browser, from the voter's own random name.
"""

import base64
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from srpo.errors import ConfigError
from srpo.evaluation.study.pairs import Pair, Pairs, Side, pick
from srpo.files import atomic_file, write_atomic
from srpo.hub import digests
from srpo.report.thumbnails import encode
from srpo.strict import Strict

QUESTIONS = {
    "realism": "Which picture looks more real?",
    "aesthetics": "Which picture is more beautiful?",
    "alignment": "Which picture fits the text better?",
    "overall": "Which picture is better, all in all?",
}
LONGEST = 1024  # pixels of the longer side
TOTAL_BYTES = 30_000_000  # of all pictures; base64 makes 40 MB of them, which browsers still open at once
MOST_BYTES = 250_000  # of one picture


class KeyPair(Strict):
    """Which picture of a pair is whose."""

    pair: str
    prompt: str
    seed: int
    reference: str
    """Random name of the reference's picture."""
    candidate: str
    """Random name of the judged model's picture."""


class StudyKey(Strict):
    """What the page does not tell."""

    schema_version: Literal[1] = 1
    study: str
    """Random name of the study, which every file of votes repeats."""
    reference: Side
    candidate: Side
    pairs: list[KeyPair]


def write_study(
    found: Pairs, out: Path, num_pairs: int | None = None, seed: int | None = None
) -> tuple[StudyKey, Path]:
    """Write the page to `out` and the key beside it; the key and its path.

    The same `seed` gives the same files of the same models and pictures, and other names to any others.

    ConfigError if either file is there already.
    """
    key_path = out.with_name(f"{out.stem}-key.json")
    if there := [path for path in (out, key_path) if path.exists()]:
        raise ConfigError(f"{there[0]} exists, and votes are merged with the key of their own page; give another --out")
    reference, candidate, pairs = found
    chosen = pick(pairs, num_pairs)
    generator = random.SystemRandom() if seed is None else _generator(seed, reference, candidate, chosen)
    key = StudyKey(
        study=_name(generator),
        reference=reference,
        candidate=candidate,
        pairs=[
            KeyPair(
                pair=_name(generator),
                prompt=pair.prompt,
                seed=pair.seed,
                reference=_name(generator),
                candidate=_name(generator),
            )
            for pair in chosen
        ],
    )
    template = _environment().get_template("page.html.jinja")
    stream = template.stream(
        study=key.study,
        nonce=hashlib.sha256(key.model_dump_json().encode()).hexdigest()[:32],
        questions=QUESTIONS,
        pairs=_shuffled_pairs(key, chosen),
    )
    with atomic_file(out) as staging:
        stream.dump(str(staging), encoding="utf-8")
        write_atomic(key_path, key.model_dump_json(indent=1))
    return key, key_path


def _generator(seed: int, reference: Side, candidate: Side, pairs: Sequence[Pair]) -> random.Random:
    """Names by the seed and by all that is asked about, so that no two studies share one."""
    pictures = [
        [pair.prompt, pair.seed, *(digests.sha256(path) for path in (pair.reference, pair.candidate))] for pair in pairs
    ]
    return random.Random(json.dumps([seed, reference.model_dump(), candidate.model_dump(), pictures]))


def _name(generator: random.Random) -> str:
    return f"{generator.getrandbits(64):016x}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # questions are asked in their order
    return environment


def _shuffled_pairs(key: StudyKey, pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    """What the page knows of each pair; one pair's pictures are in memory at a time."""
    budget = min(MOST_BYTES, TOTAL_BYTES // (2 * len(pairs)))
    for named, pair in zip(key.pairs, pairs, strict=True):
        pictures = {
            named.reference: _data_uri(pair.reference, budget),
            named.candidate: _data_uri(pair.candidate, budget),
        }
        yield {"id": named.pair, "prompt": pair.prompt, "pictures": dict(sorted(pictures.items()))}


def _data_uri(path: Path, max_bytes: int) -> str:
    with Image.open(path) as picture:
        content = encode(picture.convert("RGB"), LONGEST, max_bytes)
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
