"""Rewards beside the first one: how much each counts, and what it is asked."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from srpo.config.method import PreferenceConfig
from srpo.config.world import RewardConfig

WORDS = ("preset", "positive", "negative")
OF_THE_RUN = ("words_file", "prefix")


class AddedReward(RewardConfig):
    """A reward that is trained on beside the run's first one."""

    weight: float = Field(default=1.0, gt=0)
    """How much it counts; the first reward counts 1."""
    scale: float | None = Field(default=None, gt=0)
    """Factor that brings its scores to the first reward's scale. null: measured on the base model's held-out images
    before the first update, as the ratio of standard deviations (first : this) of what the method trains on, the
    relative preference or the plain reward; so one deviation weighs the same in each, and margins have one unit."""
    preference: PreferenceConfig = PreferenceConfig()
    """Control words, k, margin, discount and anchor of its own; what is left out is the run's."""


AddedRewards = dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], AddedReward]
"""Added rewards by name."""


def with_own_preferences(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings in which every added reward's preference says what it left out."""
    try:
        shared = PreferenceConfig.model_validate(run.get("preference", {})).model_dump()
    except ValidationError:
        return dict(run)  # it is said where it stands
    return {**run, "rewards": {name: _resolved(shared, added) for name, added in run["rewards"].items()}}


def _resolved(shared: Mapping[str, Any], added: Any) -> Any:
    """An added reward's settings with a whole preference; what is no mapping is left to be refused."""
    data = added.model_dump(exclude_unset=True) if isinstance(added, BaseModel) else added
    own = data.get("preference", {}) if isinstance(data, Mapping) else None
    return {**data, "preference": own_preference(shared, own)} if isinstance(own, Mapping) else added


def own_preference(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An added reward's settings before those it shares with the run; ValueError for one that only a run has."""
    if alien := [name for name in OF_THE_RUN if own.get(name) not in (None, shared[name])]:
        raise ValueError(f"{', '.join(alien)} can only be given in the run's own preference")
    replaced = {"preset"} | (set(WORDS) if own.get("preset") else set())
    if any(name in own for name in WORDS):
        replaced.add("words_file")
    return {name: value for name, value in shared.items() if name not in replaced} | dict(own)
