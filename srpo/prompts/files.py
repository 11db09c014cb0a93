"""Prompt files: text or a table; a bad line is refused by its number, before any expensive work.

    .txt             one prompt per line; blank lines separate, they are no prompts; the same without an ending
    .csv, .tsv       columns `prompt` and, if wanted, `category`
    .jsonl           one object per line: {"prompt": ..., "category": ...}, the category optional
    .json            a list of such objects, or of prompts

All in UTF-8; see `srpo.tables`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from srpo.config import PromptsConfig
from srpo.errors import ConfigError
from srpo.hub import is_remote, local_file
from srpo.sample_size import MIN_PROMPTS
from srpo.shapes import heldout_captions, seen_captions
from srpo.tables import TABLES, Record, lines, read_text

Split = Literal["train", "held_out"]

CAPTIONS = {"builtin:shapes": {"train": seen_captions, "held_out": heldout_captions}}
"""Prompts of embedded worlds."""
FILES = {
    "builtin:photos": {split: Path(__file__).parent / "photos" / f"{split}.csv" for split in ("train", "held_out")},
}
"""Prompt files that come with the package."""
KINDS = (".txt", *TABLES)
LINES_SHOWN = 5
MIN_HELD_OUT = 1 + MIN_PROMPTS


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
        at = source if is_remote(source) else path
        raise ConfigError(f"prompts.{split}: no prompt file at {at}; give a file with one prompt per line")
    if path.suffix and path.suffix.lower() not in KINDS:
        raise ConfigError(f"prompts.{split}: {path} is none of {', '.join(KINDS)}; name it by what it holds")
    prompts, problems = _parse(path, read_text(path, f"prompts.{split}"), max_characters)
    if problems:
        more = f"; and {len(problems) - LINES_SHOWN} more" if len(problems) > LINES_SHOWN else ""
        raise ConfigError(f"prompts.{split}: {path}, {'; '.join(problems[:LINES_SHOWN])}{more}")
    if not prompts:
        raise ConfigError(f"prompts.{split}: {path} holds no prompt; write one per line")
    return prompts


def prompt_file(source: str, split: Split) -> Path:
    """Where the prompts of a source lie on this machine, if they lie in a file; a remote one is fetched."""
    return FILES[source][split] if source in FILES else local_file(source, "prompts")


def read_both(config: PromptsConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Training and held-out prompts; held-out ones may not be trained on."""
    train = read_prompts(config.train, "train", config.max_characters)
    return train, read_held_out(config, train)


def read_held_out(config: PromptsConfig, trained_on: Sequence[Prompt]) -> list[Prompt]:
    """Held-out prompts; ConfigError if one of them is trained on."""
    held_out = read_prompts(config.held_out, "held_out", config.max_characters)
    if len(held_out) < MIN_HELD_OUT:
        raise ConfigError(
            f"prompts.held_out: {config.held_out} holds {len(held_out)}, but at least {MIN_HELD_OUT} are needed: "
            f"1 for the choice of the best checkpoint, {MIN_PROMPTS} others for the intervals of the verdict; add more"
        )
    if shared := sorted({prompt.text for prompt in trained_on} & {prompt.text for prompt in held_out}):
        raise ConfigError(
            f"{len(shared)} held-out prompts are also trained on, for instance {shared[0]!r}; remove them from one file"
        )
    return held_out


def _parse(path: Path, text: str, max_characters: int) -> tuple[list[Prompt], list[str]]:
    """Prompts, and one sentence per bad line."""
    prompts: list[Prompt] = []
    problems: list[str] = []
    first: dict[str, str] = {}
    for place, record in _records(path, text):
        problem = record if isinstance(record, str) else text_problem(record["prompt"], max_characters)
        if problem:
            problems.append(f"{place}: {problem}")
            continue
        assert not isinstance(record, str)
        prompt = Prompt(record["prompt"], record["category"])
        if prompt.text in first:
            problems.append(f"{place}: the same prompt as {first[prompt.text]}")
        first.setdefault(prompt.text, place)
        prompts.append(prompt)
    return prompts, problems


def _records(path: Path, text: str) -> Iterator[Record]:
    """The records of a table; in a text file each line is a prompt."""
    if table := TABLES.get(path.suffix.lower()):
        return table(text, ["prompt"], ["category"])
    return ((f"line {number}", {"prompt": line, "category": ""}) for number, line in lines(text))


def text_problem(text: str, max_characters: int, noun: str = "prompt") -> str:
    """What is wrong with a text that is to be encoded; empty if nothing is."""
    if not text:
        return f"the {noun} is empty"
    if len(text) > max_characters:
        return f"{len(text)} characters, more than prompts.max_characters ({max_characters})"
    return ""
