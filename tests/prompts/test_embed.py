"""Embeddings are the encoder's, made once per text; a kill, several processes and 50,000 prompts change nothing."""

import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from srpo.artifacts import PromptSet, PromptSets, Weights
from srpo.config import LoraConfig, ModelConfig, PromptsConfig, RunConfig, TrainConfig, WeightsFormat
from srpo.errors import GpuMemoryError
from srpo.forecast.footprint import disk_needed
from srpo.hub import fetch
from srpo.models import load_text_encoder
from srpo.prompts import embed_prompts, load_categories, load_prompt_set
from srpo.shapes import WEIGHTS_DIR
from tests.prompts import embed_file
from tests.prompts.embed_file import LENGTH

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "green", "blue", "yellow", "purple")


def lines(count: int) -> list[str]:
    """Short prompts, all different."""
    return [f"a {COLOURS[i % 5]} {i // 5} ring" for i in range(count)]


def write(folder: Path, train: list[str], **settings: object) -> PromptsConfig:
    """Prompt files of some training prompts and seven others."""
    folder.mkdir(exist_ok=True)
    (folder / "train.txt").write_text("\n".join(train))
    (folder / "held_out.txt").write_text("something else\nand more\nand less\na cat\na dog\na fox\na hen")
    files = {"train": str(folder / "train.txt"), "held_out": str(folder / "held_out.txt")}
    return PromptsConfig.model_validate(files | settings)


def embed(flux: Path, prompts: PromptsConfig, output_dir: Path, kept: WeightsFormat = "fp32") -> PromptSets:
    model = ModelConfig(source=str(flux), height=32, width=32, max_sequence_length=LENGTH, weights=kept)
    weights = fetch(str(flux), "model")
    return embed_prompts(model, prompts, Weights(model=weights, reward=weights), output_dir)


def read_all(prompt_set: PromptSet) -> dict[str, torch.Tensor]:
    texts, embeddings = load_prompt_set(prompt_set)
    return embeddings.select(range(len(texts)))


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Name of each shard -> what changes when it is written again."""
    found = [(path.name, path.stat()) for path in folder.glob("*/*.safetensors")]
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}


def assert_same(first: PromptSet, second: PromptSet) -> None:
    expected, got = read_all(first), read_all(second)
    assert expected.keys() == got.keys()
    assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())


def test_embeddings_are_the_encoders_in_the_order_of_the_file(flux_folder: Path, tmp_path: Path) -> None:
    texts = [f"prompt number {i}, with words the world has never seen" for i in range(200)]
    sets = embed(flux_folder, write(tmp_path, texts), tmp_path / "embeddings")
    assert (sets.train.num_prompts, sets.held_out.num_prompts) == (200, 7)
    read, embeddings = load_prompt_set(sets.train)
    assert read == texts
    encoder = load_text_encoder(ModelConfig(), flux_folder)
    for row in (0, 33, 199):
        alone = encoder.encode_prompts([texts[row]], LENGTH)
        for name, tensor in embeddings.select([row]).items():
            torch.testing.assert_close(tensor, alone[name])


def test_a_text_is_encoded_once_whatever_file_it_comes_in(flux_folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "embeddings"
    first = embed(flux_folder, write(tmp_path / "a", lines(150)), store)
    before = shards(store)
    reordered = ["one more ring", *reversed(lines(150))]
    second = embed(flux_folder, write(tmp_path / "b", reordered), store)
    assert before.items() < shards(store).items() and len(shards(store)) == len(before) + 1
    assert_same(first.held_out, second.held_out)
    expected, got = read_all(first.train), read_all(second.train)
    for name, tensor in expected.items():
        assert torch.equal(tensor.flip(0), got[name][1:])


def test_another_encoder_another_store(flux_folder: Path, tmp_path: Path) -> None:
    own = embed(flux_folder, write(tmp_path, lines(3)), tmp_path / "embeddings").train.snapshot.path
    trained = embed(WEIGHTS_DIR / "flux", write(tmp_path, lines(3)), tmp_path / "embeddings").train.snapshot.path
    assert own != trained and own.parent == trained.parent


def test_a_model_that_is_not_kept_in_float32_is_encoded_for_in_bf16(flux_folder: Path, tmp_path: Path) -> None:
    """By an encoder of half the size; what it makes is apart from what the exact one makes."""
    prompts = write(tmp_path, lines(3))
    exact, half, quarter = (embed(flux_folder, prompts, tmp_path, kept).train for kept in ("fp32", "bf16", "nf4"))
    assert half == quarter
    assert half.snapshot.path != exact.snapshot.path
    values = sum(tensor[0].numel() for tensor in read_all(exact).values())
    assert exact.bytes_per_prompt - half.bytes_per_prompt == pytest.approx(2 * values, rel=0.01)
    wanted, got = read_all(exact), read_all(half)
    for name, tensor in got.items():
        assert torch.equal(tensor, tensor.bfloat16().float()) and not torch.equal(tensor, wanted[name])
        torch.testing.assert_close(tensor, wanted[name], rtol=0.05, atol=0.05)


def test_bf16_is_half_as_large_and_rounded_to_eight_bits(flux_folder: Path, tmp_path: Path) -> None:
    exact = embed(flux_folder, write(tmp_path, lines(128)), tmp_path / "embeddings").train
    lossy = embed(flux_folder, write(tmp_path, lines(128), dtype="bf16"), tmp_path / "embeddings").train
    expected, got = read_all(exact), read_all(lossy)
    for name, tensor in expected.items():
        assert got[name].dtype == torch.float32
        assert torch.equal(got[name], tensor.bfloat16().float()) and not torch.equal(got[name], tensor)
    values = sum(tensor[0].numel() for tensor in expected.values())
    assert exact.bytes_per_prompt - lossy.bytes_per_prompt == pytest.approx(2 * values, abs=2)


def test_categories_stay_with_their_prompts(flux_folder: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path, lines(2))
    things = ["a cat", "a door", "a dog", "a fox", "a hen", "a cow", "an owl"]
    kinds = ["animals", "", *["animals"] * 5]
    rows = "".join(f"{kind},{thing}\n" for kind, thing in zip(kinds, things, strict=True))
    (tmp_path / "held_out.csv").write_text(f"category,prompt\n{rows}")
    sets = embed(flux_folder, prompts.model_copy(update={"held_out": str(tmp_path / "held_out.csv")}), tmp_path)
    assert load_prompt_set(sets.held_out)[0] == things
    assert load_categories(sets.held_out) == kinds
    assert load_categories(sets.train) == ["", ""]


def test_padding_of_t5_depends_on_the_text_and_is_all_stored() -> None:
    """Why no trailing token of FLUX's embeddings is stored once: even the last ones of short prompts differ."""
    encoder = load_text_encoder(ModelConfig(), WEIGHTS_DIR / "flux")
    cat, dog = encoder.encode_prompts(["a red ring", "a green cross on a blue background"], 64)["prompt_embeds"]
    assert not (cat == dog).all(dim=-1).any(), "no token has the same embedding in both"
    assert not torch.equal(cat[-1], cat[-2]), "nor have two padding tokens of one prompt"


def test_several_processes_make_the_same_files(flux_folder: Path, tmp_path: Path) -> None:
    texts = lines(300)
    one = embed(flux_folder, write(tmp_path, texts), tmp_path / "one")
    two = embed(flux_folder, write(tmp_path, texts, num_processes=2), tmp_path / "two")
    assert shards(tmp_path / "one").keys() == shards(tmp_path / "two").keys()
    assert one.train.snapshot.sha256 == two.train.snapshot.sha256


def test_a_gpu_that_is_too_small_is_told_with_what_spares_memory(
    flux_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("srpo.prompts.encode.load_text_encoder", fill)
    with pytest.raises(GpuMemoryError, match=r"\(CUDA out of memory\); set model.weights to bf16"):
        embed(flux_folder, write(tmp_path, lines(1)), tmp_path / "store")


def test_the_plan_knows_the_size(flux_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("prompt,category\n" + "\n".join(f"{line},rings" for line in lines(500)))
    for weights, dtype in (("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "fp32")):
        prompts = write(tmp_path, lines(1), dtype=dtype)
        prompts = prompts.model_copy(update={"train": str(tmp_path / "train.csv")})
        embed(flux_folder, prompts, folder := tmp_path / f"{weights}-{dtype}", weights)
        written = sum(path.stat().st_size for path in folder.rglob("*"))
        model = ModelConfig(source=str(flux_folder), max_sequence_length=LENGTH, weights=weights)
        config = RunConfig(model=model, prompts=prompts, train=TrainConfig(lora=LoraConfig()))
        needed = disk_needed(config, ("embed",))
        assert written <= needed <= 1.15 * written


def start(prompts: PromptsConfig, output_dir: Path, num_processes: int = 1, reads: int = 0) -> subprocess.Popen[str]:
    """Embed in a process of its own, with the trained Shapes encoders."""
    files = [str(WEIGHTS_DIR / "flux"), prompts.train, prompts.held_out, str(output_dir)]
    command = [sys.executable, "-m", embed_file.__name__, *files, str(num_processes), str(reads)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Peak memory in MiB, bytes per prompt."""
    output, _ = process.communicate(timeout=600)
    numbers = re.fullmatch(r"peak (\d+) MiB, (\d+) bytes per prompt\n", output)
    assert process.returncode == 0 and numbers, output
    return int(numbers[1]), int(numbers[2])


def kill_after(process: subprocess.Popen[str], output_dir: Path, count: int) -> dict[str, tuple[int, int]]:
    """Kill it, its own processes too, as soon as there are so many shards; those that are left."""
    while len(shards(output_dir)) < count:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    helpers = psutil.Process(process.pid).children(recursive=True)
    for each in (process, *helpers):
        each.kill()
    process.communicate()
    _, alive = psutil.wait_procs(helpers, timeout=20)
    assert not alive
    return shards(output_dir)


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_kill_leaves_is_not_encoded_again(tmp_path: Path, num_processes: int) -> None:
    texts = lines(1500)
    prompts = write(tmp_path, texts)
    left = kill_after(start(prompts, tmp_path / "killed", num_processes), tmp_path / "killed", 3)
    assert 3 <= len(left) < len(texts) // 128, "it was killed before the end"
    resumed = embed(WEIGHTS_DIR / "flux", prompts, tmp_path / "killed")
    assert left.items() < shards(tmp_path / "killed").items(), "whole shards stay as they are"
    whole = embed(WEIGHTS_DIR / "flux", prompts, tmp_path / "whole")
    assert resumed.train.snapshot.files == whole.train.snapshot.files


@pytest.mark.slow
def test_sigterm_ends_all_processes(tmp_path: Path) -> None:
    """The command alone hears of it."""
    process = start(write(tmp_path, lines(6000)), tmp_path / "store", 2)
    while not shards(tmp_path / "store"):
        assert process.poll() is None, "it ended before it could be told"
        time.sleep(0.005)
    helpers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.communicate()
    assert not psutil.wait_procs(helpers, timeout=20)[1]
    assert len(shards(tmp_path / "store")) < 6000 // 128


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_prompts(tmp_path: Path) -> None:
    """Embedding and reading 50,000 prompts (0.4 GB of embeddings), killed once on the way, against 5,000."""
    small, _ = finish(start(write(tmp_path / "a", lines(5_000)), tmp_path / "small", reads=1000))
    prompts = write(tmp_path / "b", lines(50_000))
    left = kill_after(start(prompts, tmp_path / "large"), tmp_path / "large", 200)
    large, bytes_per_prompt = finish(start(prompts, tmp_path / "large", reads=1000))
    assert left.items() < shards(tmp_path / "large").items()
    assert len(shards(tmp_path / "large")) == 392  # 391 of training prompts, one of held-out ones
    embeddings = 45_000 * bytes_per_prompt / 2**20
    assert large - small < 0.2 * embeddings, "texts and their places are in memory, embeddings are not"
