"""What everything is made of that is kept as JSON or YAML: manifests, reports, votes, sections of a run file."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen, strict about keys, documented by strings under the fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, serialize_by_alias=True
    )
