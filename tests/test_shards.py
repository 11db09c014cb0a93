"""What is written is read back to the bit, whatever is stored once; half a shard is no shard."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from srpo.shards import StoredRows, encoded_rows, key_of, sole_writer, write_shard

KEYS = [key_of(text) for text in ("a cat", "a dog", "a fox")]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def stored(folder: Path, tokens: Tensor) -> tuple[dict[str, list[int]], Tensor]:
    """Shapes in the file, and what comes back of three prompts in another order."""
    write_shard(folder, KEYS, {"tokens": tokens, "pooled": noise(3, 4)})
    (path,) = folder.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    read = StoredRows(folder, [path.name], [0, 0, 0], [0, 1, 2]).select([2, 0, 1, 2])
    assert torch.equal(read["pooled"], noise(3, 4)[[2, 0, 1, 2]])
    return shapes, read["tokens"]


def test_padding_that_is_the_same_everywhere_is_stored_once(tmp_path: Path) -> None:
    tokens = noise(3, 6, 4)
    tokens[:, 4:] = torch.tensor([1.0, 0.0, -2.0, 3.0])
    shapes, read = stored(tmp_path, tokens)
    assert shapes == {"tokens": [3, 4, 4], "tokens.tail": [2, 4], "pooled": [3, 4]}
    assert torch.equal(read, tokens[[2, 0, 1, 2]])


def test_equal_values_of_other_bits_are_not_the_same(tmp_path: Path) -> None:
    tokens = torch.zeros(3, 2, 4)
    tokens[1, 1, 3] = -0.0
    shapes, read = stored(tmp_path, tokens)
    assert shapes["tokens"] == [3, 2, 4]
    assert torch.equal(read.view(torch.int32), tokens[[2, 0, 1, 2]].view(torch.int32))


def test_prompts_that_are_all_the_same_to_the_encoder(tmp_path: Path) -> None:
    tokens = noise(1, 5, 4).expand(3, -1, -1)
    shapes, read = stored(tmp_path, tokens)
    assert shapes["tokens"] == [3, 0, 4]
    assert torch.equal(read, tokens[[2, 0, 1, 2]])


def test_integers_stay_integers(tmp_path: Path) -> None:
    write_shard(tmp_path, KEYS, {"mask": torch.tensor([[1, 0], [1, 1], [0, 0]])})
    (path,) = tmp_path.glob("*.safetensors")
    read = StoredRows(tmp_path, [path.name], [0, 0, 0], [0, 1, 2]).select([1, 0])["mask"]
    assert read.tolist() == [[1, 1], [1, 0]] and read.dtype == torch.int64


def test_what_is_read_lies_on_the_device_asked_for(tmp_path: Path) -> None:
    write_shard(tmp_path, KEYS, {"pooled": noise(3, 4)})
    (path,) = tmp_path.glob("*.safetensors")
    rows = StoredRows(tmp_path, [path.name], [0, 0, 0], [0, 1, 2])
    assert rows.select([1])["pooled"].device.type == "cpu"
    assert rows.select([1], torch.device("meta"))["pooled"].is_meta


def test_the_folder_says_what_is_encoded_and_half_a_shard_does_not_count(tmp_path: Path) -> None:
    write_shard(tmp_path, KEYS[:2], {"pooled": noise(2, 4)})
    (path,) = tmp_path.glob("*.safetensors")
    assert encoded_rows(tmp_path) == {key_of("a cat"): (path.name, 0), key_of("a dog"): (path.name, 1)}
    half = path.with_name(".other.safetensors.1-2.partial")
    half.write_bytes(path.read_bytes()[:50])
    assert len(encoded_rows(tmp_path)) == 2
    with sole_writer(tmp_path):
        assert not half.exists() and path.exists()
