"""Settings of offline training that cannot work are refused."""

import pytest

from srpo.config import RunConfig, parse_config
from srpo.errors import ConfigError
from srpo.tables import TABLES

IMAGES = {"source": "photos"}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "images.source: Field required"),
        ({"source": "hf://owner/photos"}, "is neither a path nor s3://bucket/prefix"),
        *(
            ({"source": f"s3://bucket/rows{ending}"}, "a table must lie beside its images")
            for ending in (*TABLES, ".TSV")
        ),
        (IMAGES | {"aspects": [[0, 3]]}, r"aspects \[\(0, 3\)\] must be pairs of positive sides"),
        (IMAGES | {"max_upscale": 0.5}, "images.max_upscale"),
        (IMAGES | {"until_update": 20}, r"until_update \(20\) leaves none of the 20 updates to roll out"),
    ],
)
def test_wrong_settings_are_named(images: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"images": images}, "run.yaml")


def test_how_many_updates_are_offline() -> None:
    configs = [RunConfig.model_validate({"images": images}) for images in (None, IMAGES, IMAGES | {"until_update": 5})]
    assert [config.num_offline_updates for config in configs] == [0, 20, 5]
    assert ["rollout.guidance" in config.guidance for config in configs] == [True, False, True]
