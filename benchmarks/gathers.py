"""What two processes with a sliced model send each other in an update: `python benchmarks/gathers.py`.

Counts the bytes that FSDP2 hands to its collectives, on CPU, over updates of the embedded world; a ratio that does not
depend on the model's size, because every gather is of all weights and every reduction of all gradients.
"""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch.distributed
import torch.multiprocessing
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from srpo.artifacts import TrainJob
from srpo.config import load_config
from srpo.launch import prepare_job
from srpo.train import train

CONFIG = Path(__file__).parent.parent / "configs" / "shapes.yaml"
PROCESSES, UPDATES = 2, 2
SETTINGS = (
    *(f"train.num_processes={PROCESSES}", "train.sharding=fsdp2", f"train.num_updates={UPDATES}", "train.batch_size=2"),
    *("train.precision=bf16", f"train.save_every={UPDATES}", f"monitor.every={UPDATES}", "monitor.num_images=2"),
)
KINDS = {"all_gather_into_tensor": "gathered", "reduce_scatter_tensor": "reduced"}


def counted(sent: Counter[str], name: str) -> None:
    """Have a collective of torch's say how many bytes of whole tensors pass through it."""
    original = getattr(torch.distributed, name)

    def count(output: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        whole = output if name.startswith("all_gather") else options.get("input", arguments[0] if arguments else None)
        sent[KINDS[name]] += whole.nbytes
        sent[f"{KINDS[name]}, times"] += 1
        return original(output, *arguments, **options)

    def by_name(*arguments: Any, **options: Any) -> Any:
        output = options.pop("output_tensor", options.pop("output", None))
        return count(*([output] if output is not None else []), *arguments, **options)

    setattr(torch.distributed, name, by_name)


def work(rank: int, job_path: Path, port: int, out: Path) -> None:
    """One process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    sent: Counter[str] = Counter()
    for name in KINDS:
        counted(sent, name)
    job = TrainJob.load(job_path)
    train(job, Accelerator(cpu=True, mixed_precision="bf16"))
    if rank == 0:
        out.write_text(json.dumps(sent))


def measure(gather: str, folder: Path, port: int) -> dict[str, int]:
    """Bytes of a whole training with its two measurements."""
    job = prepare_job(load_config(CONFIG, (*SETTINGS, f"train.gather={gather}")), folder)
    torch.multiprocessing.spawn(work, (job, port, folder / "sent.json"), nprocs=PROCESSES)
    return dict(json.loads((folder / "sent.json").read_text()))


def main() -> None:
    """Both ways, and their ratio."""
    with tempfile.TemporaryDirectory() as temporary:
        ways = ("each_pass", "each_update")
        found = {way: measure(way, Path(temporary) / way, 29500 + place) for place, way in enumerate(ways)}
    table = Table("of one process", *ways, "ratio")
    for name in found["each_pass"]:
        before, after = (found[way][name] for way in ways)
        table.add_row(name, f"{before:,}", f"{after:,}", f"{before / after:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
