"""The published form of report.json is the one that the code writes."""

import json
from pathlib import Path

from srpo.report.schema import Report

PUBLISHED = Path(__file__).parents[2] / "docs" / "report.schema.json"


def current() -> str:
    return json.dumps(Report.model_json_schema(), indent=1) + "\n"


def test_the_published_schema_is_current() -> None:
    stale = "run: python -m tests.report.test_schema"
    assert PUBLISHED.read_text(encoding="utf-8") == current(), stale


if __name__ == "__main__":
    PUBLISHED.write_text(current(), encoding="utf-8")
