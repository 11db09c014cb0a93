"""Control words that differ by prompt or by update, from a file; what it does not say stays as the run says it.

One row for each exception, as CSV with a header (words separated by `|`) or as JSON lines (words in lists):

    prompt,first_update,last_update,positive,negative
    a castle at night,,,Moonlit|Dark,Bright
    ,1,10,Bright,

A row is for one prompt or for a range of updates (from 1, both ends included); a prompt's row comes before a range's.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from srpo.config import PreferenceConfig, RunConfig
from srpo.errors import ConfigError, problem_text
from srpo.hub import local_file
from srpo.strict import Strict
from srpo.tables import lines, read_text

SEPARATOR = "|"


def _words(value: Any) -> Any:
    """Words as CSV writes them, or a list."""
    return [word.strip() for word in value.split(SEPARATOR)] if isinstance(value, str) else value


Words = Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1), BeforeValidator(_words)]


class WordsRow(Strict):
    """One exception."""

    prompt: Annotated[str, StringConstraints(strip_whitespace=True)] | None = None
    """The prompt, as the prompt file has it."""
    first_update: int | None = Field(default=None, ge=1)
    last_update: int | None = Field(default=None, ge=1)
    positive: Words | None = None
    """Wanted words; left out: the run's."""
    negative: Words | None = None
    """Unwanted words, likewise."""

    @model_validator(mode="after")
    def says_when_and_what(self) -> Self:
        """A row for nothing, or with nothing to say, is a mistake."""
        updates = self.first_update, self.last_update
        if (self.prompt is None) == (updates == (None, None)):
            raise ValueError("give either a prompt or first_update and last_update")
        if self.prompt is None and (None in updates or self.updates[0] > self.updates[1]):
            raise ValueError(f"first_update and last_update must be a rising range, got {updates[0]} to {updates[1]}")
        if self.positive is self.negative is None:
            raise ValueError("give positive or negative words")
        return self

    @property
    def updates(self) -> tuple[int, int]:
        """First and last update of a row for a range."""
        return self.first_update or 0, self.last_update or 0


@dataclass(frozen=True)
class ControlWords:
    """The words of a run with their exceptions."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    prompts: Mapping[str, WordsRow]
    ranges: Sequence[WordsRow]
    digest: str | None
    """sha256 of the file; a run goes on only with the same."""

    def of(self, prompt: str, update: int) -> tuple[Sequence[str], Sequence[str]]:
        """Wanted and unwanted words of a prompt at an update (from 1)."""
        rows = [self.prompts[prompt]] if prompt in self.prompts else []
        rows += [row for row in self.ranges if row.updates[0] <= update <= row.updates[1]]
        positive = next((row.positive for row in rows if row.positive), self.positive)
        negative = next((row.negative for row in rows if row.negative), self.negative)
        return positive, negative


def control_words(preference: PreferenceConfig) -> ControlWords:
    """The words of a run; ConfigError names every line of its words file that is wrong."""
    if preference.words_file is None:
        return ControlWords(preference.positive, preference.negative, {}, (), None)
    path = local_file(preference.words_file, "words")
    try:
        text, digest = read_text(path, "preference.words_file"), sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"preference.words_file: {path} cannot be read: {error.strerror}") from None
    if path.suffix not in READERS:
        raise ConfigError(f"preference.words_file: {path} must end in {' or '.join(READERS)}")
    rows = READERS[path.suffix](path, text)
    _refuse_repeated_prompts(path, rows)
    ranges = _rising(path, rows)
    by_prompt = {row.prompt: row for row in rows.values() if row.prompt is not None}
    return ControlWords(preference.positive, preference.negative, by_prompt, ranges, digest)


def words_hash(config: RunConfig) -> str:
    """One hash over all control words of a run: those of every reward, with the content of their files."""
    preferences = [config.preference, *(added.preference for added in config.rewards.values())]
    asked = [[words.positive, words.negative, words.digest] for words in map(control_words, preferences)]
    return sha256(json.dumps(asked).encode()).hexdigest()


def check_prompts(words: ControlWords, prompts: Sequence[str]) -> None:
    """Refuse exceptions for prompts that are not trained on: they would never be used."""
    if unknown := sorted(set(words.prompts) - set(prompts)):
        raise ConfigError(
            f"preference.words_file: {len(unknown)} of its prompts are not in prompts.train, "
            f"for instance {unknown[0]!r}; write them as the prompt file does"
        )


def _read_csv(path: Path, text: str) -> dict[int, WordsRow]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    raw = {}
    try:
        for row in reader:
            if None in row:
                advice = 'more columns than the header has; put a prompt with a comma in "quotes"'
                raise ConfigError(f"{path}, line {reader.line_num}: {advice}")
            cells = {key: value for key, value in row.items() if value and value.strip()}  # an empty one says nothing
            raw[reader.line_num] = cells
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from None
    return _check(path, raw)


def _read_jsonl(path: Path, text: str) -> dict[int, WordsRow]:
    raw = {}
    for number, line in lines(text):
        try:
            raw[number] = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number}: not valid JSON: {error}") from None
    return _check(path, raw)


READERS: dict[str, Callable[[Path, str], dict[int, WordsRow]]] = {".csv": _read_csv, ".jsonl": _read_jsonl}
"""Ending of a words file -> what reads it: line -> row."""


def _check(path: Path, raw: Mapping[int, Any]) -> dict[int, WordsRow]:
    """Every row by its line; ConfigError lists all lines that are wrong."""
    rows, problems = {}, []
    for number, values in raw.items():
        try:
            rows[number] = WordsRow.model_validate(values)
        except ValidationError as error:
            problems += [f"{path}, line {number}: {problem_text(problem)}" for problem in error.errors()]
    if problems:
        raise ConfigError("\n".join(problems))
    if not rows:
        raise ConfigError(f"{path} holds no row; leave preference.words_file out")
    return rows


def _refuse_repeated_prompts(path: Path, rows: Mapping[int, WordsRow]) -> None:
    """Two rows for one prompt leave open which of them counts."""
    lines: dict[str, int] = {}
    for number, row in rows.items():
        if row.prompt is not None and lines.setdefault(row.prompt, number) != number:
            raise ConfigError(f"{path}, line {number}: the same prompt as line {lines[row.prompt]}; keep one of them")


def _rising(path: Path, rows: Mapping[int, WordsRow]) -> list[WordsRow]:
    """The rows for ranges in order; ConfigError if two of them hold the same update."""
    lines = sorted((number for number, row in rows.items() if row.prompt is None), key=lambda line: rows[line].updates)
    for before, after in pairwise(lines):
        if rows[after].updates[0] <= rows[before].updates[1]:
            raise ConfigError(
                f"{path}, line {after}: update {rows[after].updates[0]} is also in the range of line {before}; "
                "keep one of them"
            )
    return [rows[line] for line in lines]
