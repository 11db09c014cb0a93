"""GPUs as a plan knows them: usable memory, peak speed (dense bf16, from the makers' data sheets)."""

from typing import NamedTuple

from srpo.errors import ConfigError


class Gpu(NamedTuple):
    """One device."""

    memory: float
    """GiB that a program can use."""
    peak: float
    """TFLOP/s in bf16 with fp32 accumulation, dense."""


GPUS = {
    "3090": Gpu(23.6, 71),
    "4090": Gpu(23.6, 165),
    "5090": Gpu(31.3, 209),
    "L40S": Gpu(44.5, 362),
    "A100-40": Gpu(39.4, 312),
    "A100-80": Gpu(79.2, 312),
    "H100": Gpu(79.2, 989),
    "H20": Gpu(95.6, 148),
    "H200": Gpu(139.8, 989),
    "B200": Gpu(178.4, 2250),
}

REACHABLE = 0.8
"""Share of the peak that large matrix products reach: the floor of any implementation."""
EXPECTED = 0.35
"""Share that diffusion training usually reaches without compilation (published runs: 12 to 37 %)."""
ALLOCATOR = 1.08
"""What an allocator loses to fragments, over the bytes in use."""


def find_gpu(name: str) -> Gpu:
    """A GPU by name; ConfigError lists the names."""
    if name not in GPUS:
        raise ConfigError(f"--gpu {name}: not in the list; choose from {', '.join(GPUS)}")
    return GPUS[name]
