"""The embedded world: rendered pictures with captions, tiny trained models of real classes, measured attributes."""

from pathlib import Path

from srpo.shapes.render import HELD_OUT, SEEN, SIZE

WEIGHTS_DIR = Path(__file__).parent / "weights"
"""`flux/` (a FluxPipeline folder), `reward/` and `biased/` (HPSv2's layout), `oracle.safetensors`, `figures.json`."""
SAMPLING_STEPS = 10
"""Enough for this world's model: its figures are measured with so many."""
TEXT_TOKENS = 12
"""Tokens that the transformer was trained with: pass it as `max_sequence_length`."""

__all__ = [
    "HELD_OUT",
    "SAMPLING_STEPS",
    "SEEN",
    "SIZE",
    "TEXT_TOKENS",
    "WEIGHTS_DIR",
    "heldout_captions",
    "seen_captions",
]


def seen_captions() -> list[str]:
    """The 120 captions that the base model and the reward were trained with."""
    return [content.caption for content in SEEN]


def heldout_captions() -> list[str]:
    """The 30 captions that no training has seen."""
    return [content.caption for content in HELD_OUT]
