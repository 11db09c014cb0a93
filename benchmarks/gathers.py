"""Bytes that sharded training sends at FLUX.1-dev's size, counted without weights: `python -m benchmarks.gathers`.

The transformer is sliced as for training, over processes that are not there (torch's fake process group), and has
shapes but no storage; every collective of torch.distributed is counted with the bytes of its whole tensor. Three
micro-batches of two rollout steps run, forward with and without gradient and backward; what more of them send is what
the second has sent.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.counts import CONFIGS, FLUX_DEV
from srpo.config import RunConfig, load_config
from srpo.forecast.weightless import without_storage
from srpo.models import TextToImage, model_skeleton
from srpo.sharding import cut, defer_reduction
from srpo.tuning import save_memory

GATHER, REDUCE = "_allgather_base_", "_reduce_scatter_base_"
VARIANTS = {
    "fp32, for each pass": (None, False, False),
    "bf16, for each pass (`gather: each_pass`)": (torch.bfloat16, False, False),
    "bf16, once an update (`gather: each_update`)": (torch.bfloat16, True, False),
    "the same, and gradients once (`reduce: each_update`)": (torch.bfloat16, True, True),
}
"""Name -> the dtype that blocks are gathered in, whether they are kept until the update ends, whether gradients are."""


class Collectives(TorchDispatchMode):
    """Bytes of the whole tensors of each kind of collective inside the context."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; of a collective, note the larger side, which is the whole tensor."""
        if func.namespace == "c10d":
            sizes = [leaf.numel() * leaf.element_size() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            self.bytes[func._schema.name.removeprefix("c10d::")] += max(sizes)
        return func(*args, **(kwargs or {}))


def of_update(
    config: RunConfig, folder: Path, gathered: torch.dtype | None, keep: bool, reduce_once: bool, mesh: DeviceMesh
) -> Counter[str]:
    """Bytes of an update's collectives, as whole tensors; `folder`: config files of the model."""
    batches, steps = config.train.accumulation, config.rollout.num_steps
    total = Counter[str]()
    model = model_skeleton(config.model, folder)
    save_memory(model.transformer, model.vae, config.train)
    with without_storage([(model.transformer, torch.float32)]):
        cut(model.transformer, mesh, gathered, keep)
        turns = (1, True), (batches - 2, True), (1, False)  # the first of two or more, those between, the last
        for times, more in turns:
            defer_reduction(model.transformer, more=reduce_once and more)
            first, again, learnt = _drawn(config, model), _drawn(config, model), _learnt(config, model)
            total += _times(first + _times(again, steps - 1) + learnt, times)
    return total


def _times(sizes: Counter[str], factor: int) -> Counter[str]:
    return Counter({kind: size * factor for kind, size in sizes.items()})


def _drawn(config: RunConfig, model: TextToImage) -> Counter[str]:
    """Of a step of a rollout."""
    with Collectives() as collectives, torch.no_grad():
        _velocity(config, model, config.train.batch_size)
    return collectives.bytes


def _learnt(config: RunConfig, model: TextToImage) -> Counter[str]:
    """Of the pass with gradient, both branches in one batch, and of what goes backward from it."""
    with Collectives() as collectives:
        _velocity(config, model, config.train.batch_size * len(config.align.branches)).sum().backward()
    return collectives.bytes


def _velocity(config: RunConfig, model: TextToImage, batch: int) -> Tensor:
    noise = torch.empty(batch, *model.latent_shape(config.model.height, config.model.width))
    embeddings = model.blank_embeddings(batch, config.model.max_sequence_length)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return model.velocity(noise, torch.full((batch,), 0.5), embeddings, config.align.guidance).float()


def main(processes: Annotated[int, typer.Option(help="GPUs that the weights are sliced over.")] = 8) -> None:
    """Print the table."""
    config = load_config([CONFIGS / "flux_hpsv2.yaml", CONFIGS / "hardware" / "8x80gb.yaml"])
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    mesh, share = init_device_mesh("cpu", (processes,)), (processes - 1) / processes
    table = Table("weights are gathered in", "gathers", "reduce-scatters", "together")
    for name, (gathered, keep, once) in VARIANTS.items():
        sent = of_update(config, FLUX_DEV, gathered, keep, once, mesh)
        sizes = [sent[kind] * share / 1e9 for kind in (GATHER, REDUCE)]
        table.add_row(name, *(f"{size:.0f}" for size in (*sizes, sum(sizes))))
    torch.distributed.destroy_process_group()
    console = Console()
    console.print(table)
    console.print(f"GB that each of {processes} GPUs receives; an update has {config.train.accumulation} micro-batches")


if __name__ == "__main__":
    typer.run(main)
