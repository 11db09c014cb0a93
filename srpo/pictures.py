"""Pictures as files: each PNG says how it was made, work is shared out over processes, and a stopped run goes on.

A picture is written whole or not at all, and only where none is yet. Picture i depends on its prompt, seed + i and the
settings alone, so the number of processes changes no pixel.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from srpo.devices import check_device, count_processes
from srpo.errors import ConfigError
from srpo.files import atomic_file, has_content
from srpo.generate import ModelFiles, to_picture
from srpo.workers import share_out

SHEET = "contact-sheet.jpg"
SHEET_SIDE = 256  # pixels of a picture's longer side on the sheet
SHEET_PICTURES = 256  # a sheet of 4096 x 4096 pixels

Facts = dict[str, str]
"""Text fields of a PNG."""
SPELLING = {"source"}
"""Facts that may be written otherwise for the same picture: the base is known by its content."""
Task = tuple[str, int, Facts, Path]
"""(prompt, seed, facts, path)."""


def write_pictures(
    files: ModelFiles, prompts: Sequence[str], folder: Path, num_processes: int | None = None, overwrite: bool = False
) -> Iterator[Path]:
    """One PNG per prompt, named by number, and a contact sheet of some of them; yields each path as it is there.

    What is there already is kept if its fields are those it would get now, else ConfigError before anything is loaded
    (`overwrite` draws all anew). `num_processes`: one per GPU, one on a CPU, if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = _tasks(files, prompts, folder)
    kept: list[Task] = []
    missing: list[Task] = []
    for task in tasks:
        (missing if overwrite or not _is_there(task) else kept).append(task)
    yield from (task[-1] for task in kept)
    yield from _draw_all(files, missing, count_processes(num_processes))
    _write_sheet([task[-1] for task in tasks], folder / SHEET)


def check_folder(folder: Path) -> None:
    """ConfigError where no folder can be made because a file is in its place."""
    places = (folder.absolute(), *folder.absolute().parents)
    if not (found := next(place for place in places if place.exists())).is_dir():
        raise ConfigError(f"--out {folder}: {found} is no folder; give another --out")


def facts_of(files: ModelFiles, prompt: str, seed: int) -> Facts:
    """Everything that decides a picture's pixels, and where its base comes from."""
    made = files.model.model_dump(include={"source", "height", "width", "max_sequence_length", "weights"})
    made |= files.sampling.model_dump(exclude={"seed"})
    made |= files.model_dump(include={"base_sha256", "transformer_sha256"})
    made |= {"model": files.reference, "prompt": prompt, "seed": seed}
    return {key: str(value) for key, value in made.items()}


def save_png(picture: Image.Image, facts: Mapping[str, str], path: Path) -> None:
    """Write a PNG with its text fields, so that nobody ever sees half of it."""
    text = PngInfo()
    for key, value in facts.items():
        text.add_text(key, value)  # becomes iTXt where Latin-1 is not enough
    with atomic_file(path, flush=False) as staging:
        picture.save(staging, format="PNG", pnginfo=text)


def _tasks(files: ModelFiles, prompts: Sequence[str], folder: Path) -> list[Task]:
    seeds = [files.sampling.seed + index for index in range(len(prompts))]
    return [
        (prompt, seed, facts_of(files, prompt, seed), folder / f"{index:04d}.png")
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]


def _is_there(task: Task) -> bool:
    """Whether the picture is on disk, with all its facts: some of before had fewer; ConfigError if another one is."""
    *_, facts, path = task
    if not has_content(path):  # a machine without power leaves empty files
        return False
    facts = {name: text for name, text in facts.items() if name not in SPELLING}
    with Image.open(path) as picture:
        found = {name: text for name, text in getattr(picture, "text", {}).items() if name in facts}
    if other := [name for name in found or facts if found.get(name) != facts[name]]:
        raise ConfigError(
            f"{path} is another picture: its {other[0]} is {found.get(other[0])!r}, not {facts[other[0]]!r}; "
            "give another --out, or --overwrite"
        )
    return found == facts


def _draw_all(files: ModelFiles, tasks: list[Task], num_processes: int) -> Iterator[Path]:
    """Draw here, or in processes of their own with every n-th task each."""
    shares = [tasks[rank::num_processes] for rank in range(min(num_processes, len(tasks)))]
    if shares:
        check_device()
    yield from share_out(partial(_draw, files), shares)


def _draw(files: ModelFiles, tasks: list[Task], device: torch.device) -> Iterator[Path]:
    images = files.painter(str(device)).draw([(prompt, seed) for prompt, seed, *_ in tasks], files.sampling)
    for image, (*_, facts, path) in zip(images, tasks, strict=True):
        save_png(to_picture(image), facts, path)
        yield path


def _write_sheet(paths: Sequence[Path], sheet: Path) -> None:
    """The pictures, or `SHEET_PICTURES` of them from first to last, in a grid that is about as wide as high."""
    count = min(len(paths), SHEET_PICTURES)
    paths = [paths[index * len(paths) // count] for index in range(count)]
    columns = math.ceil(math.sqrt(len(paths)))
    grid = Image.new("RGB", (columns * SHEET_SIDE, math.ceil(len(paths) / columns) * SHEET_SIDE))
    for index, path in enumerate(paths):
        with Image.open(path) as picture:
            scale = SHEET_SIDE / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            grid.paste(picture.resize(size), (index % columns * SHEET_SIDE, index // columns * SHEET_SIDE))
    with atomic_file(sheet, flush=False) as staging:
        grid.save(staging, format="JPEG")
