"""Whether there is anything new to train on since the champion, looked up before a run by reading its files."""

from pipelines import fingerprint
from srpo.config import RunConfig
from srpo.control_words import words_hash
from srpo.registry import CHALLENGER, CHAMPION, Version, holder
from srpo.strict import Strict


class Look(Strict):
    """What the champion was trained on, beside what there is now."""

    champion: str | None
    """`models:/name/version`; None if there is none yet."""
    changed: tuple[str, ...]
    """What is not as it was for the champion."""
    tried: str | None = None
    """The challenger, if it was trained on what there is now: the same again would end the same."""

    @property
    def anything(self) -> bool:
        """Whether a run has something to learn from: new data, or no champion yet."""
        return self.tried is None and (self.champion is None or bool(self.changed))

    def __str__(self) -> str:
        if self.tried:
            return f"nothing new: the challenger {self.tried} was trained on these prompts, images and control words"
        if self.champion is None:
            return "there is no champion yet"
        if self.changed:
            return f"changed since {self.champion} was trained: {', '.join(self.changed)}"
        return f"nothing new: prompts, images and control words are those that {self.champion} was trained on"


def look(config: RunConfig, uri: str) -> Look:
    """Compare a run's data with its champion's, and with its challenger's, in an MLflow store.

    Images count by size and time of change, prompts and words by content. A version whose data nobody wrote down (it
    was registered by an older release) counts as trained on something else.
    """
    now = {"prompts or images": fingerprint.of_data(config), "control words": words_hash(config)}
    champion, challenger = (holder(uri, config.registry.model_name, alias) for alias in (CHAMPION, CHALLENGER))
    changed = _changed(now, champion)
    tried = challenger if challenger and challenger != champion and not _changed(now, challenger) else None
    return Look(
        champion=champion and champion.uri,
        changed=changed if champion else (),
        tried=tried and tried.uri,
    )


def from_champion(config: RunConfig) -> RunConfig:
    """The run as a retraining: it starts from the champion, unless it says itself what it starts from."""
    if "start" in config.train.model_fields_set:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"start": CHAMPION})})


def _changed(now: dict[str, str], version: Version | None) -> tuple[str, ...]:
    then = {"prompts or images": version.data_hash, "control words": version.words_hash} if version else {}
    return tuple(name for name, state in now.items() if state != then.get(name))
