"""Tables as records of texts, each by its place in the file; what is wrong with one takes its place.

    .csv     the first line names the columns, in capitals or not; a text with a comma is quoted
    .tsv     the same with tabs, which need no quotes: a quote is part of its text
    .jsonl   one object per line
    .json    a list of objects, or of texts where one text is all that is asked for

All in UTF-8. Other columns and keys are left alone: files of captions carry many.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from srpo.errors import ConfigError

Fields = dict[str, str]
Record = tuple[str, Fields | str]
"""Where in the file, and the fields that stand there, or what is wrong with them."""


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
    rows = csv.DictReader(StringIO(text, newline=""), strict=True)
    return _row_records(rows, required, optional, f'put a {required[-1]} with a comma in "quotes"')


def tsv_records(text: str, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
    """Lines below the header."""
    rows = csv.DictReader(StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    return _row_records(rows, required, optional, f"no {required[-1]} may hold a tab")


def _row_records(
    rows: "csv.DictReader[str]", required: Sequence[str], optional: Sequence[str], advice: str
) -> Iterator[Record]:
    """`advice`: what to do where a row has more columns than the header."""
    try:
        names = rows.fieldnames or ()
        columns = {name.lower(): name for name in names} | {name: name for name in names}
        if missing := [name for name in required if name not in columns]:
            yield "line 1", f"no column `{missing[0]}`; the first line names the columns"
            return
        for row in rows:
            fields = {name: (row.get(columns.get(name, "")) or "").strip() for name in (*required, *optional)}
            too_many = f"more columns than the header has; {advice}"
            yield f"line {rows.line_num}", too_many if None in row else fields
    except csv.Error as error:
        yield f"line {rows.reader.line_num}", f"not CSV ({error})"


def json_line_records(text: str, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
    """Objects, one per line."""
    for number, line in lines(text):
        try:
            yield f"line {number}", _json_fields(json.loads(line), required, optional)
        except json.JSONDecodeError as error:
            yield f"line {number}", f"not JSON ({error.msg})"


def json_records(text: str, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
    """Entries of a list."""
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        yield f"line {error.lineno}", f"not JSON ({error.msg})"
        return
    if not isinstance(entries, list):
        yield "line 1", "not a list; one object per line is what a .jsonl file holds"
        return
    for number, entry in enumerate(entries, start=1):
        named = {required[0]: entry} if isinstance(entry, str) and len(required) == 1 else entry
        yield f"entry {number}", _json_fields(named, required, optional)


def _json_fields(entry: Any, required: Sequence[str], optional: Sequence[str]) -> Fields | str:
    if missing := [name for name in required if not isinstance(entry, dict) or name not in entry]:
        return f'no key "{missing[0]}"'
    values = {name: entry[name] for name in required} | {name: entry.get(name) or "" for name in optional}
    if not all(isinstance(value, str) for value in values.values()):
        return f"{' and '.join(values)} must be texts"
    return {name: value.strip() for name, value in values.items()}


TABLES = {".csv": csv_records, ".jsonl": json_line_records, ".tsv": tsv_records, ".json": json_records}
"""Ending of a file's name -> what reads it."""
