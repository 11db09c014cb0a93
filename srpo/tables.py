"""CSV and JSON lines as records of texts, by the number of their lines; what is wrong with one takes its place.

    .csv     the first line names the columns; a text with a comma is quoted
    .jsonl   one object per line

All in UTF-8. Other columns and keys are left alone: files of captions carry many.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

from srpo.errors import ConfigError

Fields = dict[str, str]
Record = tuple[int, Fields | str]
"""Number of a line, and the fields that stand there, or what is wrong with them."""


def read_text(path: Path, setting: str) -> str:
    """A file as text; ConfigError names the first line that is none, and the setting that names the file."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise ConfigError(f"{setting}: {path}, line {number}, is binary, not UTF-8 text; give a text file")
    return path.read_text(encoding="utf-8-sig")


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank."""
    for number, line in enumerate(StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, line.strip()


def csv_records(text: str, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
    """Rows below the header; one that spans several lines has the number of its last one."""
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        if missing := [name for name in required if name not in (reader.fieldnames or ())]:
            yield 1, f"no column `{missing[0]}`; the first line names the columns"
            return
        for row in reader:
            fields = {name: (row.get(name) or "").strip() for name in (*required, *optional)}
            too_many = f'more columns than the header has; put a {required[-1]} with a comma in "quotes"'
            yield reader.line_num, too_many if None in row else fields
    except csv.Error as error:
        yield reader.reader.line_num, f"not CSV ({error})"


def json_records(text: str, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
    """Objects, one per line."""
    for number, line in lines(text):
        yield number, _json_fields(line, required, optional)


def _json_fields(line: str, required: Sequence[str], optional: Sequence[str]) -> Fields | str:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg})"
    if missing := [name for name in required if not isinstance(entry, dict) or name not in entry]:
        return f'no key "{missing[0]}"'
    values = {name: entry[name] for name in required} | {name: entry.get(name) or "" for name in optional}
    if not all(isinstance(value, str) for value in values.values()):
        return f"{' and '.join(values)} must be texts"
    return {name: value.strip() for name, value in values.items()}


TABLES = {".csv": csv_records, ".jsonl": json_records}
"""Ending of a file's name -> what reads it."""
