"""Prompt files: text, CSV or JSON lines; a bad line is refused by its number, before any expensive work.

    .csv     columns `prompt` and, if wanted, `category`; a prompt with a comma is quoted
    .jsonl   one object per line: {"prompt": ..., "category": ...}, the category optional
    others   one prompt per line; blank lines separate, they are no prompts

All in UTF-8. Other columns and keys are left alone: files of captions carry many.
"""

import csv
import json
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from srpo.config import PromptsConfig
from srpo.errors import ConfigError
from srpo.shapes import heldout_captions, seen_captions

Split = Literal["train", "held_out"]
Record = tuple[int, Any]
"""Number of a line, and what stands there before it is understood."""

CAPTIONS = {"builtin:shapes": {"train": seen_captions, "held_out": heldout_captions}}
"""Prompts of embedded worlds."""
FILES = {
    "builtin:photos": {split: Path(__file__).parent / "photos" / f"{split}.csv" for split in ("train", "held_out")},
}
"""Prompt files that come with the package."""
LINES_SHOWN = 5
MIN_HELD_OUT = 3


class Prompt(NamedTuple):
    """A text to draw."""

    text: str
    category: str = ""
    """What it is about, for results by group; empty where the file does not say."""


def read_prompts(source: str, split: Split, max_characters: int) -> list[Prompt]:
    """The prompts of a file, or of those that come with the package; ConfigError names the bad lines."""
    if source in CAPTIONS:
        return [Prompt(caption) for caption in CAPTIONS[source][split]()]
    path = prompt_file(source, split)
    if source.startswith("builtin:") and source not in FILES:
        raise ConfigError(f"prompts.{split}: no {source!r} here; choose from {sorted(CAPTIONS | FILES)}")
    if not path.is_file():
        raise ConfigError(f"prompts.{split}: no prompt file at {path}; give a file with one prompt per line")
    prompts, problems = _parse(path, _read_text(path, split), max_characters)
    if problems:
        more = f"; and {len(problems) - LINES_SHOWN} more" if len(problems) > LINES_SHOWN else ""
        raise ConfigError(f"prompts.{split}: {path}, {'; '.join(problems[:LINES_SHOWN])}{more}")
    if not prompts:
        raise ConfigError(f"prompts.{split}: {path} holds no prompt; write one per line")
    return prompts


def prompt_file(source: str, split: Split) -> Path:
    """Where the prompts of a source lie, if they lie in a file."""
    return FILES[source][split] if source in FILES else Path(source).expanduser()


def read_both(config: PromptsConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Training and held-out prompts; held-out ones may not be trained on."""
    train = read_prompts(config.train, "train", config.max_characters)
    held_out = read_prompts(config.held_out, "held_out", config.max_characters)
    if len(held_out) < MIN_HELD_OUT:
        raise ConfigError(
            f"prompts.held_out: {config.held_out} holds {len(held_out)}, but at least {MIN_HELD_OUT} are needed: "
            "one for the choice of the best checkpoint, two others for the intervals of the verdict"
        )
    if shared := sorted({prompt.text for prompt in train} & {prompt.text for prompt in held_out}):
        raise ConfigError(
            f"{len(shared)} held-out prompts are also trained on, for instance {shared[0]!r}; remove them from one file"
        )
    return train, held_out


def _read_text(path: Path, split: Split) -> str:
    """The file as text; ConfigError names the first line that is none."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise ConfigError(f"prompts.{split}: {path}, line {number}, is binary, not UTF-8 text; give a text file")
    return path.read_text(encoding="utf-8-sig")


def _parse(path: Path, text: str, max_characters: int) -> tuple[list[Prompt], list[str]]:
    """Prompts, and one sentence per bad line."""
    records, understand = FORMATS.get(path.suffix.lower(), (_lines, Prompt))
    prompts: list[Prompt] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for number, record in records(text):
        try:
            prompt = understand(record)
            _check(prompt, max_characters)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if prompt.text in first_line:
            problems.append(f"line {number}: the same prompt as line {first_line[prompt.text]}")
        first_line.setdefault(prompt.text, number)
        prompts.append(prompt)
    return prompts, problems


def _check(prompt: Prompt, max_characters: int) -> None:
    if not prompt.text:
        raise ValueError("the prompt is empty")
    if len(prompt.text) > max_characters:
        raise ValueError(f"{len(prompt.text)} characters, more than prompts.max_characters ({max_characters})")


def _lines(text: str) -> Iterator[Record]:
    """Lines that are not blank."""
    for number, line in enumerate(StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, line.strip()


def _rows(text: str) -> Iterator[Record]:
    """Rows below the header, or what is wrong; a row that spans several lines has the number of its last one."""
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        if "prompt" not in (reader.fieldnames or ()):
            yield 1, "no column `prompt`; the first line names the columns"
            return
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        yield reader.reader.line_num, f"not CSV ({error})"


def _from_row(row: dict[str | None, str | None] | str) -> Prompt:
    if isinstance(row, str):
        raise ValueError(row)
    if None in row:
        raise ValueError('more columns than the header has; put a prompt with a comma in "quotes"')
    return Prompt((row["prompt"] or "").strip(), (row.get("category") or "").strip())


def _from_json(line: str) -> Prompt:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None
    if not isinstance(entry, dict) or "prompt" not in entry:
        raise ValueError('no key "prompt"')
    prompt, category = entry["prompt"], entry.get("category") or ""
    if not isinstance(prompt, str) or not isinstance(category, str):
        raise ValueError("prompt and category must be texts")
    return Prompt(prompt.strip(), category.strip())


FORMATS: dict[str, tuple[Callable[[str], Iterator[Record]], Callable[[Any], Prompt]]] = {
    ".csv": (_rows, _from_row),
    ".jsonl": (_lines, _from_json),
}
"""Ending of a file's name -> (its records, what one means); any other file is plain text."""
