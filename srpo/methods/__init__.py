"""Methods side by side: one file each, for every model and reward."""

from collections.abc import Sequence

from srpo.config import RunConfig
from srpo.criteria import Criterion
from srpo.methods.base import Autocast, Method
from srpo.methods.direct_align import DirectAlign
from srpo.methods.draft_lv import DraftLv
from srpo.methods.refl import Refl
from srpo.methods.srpo import Srpo
from srpo.models import TextToImage

METHODS: dict[str, type[Method]] = {
    "srpo": Srpo,
    "direct_align": DirectAlign,
    "refl": Refl,
    "draft_lv": DraftLv,
}
"""`method.name` -> its class."""


def make_method(config: RunConfig, model: TextToImage, criteria: Sequence[Criterion], autocast: Autocast) -> Method:
    """The run's method."""
    return METHODS[config.method.name](config, model, criteria, autocast)
