"""Methods side by side on a truthful and on a biased reward, at equal work: `python benchmarks/methods.py --out DIR`.

Every variant learns "Bright" on the embedded world from the same base, prompts and noise, for as many updates as cost
what `--updates` of SRPO's two branches do (forwards of the transformer, counted by `srpo.forecast`). What it gained and
lost is read from held-out pictures by measurements that no reward takes part in: luminance, the oracle's content, the
spread between pictures, saturation, and the chequer that the reward's patches invite. The biased reward likes saturated
pictures whatever the text says.

Writes `results.json` and `front.svg` into the folder; a run that is there already is not repeated.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from accelerate import Accelerator
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from srpo.artifacts import PromptSets, TrainJob, Weights
from srpo.config import RunConfig, load_config
from srpo.files import write_atomic
from srpo.forecast.price import price
from srpo.prompts import embed_prompts
from srpo.record import HELD_OUT, read_journal
from srpo.train import reproducible, train
from srpo.weights import fetch_weights

CONFIG = Path(__file__).parent.parent / "configs" / "shapes.yaml"
STILL = "train.jitter=0"
REFERENCE = (STILL, "preference.margin=0.7", "preference.content_anchor=0")
VARIANTS: dict[str, tuple[str, ...]] = {
    "srpo": (*REFERENCE, "align.branches=[denoise, inversion]"),
    "srpo, denoise alone": (*REFERENCE, "align.branches=[denoise]"),
    "srpo, inversion alone": (*REFERENCE, "align.branches=[inversion]"),
    "srpo, denoise and anchor": (
        *(STILL, "align.branches=[denoise]"),
        *("preference.content_anchor=2", "preference.margin=0.5"),
    ),
    "srpo, denoise and jitter": (*REFERENCE, "align.branches=[denoise]", "train.jitter=4"),
    "srpo, as the demo": (),
    "direct_align": (STILL, "method={name: direct_align, word: Bright}"),
    "direct_align and jitter": ("train.jitter=4", "method={name: direct_align, word: Bright}"),
    "refl": (STILL, "method={name: refl, word: Bright}"),
    "draft_lv": (STILL, "method={name: draft_lv, word: Bright}"),
}
"""Variant -> what it changes in shapes.yaml."""
REWARDS = ("builtin:shapes", "builtin:shapes-biased")
MEASUREMENTS = 6
"""Of each run, evenly over its updates."""
LOSSES = {
    "content": "content right",
    "spread": "spread of luminance",
    "saturation": "saturation",
    "grid/8": "chequer of 8 px",
}
Run = dict[str, Any]


def settings(variant: str, source: str, seed: int, num_updates: int, extra: Sequence[str]) -> RunConfig:
    """The run file of a variant; `num_updates` is rounded up to whole measurements."""
    every = max(1, -(-num_updates // MEASUREMENTS))
    updates = every * -(-num_updates // every)
    return load_config(
        CONFIG,
        (
            *VARIANTS[variant],
            *(f"reward.source={source}", f"seed={seed}", f"train.num_updates={updates}", "monitor.bounds=[]"),
            *(f"train.save_every={every}", f"monitor.every={every}", "train.keep_last=1", *extra),
        ),
    )


def work(config: RunConfig) -> float:
    """Forwards of the transformer that an image of an update costs, whatever the GPU."""
    return price(config, "H100").forward_equivalents


def run(config: RunConfig, folder: Path, prompts: PromptSets, weights: Weights) -> float:
    """Train, or go on training; seconds of it."""
    folder.mkdir(parents=True, exist_ok=True)
    job = TrainJob(config=config, weights=weights, prompts=prompts, output_dir=str(folder))
    started = time.perf_counter()
    if not (folder / "result.json").exists():
        with reproducible(config.train):
            train(job, Accelerator(cpu=True))
    return time.perf_counter() - started


def compare(
    out: Path, num_updates: int, num_seeds: int, variants: Sequence[str], extra: Sequence[str] = ()
) -> Iterator[Run]:
    """Variants on both rewards; runs of the same seed draw the same prompts and noise."""
    base = settings("srpo", REWARDS[0], 0, num_updates, extra)
    most = work(base)
    forwards = {variant: work(settings(variant, REWARDS[0], 0, num_updates, extra)) for variant in variants}
    sources = {
        source: fetch_weights(base.model, base.reward.model_copy(update={"source": source}), {}, {})
        for source in REWARDS
    }
    prompts = embed_prompts(base.model, base.prompts, sources[REWARDS[0]], out / "embeddings")
    for seed in range(num_seeds):
        for source, weights in sources.items():
            for variant, cost in forwards.items():
                config = settings(variant, source, seed, round(num_updates * most / cost), extra)
                name = f"{source.removeprefix('builtin:')}-{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
                seconds = run(config, out / "runs" / name, prompts, weights)
                yield {
                    "reward": source,
                    "variant": variant,
                    "seed": seed,
                    "num_updates": config.train.num_updates,
                    "forwards_per_image": cost,
                    "seconds": seconds,
                    "measurements": read_journal(out / "runs" / name / HELD_OUT),
                }


def path_of(runs: Sequence[Run], metric: str) -> list[tuple[float, float]]:
    """(change of the metric, luminance gained) at each measurement, mean over the seeds of one variant."""
    points = zip(*(_changes(run["measurements"], metric) for run in runs), strict=True)
    return [(mean(x for x, _ in at), mean(y for _, y in at)) for at in points]


def _changes(measurements: Sequence[dict[str, float]], metric: str) -> list[tuple[float, float]]:
    base = measurements[0]
    return [(entry[metric] - base[metric], entry["luminance"] - base["luminance"]) for entry in measurements]


def front(runs: Sequence[Run]) -> Figure:
    """Luminance gained against what was lost: a row for each reward, a line for each variant, a dot where it ends."""
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    panels = figure.subplots(len(REWARDS), len(LOSSES), sharey="row", squeeze=False)
    for source, row in zip(REWARDS, panels, strict=True):
        row[0].set_ylabel(f"luminance gained by {source.removeprefix('builtin:')}")
        for metric, axes in zip(LOSSES, row, strict=True):
            axes.set_xlabel(f"change of {LOSSES[metric]}")
            axes.grid(alpha=0.3)
            for colour, variant in enumerate(VARIANTS):
                here = [run for run in runs if (run["reward"], run["variant"]) == (source, variant)]
                if here:
                    path = zip(*path_of(here, metric), strict=True)
                    axes.plot(*path, color=f"C{colour}", marker="o", markevery=[-1], label=variant)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def table(runs: Sequence[Run]) -> Table:
    """Change of every measurement from the base to the end, and the standard deviation over the seeds."""
    shown = Table("reward", "variant", "seeds", "luminance", *LOSSES)
    for source in REWARDS:
        for variant in VARIANTS:
            ends = [run["measurements"] for run in runs if (run["reward"], run["variant"]) == (source, variant)]
            if not ends:
                continue
            changes = {name: [end[-1][name] - end[0][name] for end in ends] for name in ("luminance", *LOSSES)}
            cells = [f"{mean(values):+.3f} ± {pstdev(values):.3f}" for values in changes.values()]
            shown.add_row(source.removeprefix("builtin:"), variant, str(len(ends)), *cells)
    return shown


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=72, help="of SRPO's two branches (default 72)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each variant (default 5)")
    parser.add_argument("--only", action="append", choices=VARIANTS, help="one of the variants; may be given again")
    parser.add_argument("--set", action="append", default=[], help="a setting for all runs, as for `run`")
    options = parser.parse_args()
    runs: list[Run] = []
    variants = options.only or list(VARIANTS)
    for done in compare(options.out.resolve(), options.updates, options.seeds, variants, options.set):
        runs.append(done)
        last = done["measurements"][-1]
        figures = "  ".join(f"{name} {last[name]:.3f}" for name in ("luminance", *LOSSES))
        print(
            f"{done['reward']} {done['variant']} {done['seed']}: {done['num_updates']} updates, {figures}", flush=True
        )
        write_atomic(options.out / "results.json", json.dumps(runs, indent=1))
    front(runs).savefig(options.out / "front.svg")
    Console().print(table(runs))


if __name__ == "__main__":
    main()
