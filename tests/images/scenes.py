"""Folders of rendered scenes with captions, as a user would bring photographs: `python -m tests.images.scenes OUT`."""

import sys
from pathlib import Path

import torch

from srpo.generate import to_picture
from srpo.shapes.render import SEEN, render


def write(folder: Path, count: int, style: str | None = None, seed: int = 0) -> list[tuple[Path, str]]:
    """`count` scenes with captions in text files beside them; their paths and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [SEEN[index % len(SEEN)] for index in range(count)]
    scenes = render(contents, [style] * count, torch.Generator().manual_seed(seed))
    written = []
    for index, (content, scene) in enumerate(zip(contents, scenes, strict=True)):
        path = folder / f"scene-{index:04d}.png"
        to_picture(scene).save(path)
        path.with_suffix(".txt").write_text(content.caption + "\n")
        written.append((path, content.caption))
    return written


if __name__ == "__main__":
    write(Path(sys.argv[1]), 480)
