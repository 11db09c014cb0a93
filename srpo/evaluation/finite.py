"""Scores that are not finite numbers: no mean survives one. Those of the judged model are a collapse."""

from dataclasses import replace

import numpy as np

from srpo.errors import ConfigError
from srpo.evaluation.measure import Measured
from srpo.sample_size import MIN_PROMPTS


def leave_out(measured: Measured, judged: str) -> tuple[Measured, list[str]]:
    """What was measured without the prompts of scores that are not finite, and the damage that these are, in words.

    ConfigError if they are another's than the judged model's, or leave too few prompts for an interval.
    """
    places = {label: _places(measured, label) for label in measured.scores}
    for label in places:
        if places[label].size and label != judged:
            raise ConfigError(f"{_describe(measured, label, places[label])}, so nothing can be compared with it")
    if judged not in places or not places[judged].size:
        return measured, []
    damage = _describe(measured, judged, places[judged])
    lost = {measured.design[place].prompt_index for place in places[judged]}
    kept = [place for place, cell in enumerate(measured.design) if cell.prompt_index not in lost]
    if len({measured.design[place].prompt_index for place in kept}) < MIN_PROMPTS:
        raise ConfigError(
            f"{damage}, which leaves fewer than {MIN_PROMPTS} prompts to compare on; the model has collapsed"
        )
    scores = {label: {name: row[kept] for name, row in rows.items()} for label, rows in measured.scores.items()}
    design = [measured.design[place] for place in kept]
    return replace(measured, design=design, scores=scores), [f"{damage}; their prompts are left out here"]


def _places(measured: Measured, label: str) -> np.ndarray:
    """Places in the design where any score of a model is not finite."""
    return np.flatnonzero(~np.isfinite(list(measured.scores[label].values())).all(0))


def _describe(measured: Measured, label: str, places: np.ndarray) -> str:
    """Which metrics of how many images."""
    metrics = [name for name, row in measured.scores[label].items() if not np.isfinite(row).all()]
    first = measured.design[places[0]]
    return (
        f"{len(places)} of {len(measured.design)} images of {label} have scores that are not finite "
        f"({', '.join(metrics)}; the first: {first.prompt!r}, seed {first.seed})"
    )
