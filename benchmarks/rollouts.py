"""What cheaper rollouts save, and what training achieves with them, on the Shapes model.

    python benchmarks/rollouts.py [--seeds 2] [--out rollouts.json]

Each lever trains the demo's model with the recipe's 25 rollout steps, through the product's own loop, seeds
interleaved. Forwards are counted per image and update, a backward as two. Seconds are CPU seconds of this process: a
busy machine disturbs them, though less than wall time. The default runs with twice as many seeds: what it differs by
from seed to seed is what a lever's effect has to exceed.
"""

import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from srpo.artifacts import Trained, TrainJob
from srpo.config import RolloutConfig, RunConfig, load_config
from srpo.flow import num_evaluations, shifted_sigmas
from srpo.launch import prepare_job
from srpo.models import load_model
from srpo.prompts import load_prompt_set
from srpo.record import read_journal
from srpo.rollout import roll_out, sample, seeded_noise
from srpo.train import reproducible, train

CONFIG = Path(__file__).parent.parent / "configs" / "shapes.yaml"
NUM_UPDATES = 13
"""The first is not timed: of the 12 others every second, or every fourth, has rollouts of its own."""
COMMON = (
    "preference.margin=0.5",
    "preference.content_anchor=2",
    "train.jitter=0",
    "rollout.num_steps=25",
    "train.batch_size=4",
    "train.learning_rate=3e-5",
    f"train.num_updates={NUM_UPDATES}",
    f"train.save_every={NUM_UPDATES}",
    f"monitor.every={NUM_UPDATES}",
    "monitor.num_images=60",
)
LORA = ("train.lora={rank: 16, alpha: 16}", "train.learning_rate=1.5e-3")
DEFAULT, ADAPTER = "default: 25 Euler steps", "LoRA, as above"
NUM_COMPARED = 16
"""Images whose x0 is compared."""


@dataclass(frozen=True)
class Lever:
    """One way to make rollouts cheaper."""

    name: str
    kind: str
    overrides: tuple[str, ...] = ()
    beside: str = DEFAULT
    """What it is compared with."""


LEVERS = (
    Lever(DEFAULT, "-"),
    Lever("12 Euler steps", "lossy", ("rollout.num_steps=12",)),
    Lever("8 Euler steps", "lossy", ("rollout.num_steps=8",)),
    Lever("12 steps of ab2", "lossy", ("rollout.num_steps=12", "rollout.solver=ab2")),
    Lever("8 steps of ab2", "lossy", ("rollout.num_steps=8", "rollout.solver=ab2")),
    Lever("8 steps of dpmpp_2m", "lossy", ("rollout.num_steps=8", "rollout.solver=dpmpp_2m")),
    Lever("6 steps of heun", "lossy", ("rollout.num_steps=6", "rollout.solver=heun")),
    Lever("precision bf16", "lossy", ("rollout.precision=bf16",)),
    Lever("reuse 2", "lossy", ("rollout.reuse=2",)),
    Lever("reuse 4", "lossy", ("rollout.reuse=4",)),
    Lever("num_injections 2", "lossy", ("align.num_injections=2",)),
    Lever(ADAPTER, "-", LORA, beside=ADAPTER),
    Lever("LoRA, merge_lora", "exact", (*LORA, "rollout.merge_lora=true"), beside=ADAPTER),
)


@dataclass
class Result:
    """What a lever was measured to do, one entry per seed."""

    lever: Lever
    seconds: list[float] = field(default_factory=list)
    """CPU seconds per update."""
    relative: list[float] = field(default_factory=list)
    """Held-out relative reward after the last update."""
    luminance: list[float] = field(default_factory=list)
    """Held-out luminance after the last update."""
    error: float = 0.0
    """|x0 - x0 of the lever it is compared with|, relative, same weights and noise."""
    from_the_end: float = 0.0
    """|x0 - where the flow leads|, relative."""


def config_of(lever: Lever, seed: int = 0) -> RunConfig:
    """The run of a lever."""
    return load_config(CONFIG, (*COMMON, *lever.overrides, f"seed={seed}"))


def train_once(job: TrainJob, result: Result, seed: int, folder: Path) -> Trained:
    """Train by a lever and note time and outcome."""
    job = job.model_copy(update={"config": config_of(result.lever, seed), "output_dir": str(folder)})
    folder.mkdir()
    steps: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(time.process_time()))
    with reproducible(job.config.train):
        trained = train(job, Accelerator(cpu=True))
    handle.remove()
    measured = read_journal(folder / "heldout.jsonl")[-1]
    result.seconds.append((steps[-1] - steps[0]) / (len(steps) - 1))
    result.relative.append(measured["relative"])
    result.luminance.append(measured["luminance"])
    return trained


def compare_x0(job: TrainJob, results: list[Result], adapter: Path) -> None:
    """Roll out by every lever from the same weights and noise, and note how far apart the latents are."""
    embeddings = load_prompt_set(job.prompts.train)[1].select(range(NUM_COMPARED))
    for group in (DEFAULT, ADAPTER):
        model = load_model(job.config.model, job.weights.model.path, adapter if group == ADAPTER else None)
        noise = seeded_noise(model.latent_shape(job.config.model.height, job.config.model.width), range(NUM_COMPARED))
        plain = RolloutConfig(num_steps=25)
        default = roll_out(model, embeddings, noise, plain)
        end = sample(model, embeddings, noise, shifted_sigmas(100, plain.shift), plain.guidance, "heun")
        for result in (result for result in results if result.lever.beside == group):
            x0 = roll_out(model, embeddings, noise, config_of(result.lever).rollout)
            result.error, result.from_the_end = distance(x0, default), distance(x0, end)


def distance(x0: Tensor, other: Tensor) -> float:
    """Norm of the difference, relative to the other."""
    return float((x0 - other).norm() / other.norm())


def run(seeds: int, folder: Path, out: Path | None) -> list[Result]:
    """All levers and seeds; `out` is written after each training, in case the last never comes."""
    results = [Result(lever) for lever in LEVERS]
    job = TrainJob.load(prepare_job(config_of(LEVERS[0]), folder / "job"))
    plan = [(seed, result) for seed in range(seeds) for result in results]
    plan += [(seed, result) for seed in range(seeds, 2 * seeds) for result in results if result.lever.name == DEFAULT]
    adapter = Path()
    for number, (seed, result) in enumerate(track(plan, "training")):
        trained = train_once(job, result, seed, folder / f"{number}")
        adapter = trained.transformer.path if result.lever.name == ADAPTER else adapter
        save(results, out)
    compare_x0(job, results, adapter)
    save(results, out)
    return results


def save(results: list[Result], out: Path | None) -> None:
    """The numbers as JSON."""
    if out is not None:
        out.write_text(json.dumps([asdict(result) for result in results], indent=1), encoding="utf-8")


def forwards(config: RunConfig) -> float:
    """Work of an update per image, in forwards of the transformer; nothing is computed again."""
    rollout = num_evaluations(config.rollout.solver, config.rollout.num_steps) / config.rollout.reuse
    return rollout + 3 * len(config.align.branches) * config.align.num_injections


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{statistics.mean(values):.3f} +- {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def show(results: list[Result]) -> None:
    """The table."""
    mean = {result.lever.name: statistics.mean(result.seconds) for result in results}
    table = Table(
        "lever", "kind", "forwards", "CPU-s / update", "ratio", "relative", "luminance", "x0 off by", "x0 from the end"
    )
    for result in results:
        table.add_row(
            result.lever.name,
            result.lever.kind,
            f"{forwards(config_of(result.lever)):g}",
            f"{mean[result.lever.name]:.3f}",
            f"{mean[result.lever.name] / mean[result.lever.beside]:.2f}",
            spread(result.relative),
            spread(result.luminance),
            f"{result.error:.1e}",
            f"{result.from_the_end:.1e}",
        )
    Console(width=160).print(table)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per lever; the default gets twice as many.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Train by every lever, compare rollouts, print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        show(run(seeds, Path(folder), out))


if __name__ == "__main__":
    typer.run(main)
