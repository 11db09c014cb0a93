"""What sections of a run file are made of."""

from collections.abc import Mapping
from typing import Any

from srpo.strict import Strict

Range = tuple[float, float]
NAME = r"^[A-Za-z0-9._-]+$"
"""What is a name to MLflow, ZenML and every file system."""


class Settings(Strict):
    """A section of a run file."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
