"""What an update takes on this GPU at FLUX.1-dev's full size: time, memory and utilisation, beside what was predicted.

    python -m benchmarks.gpu [--preset 24gb --preset 48gb --preset 141gb] [--no-compile] [--updates 3] [--out gpu.json]

Nothing is loaded: the weights of transformer, VAE and ViT-H/14 are random numbers made on the device in the shapes that
`flux_dev/` announces, and so are the embeddings. Online, x0 is rolled out; offline, it is there already (random).
Seconds are medians over updates after a first one, which also compiles and is reported apart. Without a GPU the same
code runs the Shapes model, its small form, and says so.

It needs torch 2.11 or newer with torchvision, and accelerate, diffusers, huggingface_hub, open_clip_torch, peft,
pydantic, PyYAML, rich, safetensors, transformers and typer; 24gb also bitsandbytes, 141gb torchao. A preset whose
package is missing, or that does not fit, says so and the others go on. 24gb is made from bf16 weights on the device,
which needs 26 GB before the measurement begins.
"""

import gc
import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.bench import FULL, SMALL, Bench, Size, build, config_of, memory, predict, update
from srpo.config import TrainConfig
from srpo.forecast.cost import Cost
from srpo.gpus import ALLOCATOR, GPUS, REACHABLE
from srpo.tuning import speed_up

PRESETS = ("24gb", "48gb", "141gb")


@dataclass
class Case:
    """What was measured of a preset; None where it could not be."""

    preset: str
    compiled: bool
    online: bool
    outcome: str = "measured"
    seconds_per_prompt: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    """Median seconds of the parts of an update of two micro-batches at most."""
    first_seconds: float | None = None
    """The first update, with compilation and the allocator's warming up."""
    tflop_per_prompt: float | None = None
    tflops: float | None = None
    """Operations done per second, recomputation counted in, / 1e12."""
    utilisation: float | None = None
    """Of the peak that the maker names."""
    floor_per_prompt: float | None = None
    """Seconds at the share of the peak that large matrix products reach."""
    predicted_gib: float | None = None
    """`srpo.forecast.cost`: bytes in use at the peak."""
    allocated_gib: float | None = None
    """Bytes in use at the peak."""
    reserved_gib: float | None = None
    """What the allocator held at the peak."""


def measure(case: Case, bench: Bench, cost: Cost, updates: int) -> None:
    """Run a case: one update to warm up, the timed ones, and the memory of all."""
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    case.first_seconds = sum(update(bench, case.online).values())
    runs = [update(bench, case.online) for _ in range(updates)]
    case.parts = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
    bench.clock.parts.update(case.parts)
    case.seconds_per_prompt = bench.seconds_per_prompt
    work = (cost.rollout if case.online else 0) + cost.gradient
    work /= bench.config.train.batch_size * bench.config.train.accumulation * 1e12
    case.tflop_per_prompt, case.tflops = work, work / case.seconds_per_prompt
    if bench.device.type == "cuda" and (peak := peak_of(torch.cuda.get_device_name(bench.device))):
        case.utilisation, case.floor_per_prompt = case.tflops / peak, work / (peak * REACHABLE)
    case.allocated_gib, case.reserved_gib = memory(bench, case.online)


def peak_of(name: str) -> float | None:
    """TFLOP/s of the device of that name, if `srpo.gpus` knows it."""
    known = [key for key in GPUS if all(part in name for part in key.split("-"))]
    return GPUS[max(known, key=len)].peak if known else None


def run_preset(size: Size, preset: str, device: torch.device, kinds: tuple[bool, ...], updates: int) -> list[Case]:
    """Online and offline, for each kind (eager first): one model, built once."""
    config = config_of(size, preset)
    cost = predict(size, config)
    cases = [Case(preset, compiled, online) for compiled in kinds for online in (True, False)]
    bench = None
    for case in cases:
        case.predicted_gib = cost.phases["train"] / 2**30
        try:
            bench = bench or build(size, config, device)
            if case.compiled:
                speed_up(bench.model.transformer, TrainConfig(compile=True))
            measure(case, bench, cost, updates)
        except (ImportError, torch.OutOfMemoryError) as error:
            case.outcome = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            if bench is not None:
                bench.optimizer.zero_grad(set_to_none=True)
    del bench
    gc.collect()
    return cases


def show(cases: list[Case], title: str) -> None:
    """The table."""
    names = (
        "s / prompt",
        "floor s",
        "first s",
        "TFLOP/s",
        "of peak",
        "GiB predicted",
        "with allocator",
        "used",
        "held",
    )
    table = Table("preset", "kernels", "images", *names, "outcome", title=title)
    for case in cases:
        predicted = case.predicted_gib
        numbers = (
            case.seconds_per_prompt,
            case.floor_per_prompt,
            case.first_seconds,
            case.tflops,
            case.utilisation,
            predicted,
            None if predicted is None else predicted * ALLOCATOR,
            case.allocated_gib,
            case.reserved_gib,
        )
        table.add_row(
            case.preset,
            "compiled" if case.compiled else "eager",
            "online" if case.online else "offline",
            *("-" if number is None else f"{number:.3g}" for number in numbers),
            case.outcome,
        )
    Console(width=180).print(table)


def main(
    preset: Annotated[list[str] | None, typer.Option(help="Name in configs/hardware; may be repeated.")] = None,
    compile: Annotated[bool, typer.Option(help="Also measure compiled blocks.")] = True,
    updates: Annotated[int, typer.Option(min=1, help="Timed updates of each case.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Measure, print the table."""
    gpu = torch.cuda.is_available()
    size, device = (FULL, torch.device("cuda")) if gpu else (SMALL, torch.device("cpu"))
    where = torch.cuda.get_device_name(device) if gpu else "no GPU here: the small form on the CPU, no promise for one"
    title, kinds = f"{size.name}; {where}", (False, True) if compile else (False,)
    cases = [case for name in preset or PRESETS for case in run_preset(size, name, device, kinds, updates)]
    show(cases, title)
    if out is not None:
        out.write_text(json.dumps({"what": title, "cases": [asdict(case) for case in cases]}, indent=1), "utf-8")


if __name__ == "__main__":
    typer.run(main)
