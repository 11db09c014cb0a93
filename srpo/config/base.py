"""What every section of a run file is made of."""

from pydantic import BaseModel, ConfigDict

Range = tuple[float, float]


class Settings(BaseModel):
    """Base of every section: frozen, strict about keys, documented by the strings under the fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, serialize_by_alias=True
    )
