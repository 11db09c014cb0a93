"""Named control words, as data: what to write into a run file for a common wish.

`realism` is the reference recipe's list (arXiv:2509.06942). A word only works where the reward knows it, which
`run_pipeline.py words` measures.
"""

from typing import NamedTuple


class Preset(NamedTuple):
    """Wanted words, unwanted words, and what is best put in front of a prompt when the aligned model draws."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    prefix: str | None = None


PRESETS: dict[str, Preset] = {
    "realism": Preset(
        ("Natural-lighting", "Detail", "Detailed", "Real"), ("Concept art", "Painting", "Anime", "Flat", "Oil")
    ),
    "bright": Preset(("Bright",), ("Dark",)),
    "dark": Preset(("Dark",), ("Bright",)),
    "vivid": Preset(("Vivid", "Colorful"), ("Pale", "Dull")),
    "painting": Preset(("Painting", "Oil painting"), ("Photo", "Realistic"), prefix="Painting"),
    "comic": Preset(("Comic", "Comic book"), ("Photo", "Realistic"), prefix="Comic"),
    "anime": Preset(("Anime",), ("Photo", "Realistic"), prefix="Anime"),
    "sketch": Preset(("Sketch", "Pencil drawing"), ("Photo", "Realistic"), prefix="Sketch"),
}
"""Name of `preference.preset` -> its words."""
