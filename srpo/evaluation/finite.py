"""Scores that are not finite numbers: no mean survives one.

Those of the judged model are a collapse. Another model with such scores is left out, unless all are compared with it.
"""

from dataclasses import dataclass, replace

import numpy as np

from srpo.errors import ConfigError
from srpo.evaluation.measure import Measured
from srpo.sample_size import MIN_PROMPTS


@dataclass(frozen=True)
class Finite:
    """What was measured, in finite numbers."""

    measured: Measured
    damage: list[str]
    """What was wrong with the judged model's scores, in words."""
    left_out: dict[str, str]
    """Label of a model that is not in it -> why, in words."""


def leave_out(measured: Measured, judged: str) -> Finite:
    """What was measured without the prompts of the judged model's scores that are not finite, and without such models.

    ConfigError if they are those of the first model, which the others stand against, or if they leave too few prompts
    for an interval.
    """
    first, *others = measured.scores
    places = {label: _places(measured, label) for label in measured.scores}
    if places[first].size and first != judged:
        raise ConfigError(f"{_describe(measured, first, places[first])}, so nothing can be compared with it")
    broken = [label for label in others if places[label].size and label != judged]
    left_out = {label: _describe(measured, label, places[label]) for label in broken}
    scores = {label: rows for label, rows in measured.scores.items() if label not in left_out}
    if judged not in places or not places[judged].size:
        return Finite(replace(measured, scores=scores), [], left_out)
    damage = _describe(measured, judged, places[judged])
    lost = {measured.design[place].prompt_index for place in places[judged]}
    kept = [place for place, cell in enumerate(measured.design) if cell.prompt_index not in lost]
    if len({measured.design[place].prompt_index for place in kept}) < MIN_PROMPTS:
        raise ConfigError(
            f"{damage}, which leaves fewer than {MIN_PROMPTS} prompts to compare on; the model has collapsed"
        )
    scores = {label: {name: row[kept] for name, row in rows.items()} for label, rows in scores.items()}
    design = [measured.design[place] for place in kept]
    finite = replace(measured, design=design, scores=scores)
    return Finite(finite, [f"{damage}; their prompts are left out here"], left_out)


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
