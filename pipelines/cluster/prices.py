"""What GPU-hours cost: `infra/prices.yaml`, which its user edits."""

from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pipelines.place import CODE
from srpo.errors import ConfigError
from srpo.strict import Strict

PRICES = CODE / "infra" / "prices.yaml"


class Price(Strict):
    """USD for one GPU for one hour."""

    on_demand: float = Field(gt=0)
    spot: float | None = Field(default=None, gt=0)


def find_price(gpu: str, spot: bool, path: Path = PRICES) -> float | None:
    """USD per GPU-hour; None where the file has no such price. Raises ConfigError."""
    found = read_prices(path).get(gpu)
    if found is None:
        return None
    return found.spot if spot else found.on_demand


def read_prices(path: Path = PRICES) -> dict[str, Price]:
    """Kind of GPU -> its prices. Raises ConfigError."""
    try:
        return TypeAdapter(dict[str, Price]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path} cannot be read as a list of prices: {error}") from None
