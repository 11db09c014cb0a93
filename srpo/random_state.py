"""The state of every random number generator of a process, as the content of a safetensors file."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Generator


def random_state(generator: Generator) -> bytes:
    """That of `generator`, torch, numpy, Python and this process's GPU, as it is now."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    tensors = {
        "draws": generator.get_state(),
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python": torch.tensor(internal, dtype=torch.int64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    scalars = {"numpy": [int(position), int(has_gauss), float(cached)], "python": [version, gauss]}
    return save(tensors, metadata={"scalars": json.dumps(scalars)})


def restore_random_state(path: Path, generator: Generator) -> None:
    """Put back what `random_state` has said, from the file that it was written to."""
    with safe_open(path, framework="pt") as file:
        scalars = json.loads(file.metadata()["scalars"])
    tensors = load_file(path)
    generator.set_state(tensors["draws"])
    torch.set_rng_state(tensors["torch"])
    position, has_gauss, cached = scalars["numpy"]
    np.random.set_state(("MT19937", tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    version, gauss = scalars["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    if torch.cuda.is_available() and "cuda" in tensors:  # what wrote it may have had none
        torch.cuda.set_rng_state(tensors["cuda"])
