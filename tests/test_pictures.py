"""Pictures on disk: the same pixels however the work is spread, resumed, and honest about what they are."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from srpo import pictures
from srpo.artifacts import Snapshot
from srpo.config import ModelConfig, RunConfig
from srpo.errors import ConfigError
from srpo.generate import ModelFiles
from srpo.hub import snapshot
from srpo.pictures import SHEET, SHEET_SIDE, save_png, write_pictures
from srpo.reference import find_model

PROMPTS = ["a red circle", "a green ring: ünïcode", "a blue square"]


@pytest.fixture
def files(flux_folder: Path) -> ModelFiles:
    model = ModelConfig(source=str(flux_folder), height=32, width=32, max_sequence_length=12)
    found = find_model(str(flux_folder), RunConfig(model=model))
    sampling = found.sampling.model_copy(update={"seed": 3, "num_steps": 2})
    return found.model_copy(update={"sampling": sampling})


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_two_processes_draw_what_one_draws(files: ModelFiles, tmp_path: Path) -> None:
    one = sorted(write_pictures(files, PROMPTS, tmp_path / "one"))
    two = sorted(write_pictures(files, PROMPTS, tmp_path / "two", num_processes=2))
    assert [path.name for path in one] == [path.name for path in two] == ["0000.png", "0001.png", "0002.png"]
    assert all((pixels(first) == pixels(second)).all() for first, second in zip(one, two, strict=True))
    assert (tmp_path / "two" / SHEET).exists()


def test_a_process_that_is_killed_ends_the_drawing(files: ModelFiles, tmp_path: Path) -> None:
    """As the kernel does where memory runs out."""
    others = psutil.Process().children()  # of tests before this one, which may be about to end

    def kill() -> None:
        def is_at_work(process: psutil.Process) -> bool:
            return process not in others and process.memory_info().rss > 100 * 2**20  # it has loaded torch

        while not (workers := [process for process in psutil.Process().children() if is_at_work(process)]):
            time.sleep(0.05)
        workers[0].kill()

    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill)
        with pytest.raises(RuntimeError, match="one of the processes died"):
            list(write_pictures(files, PROMPTS, tmp_path, num_processes=2))
        killed.result()


def test_a_picture_says_what_made_it(files: ModelFiles, tmp_path: Path, flux_folder: Path) -> None:
    _, second, _ = sorted(write_pictures(files, PROMPTS, tmp_path))
    text = Image.open(second).text
    assert (text["prompt"], text["seed"], text["num_steps"]) == (PROMPTS[1], "4", "2")
    transformer: Snapshot = snapshot(flux_folder / "transformer", "x")
    assert text["transformer_sha256"] == transformer.sha256


def test_what_is_there_is_kept_and_what_is_missing_is_drawn(files: ModelFiles, tmp_path: Path) -> None:
    first, second, _ = sorted(write_pictures(files, PROMPTS, tmp_path))
    before, drawn = first.stat().st_mtime_ns, pixels(second)
    for lose in (Path.unlink, lambda path: path.write_bytes(b"")):
        lose(second)
        assert len(list(write_pictures(files, PROMPTS, tmp_path))) == 3
        assert first.stat().st_mtime_ns == before
        assert (pixels(second) == drawn).all()


def test_another_picture_in_its_place_is_refused_unless_overwritten(files: ModelFiles, tmp_path: Path) -> None:
    list(write_pictures(files, PROMPTS[:1], tmp_path))
    with pytest.raises(ConfigError, match="its prompt is 'a red circle', not 'a blue square'"):
        list(write_pictures(files, PROMPTS[2:], tmp_path))
    (path,) = write_pictures(files, PROMPTS[2:], tmp_path, overwrite=True)
    assert Image.open(path).text["prompt"] == "a blue square"


def test_a_picture_of_another_base_is_another_picture(files: ModelFiles, tmp_path: Path, flux_folder: Path) -> None:
    """The same transformer between other encoders, or the same adapter on another transformer."""
    lone, other = flux_folder / "transformer" / "diffusion_pytorch_model.safetensors", tmp_path / "flux"
    shutil.copytree(flux_folder, other)
    config = other / "vae" / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 0.4', '"scaling_factor": 0.5'))
    same = {"model": files.model, "sampling": files.sampling}
    first, second = (find_model(str(lone), base=str(base)).model_copy(update=same) for base in (flux_folder, other))
    list(write_pictures(first, PROMPTS[:1], tmp_path / "out"))
    with pytest.raises(ConfigError, match="its base_sha256 is"):
        list(write_pictures(second, PROMPTS[:1], tmp_path / "out"))


def test_a_base_whose_address_is_written_otherwise_is_the_same(
    files: ModelFiles, tmp_path: Path, flux_folder: Path
) -> None:
    spelt = files.model_copy(update={"model": files.model.model_copy(update={"source": f"{flux_folder}/"})})
    (path,) = write_pictures(files, PROMPTS[:1], tmp_path)
    before = path.stat().st_mtime_ns
    assert list(write_pictures(spelt, PROMPTS[:1], tmp_path)) == [path]
    assert path.stat().st_mtime_ns == before
    assert Image.open(path).text["source"] == str(flux_folder)


def test_a_run_file_sizes_a_folder_but_does_not_say_where_it_is_from(flux_folder: Path) -> None:
    assert find_model(str(flux_folder), RunConfig()).model.source == str(flux_folder)


def test_a_picture_that_says_less_is_drawn_anew_and_one_of_somebody_else_is_not(
    files: ModelFiles, tmp_path: Path
) -> None:
    (path,) = write_pictures(files, PROMPTS[:1], tmp_path)
    facts = dict(Image.open(path).text)
    del facts["base_sha256"]
    save_png(Image.new("RGB", (32, 32)), facts, path)
    list(write_pictures(files, PROMPTS[:1], tmp_path))
    assert "base_sha256" in Image.open(path).text
    save_png(Image.new("RGB", (32, 32)), {"software": "a camera"}, path)
    with pytest.raises(ConfigError, match="is another picture"):
        list(write_pictures(files, PROMPTS[:1], tmp_path))


@pytest.mark.parametrize(("number", "shown"), [(5, [0, 1, 2, 3]), (4, [0, 1, 2, 3]), (11, [0, 2, 5, 8])])
def test_the_contact_sheet_shows_some_of_many(
    number: int, shown: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of them: a grid of 2 x 2, row by row, each in a grey of its own."""
    monkeypatch.setattr(pictures, "SHEET_PICTURES", 4)
    paths = [tmp_path / f"{index:04d}.png" for index in range(number)]
    for index, path in enumerate(paths):
        Image.new("RGB", (8, 8), (20 * index,) * 3).save(path)
    pictures._write_sheet(paths, tmp_path / SHEET)
    sheet = Image.open(tmp_path / SHEET)
    assert sheet.size == (2 * SHEET_SIDE, 2 * SHEET_SIDE)
    centres = [(SHEET_SIDE // 2 + x * SHEET_SIDE, SHEET_SIDE // 2 + y * SHEET_SIDE) for y in (0, 1) for x in (0, 1)]
    assert [round(sheet.getpixel(centre)[0] / 20) for centre in centres] == shown


def test_a_guidance_that_a_model_would_ignore_is_refused(files: ModelFiles, tmp_path: Path, flux_folder: Path) -> None:
    """FLUX.1-schnell has no input for one, and unless a run file says otherwise is asked for none."""
    shutil.copytree(flux_folder, tmp_path / "flux")
    config = tmp_path / "flux" / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"guidance_embeds": true', '"guidance_embeds": false'))
    weights = config.with_name("diffusion_pytorch_model.safetensors")
    kept = {name: tensor for name, tensor in load_file(weights).items() if "guidance_embedder" not in name}
    save_file(kept, weights)
    assert find_model(str(tmp_path / "flux")).sampling.guidance is None
    schnell = files.model_copy(update={"base": tmp_path / "flux"})
    with pytest.raises(ConfigError, match="guidance: the model in .* takes no guidance; set it to null"):
        list(write_pictures(schnell, PROMPTS[:1], tmp_path / "out"))


def test_a_lone_transformer_file_draws_as_its_folder_does(files: ModelFiles, tmp_path: Path, flux_folder: Path) -> None:
    lone = find_model(str(flux_folder / "transformer" / "diffusion_pytorch_model.safetensors"), base=str(flux_folder))
    lone = lone.model_copy(update={"model": files.model, "sampling": files.sampling})
    (drawn,) = write_pictures(lone, PROMPTS[:1], tmp_path / "lone")
    (expected,) = write_pictures(files, PROMPTS[:1], tmp_path / "folder")
    assert (pixels(drawn) == pixels(expected)).all()


def test_a_file_of_another_architecture_is_refused(tmp_path: Path, flux_folder: Path) -> None:
    tensors = load_file(flux_folder / "transformer" / "diffusion_pytorch_model.safetensors")
    tensors["proj_out.bias"] = torch.zeros(1)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ConfigError, match="another shape in proj_out.bias"):
        find_model(str(tmp_path / "wrong.safetensors"), base=str(flux_folder))


def test_a_bare_folder_is_drawn_at_the_size_of_flux(flux_folder: Path) -> None:
    found = find_model(str(flux_folder))
    assert (found.model.height, found.model.width, found.model.max_sequence_length) == (1024, 1024, 512)
    assert (found.sampling.num_steps, found.sampling.guidance) == (50, 3.5)
    assert found.model.weights == "bf16", "as it is published"
    exact = RunConfig(model=ModelConfig(source=str(flux_folder)))
    assert find_model(str(flux_folder), exact).model.weights == "fp32"
