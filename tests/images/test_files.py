"""Images come upright, on white, with their captions; everything that is wrong with a source is said at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srpo.errors import ConfigError
from srpo.images.buckets import make_buckets
from srpo.images.files import Picture, Rules, read_pictures

RULES = Rules(make_buckets(32, 32, [(1, 1), (4, 3)], 8), max_upscale=1, max_characters=100)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, 0 * red], axis=-1).astype(np.uint8))


def save(folder: Path, name: str, picture: Image.Image, caption: str | None = "a field", **options: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def read(source: Path) -> list[Picture]:
    return read_pictures(source, RULES)


def test_a_folder_a_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    captions = {"a.png": "a field, at noon", "deep/b.jpg": "ein grünes Feld", "deep/c.webp": "a field"}
    for name, caption in captions.items():
        save(tmp_path, name, gradient(40, 24), f"\ufeff {caption}\n")
    (tmp_path / "notes.md").write_text("not an image")
    (tmp_path / "rows.csv").write_text(
        "caption,path,by\n" + "".join(f'"{caption}",{name},me\n' for name, caption in captions.items()),
        encoding="utf-8",
    )
    lines = (json.dumps({"path": name, "caption": caption}) for name, caption in captions.items())
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    folder = read(tmp_path)
    assert folder == read(tmp_path / "rows.csv") == read(tmp_path / "rows.jsonl")
    assert [(picture.path, picture.caption) for picture in folder] == [
        (tmp_path / name, caption) for name, caption in captions.items()
    ]
    assert {picture.bucket for picture in folder} == {(24, 40)}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    """Pillow's names say how a stored picture becomes upright; here each is undone before it is stored."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = gradient(40, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    save(tmp_path, "a.png", stored, exif=exif)
    (picture,) = read(tmp_path)
    assert picture.bucket == (24, 40)
    assert picture.open().tobytes() == upright.tobytes()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 16, 32))
    clear.paste((0, 0, 0, 128), (16, 0, 32, 16))
    save(tmp_path, "a.png", clear)
    save(tmp_path, "b.png", Image.new("RGBA", (32, 32), (9, 9, 9, 255)))
    save(tmp_path, "c.png", clear.convert("RGB").quantize(4), transparency=0)
    first, opaque, palette = read(tmp_path)
    assert (first.transparent, opaque.transparent, palette.transparent) == (True, False, True)
    shown = first.open()
    assert shown.mode == "RGB"
    assert [shown.getpixel(place) for place in ((3, 3), (20, 20), (20, 3))] == [
        *((0, 0, 255), (255, 255, 255), (127, 127, 127))
    ]
    assert opaque.open().getpixel((0, 0)) == (9, 9, 9)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    save(tmp_path, "a.tif" if mode == "CMYK" else "a.png", Image.new("RGB", (32, 32), "white").convert(mode))
    (picture,) = read(tmp_path)
    assert picture.open().getcolors() == [(32 * 32, (255, 255, 255))]


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    good = gradient(32, 32)
    save(tmp_path, "good.png", good)
    save(tmp_path, "animated.gif", good, save_all=True, append_images=[gradient(32, 32).rotate(90)])
    save(tmp_path, "bare.png", good, None)
    save(tmp_path, "blank.png", good, " \n")
    save(tmp_path, "latin.png", good)
    (tmp_path / "latin.txt").write_bytes(b"gr\xfcn")
    save(tmp_path, "odd.png", good, None)
    (tmp_path / "odd.txt").mkdir()
    save(tmp_path, "long.png", good, "x" * 101)
    save(tmp_path, "small.png", gradient(32, 16))
    save(tmp_path, "deep.png", Image.fromarray(np.full((32, 32), 40_000, dtype=np.uint16)))
    whole = save(tmp_path, "cut.jpg", gradient(320, 320)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "both.heic").write_text("no picture")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"images.source: 11 of 12 images in {tmp_path} cannot be used:"
    said = dict(line.strip().split(": ", 1) for line in lines)
    expected = {
        "animated.gif": "has 2 frames, but a still image is needed",
        "bare.png": "no caption; write one into bare.txt beside it",
        "blank.png": "the caption is empty",
        "both.heic": "no caption; write one into both.txt beside it; cannot be read (cannot identify",
        "cut.jpg": "cannot be read (image file is truncated",
        "deep.png": "cannot be shown in RGB (its mode is I;16); save it with 8 bits a channel",
        "latin.png": "latin.txt is not UTF-8 text",
        "odd.png": "odd.txt cannot be read (Is a directory)",
        "long.png": "101 characters, more than prompts.max_characters (100)",
        "small.png": "32x16 would be enlarged 1.50 times to cover 40x24, more than images.max_upscale (1)",
        "text.png": "no caption; write one into text.txt beside it; cannot be read (cannot identify",
    }
    assert said.keys() == expected.keys()
    assert all(said[name].startswith(message) for name, message in expected.items()), said


def test_a_table_says_which_line_is_wrong(tmp_path: Path) -> None:
    save(tmp_path, "a.png", gradient(32, 32))
    (tmp_path / "rows.jsonl").write_text(
        '{"path": "a.png", "caption": "a field"}\n{"path": "b.png", "caption": "a wood"}\n{"path": "a.png"}\n{"path"\n'
    )
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "rows.jsonl")
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "line 2, b.png: cannot be read (No such file or directory)",
        'line 3: no key "caption"',
        "line 4: not JSON (Expecting ':' delimiter)",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [("rows.csv", "no column `path`"), ("rows.parquet", "neither a folder nor one of .csv, .jsonl"), ("", "no image")],
)
def test_sources_without_images(tmp_path: Path, name: str, message: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if name:
        (source / name).write_text("caption\na field\n")
    with pytest.raises(ConfigError, match=message):
        read(source / name if name else source)


def test_small_images_may_be_enlarged(tmp_path: Path) -> None:
    save(tmp_path, "small.png", gradient(16, 16))
    (picture,) = read_pictures(tmp_path, Rules(RULES.buckets, max_upscale=2, max_characters=100))
    assert picture.bucket == (32, 32)
