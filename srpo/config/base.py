"""What sections of a run file, and everything else that is kept as JSON, are made of."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

Range = tuple[float, float]
NAME = r"^[A-Za-z0-9._-]+$"
"""What is a name to MLflow, ZenML and every file system."""


class Settings(BaseModel):
    """Base of sections, manifests and reports: frozen, strict about keys, documented by strings under the fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, serialize_by_alias=True
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
