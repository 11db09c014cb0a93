"""What is known of families before diffusers is imported is what diffusers says."""

import pytest
from diffusers.loaders import lora_base

from srpo.models import FAMILIES, find_family
from srpo.models.weights import ADAPTER, METADATA


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_known_by_its_pipeline(name: str) -> None:
    assert find_family(name).pipeline.__name__ == FAMILIES[name]


def test_adapters_are_found_where_diffusers_writes_them() -> None:
    assert (ADAPTER, METADATA) == (lora_base.LORA_WEIGHT_NAME_SAFE, lora_base.LORA_ADAPTER_METADATA_KEY)
